"""Whether memory holds what it held before.

Each of 16 lanes of four streams keeps two hashes of the words that it sees, 32 bits each: a multiplication by an odd
number and a rotation a word. No step loses anything, so one changed word is always noticed. Changes of several words
go unnoticed if both hashes of every lane and stream that saw one come out as before: a chance of 2**-64 at most.
"""

from gpucnn.kernels.numba.addresses import mask_before, masked_load, pointer
from gpucnn.kernels.numba.register_tiles import _loop
from gpucnn.kernels.numba.simd import LANES, _i32, _i64
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

STREAMS = 4
_words = ir.VectorType(_i32, LANES)
_STEP = 4 * LANES  # bytes
FINGERPRINT = 2 * STREAMS * _STEP  # bytes
# Odd numbers, as in xxHash, and how far to rotate.
_FACTORS, _TURNS = (0x9E3779B1, 0x85EBCA77), (15, 13)


def _every(value: int):
    return ir.Constant(_words, [value] * LANES)


def _mixed(builder, hashes, words):
    """Both hashes of a stream after 16 more words."""
    kind = ir.FunctionType(_words, [_words] * 3)
    rotate = cgutils.get_or_insert_function(builder.module, kind, "llvm.fshl.v16i32")
    sums = builder.xor(hashes[0], words), builder.add(hashes[1], words)
    products = [builder.mul(x, _every(factor)) for x, factor in zip(sums, _FACTORS, strict=True)]
    return [builder.call(rotate, [x, x, _every(turn)]) for x, turn in zip(products, _TURNS, strict=True)]


@intrinsic
def is_new(typing, first, size, known):
    """Whether `size` bytes from the address `first` on have another fingerprint than is stored at `known`, which is
    replaced; `known` is zero before the first call. `size` is a multiple of 4.
    """

    def generate(context, builder, s, v):
        first, size, known = v

        def load(b, offset):
            words = b.load(pointer(b, b.add(first, offset), _words))
            words.align = 4
            return words

        def four(b, i, hashes):
            at = b.mul(i, _i64(STREAMS * _STEP))
            mixed = [_mixed(b, hashes[2 * k : 2 * k + 2], load(b, b.add(at, _i64(k * _STEP)))) for k in range(STREAMS)]
            return [x for pair in mixed for x in pair]

        fours = builder.udiv(size, _i64(STREAMS * _STEP))
        hashes = _loop(builder, fours, [_every(k + 1) for k in range(2 * STREAMS)], four)
        done = builder.mul(fours, _i64(STREAMS * _STEP))
        whole = builder.udiv(builder.sub(size, done), _i64(_STEP))

        def one(b, i, hashes):
            return _mixed(b, hashes, load(b, b.add(done, b.mul(i, _i64(_STEP)))))

        hashes[:2] = _loop(builder, whole, hashes[:2], one)
        done = builder.add(done, builder.mul(whole, _i64(_STEP)))
        mask = mask_before(builder, builder.udiv(builder.sub(size, done), _i64(4)))
        rest = masked_load(builder, pointer(builder, builder.add(first, done)), mask)
        hashes[:2] = _mixed(builder, hashes[:2], builder.bitcast(rest, _words))
        places = [pointer(builder, builder.add(known, _i64(k * _STEP)), _words) for k in range(2 * STREAMS)]
        differences = [builder.xor(builder.load(place), x) for place, x in zip(places, hashes, strict=True)]
        while len(differences) > 1:
            differences = [builder.or_(x, y) for x, y in zip(differences[::2], differences[1::2], strict=True)]
        kind = ir.FunctionType(_i32, [_words])
        collect = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.or.v16i32")
        changed = builder.icmp_unsigned("!=", builder.call(collect, differences), _i32(0))
        for place, x in zip(places, hashes, strict=True):
            builder.store(x, place)
        return changed

    return types.boolean(types.int64, types.int64, types.int64), generate
