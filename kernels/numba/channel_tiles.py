"""Register tiles in which 16 output channels ride in a vector, for images whose channels lie in blocks of 16.

A tile is `vectors` by `pixels` accumulators in registers. Its pixels are any: each has an address of its own, and what
a term of the dot product reads is an offset from that address, from a table that all pixels share. So one machine code
serves every kernel size, stride, dilation, number of axes and layout of the input. A tile ends with what follows the
sums, while they are in registers.
"""

import functools

from gpucnn.kernels.numba.addresses import mask_before, masked_load, pointer
from gpucnn.kernels.numba.register_tiles import _loop
from gpucnn.kernels.numba.simd import LANES, _fma, _half, _i32, _i64, _load, _splat, _store, _vec
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_i8, _f32 = ir.IntType(8), ir.FloatType()

_zero = ir.Constant(_vec, None)

# What a tile is told of its end, all int64: addresses and strides in bytes. CONSTANTS has five vectors for each vector
# of the tile: bias, mean, 1 / deviation, gamma, beta. POOL pixels that follow one another make a window.
KNOWN, BIAS, NORM, RELU, POOL, Y, Y_BLOCK, RESULTS, ADDEND, ADDEND_BLOCK, ADDEND_PLACES = range(11)
ends_type = types.UniTuple(types.int64, 11)
CONSTANTS = 5


def _offset(builder, offsets, k):
    """Number k of a table of int32."""
    return builder.sext(builder.load(builder.gep(offsets, [k])), _i64)


def _at(builder, base, offset, kind=_f32):
    return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())


def _shuffle(builder, x, y, mask):
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_i32, len(mask)), mask))


# ---- the end of a tile -----------------------------------------------------------------------------------------------


def _if(builder, condition, values, body):
    """body(builder, values) where the int64 `condition` is not 0, else the values as they are."""
    before = builder.block
    then, after = builder.append_basic_block("then"), builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed("!=", condition, _i64(0)), then, after)
    builder.position_at_end(then)
    changed, last = body(builder, values), builder.block
    last = builder.block
    builder.branch(after)
    builder.position_at_end(after)
    results = []
    for value, other in zip(values, changed, strict=True):
        result = builder.phi(value.type)
        result.add_incoming(value, before)
        result.add_incoming(other, last)
        results.append(result)
    return results


def _finish(builder, values, pixels, ends):
    """Bias, batch norm, addition and ReLU of the sums, then the maxima of windows, put where they belong."""
    end = [builder.extract_value(ends, k) for k in range(ends_type.count)]
    known = pointer(builder, end[KNOWN], _vec)
    results, addends = pointer(builder, end[RESULTS], _i32), pointer(builder, end[ADDEND_PLACES], _i32)
    for i in range(len(values) // pixels):
        bias, mean, inverse, gamma, beta = (builder.gep(known, [_i64(i * CONSTANTS + k)]) for k in range(CONSTANTS))

        def shifted(builder, values, bias=bias):
            b = _load(builder, bias)
            return [builder.fadd(v, b) for v in values]

        def unsigned(builder, values):
            return [builder.fadd(v, _zero) for v in values]

        def normalised(builder, values, mean=mean, inverse=inverse, gamma=gamma, beta=beta):
            m, n, g, s = (_load(builder, place) for place in (mean, inverse, gamma, beta))
            scaled = [builder.fmul(builder.fsub(v, m), n) for v in values]
            return [builder.call(_fma(builder), [g, v, s]) for v in scaled]

        def added(builder, values, i=i):
            first = builder.add(end[ADDEND], builder.mul(end[ADDEND_BLOCK], _i64(i)))
            first = pointer(builder, first, _i8)
            places = [_at(builder, first, _offset(builder, addends, _i64(j))) for j in range(pixels)]
            return [builder.fadd(v, _load(builder, place)) for v, place in zip(values, places, strict=True)]

        def rectified(builder, values):
            return [builder.select(builder.fcmp_ordered(">", v, _zero), v, _zero) for v in values]

        mine = _if(builder, end[BIAS], values[i * pixels : (i + 1) * pixels], shifted)
        # ReLU makes +0 of either zero, and in between the sign of a zero changes nothing else.
        mine = _if(builder, builder.zext(builder.icmp_signed("==", end[RELU], _i64(0)), _i64), mine, unsigned)
        mine = _if(builder, end[NORM], mine, normalised)
        mine = _if(builder, end[ADDEND], mine, added)
        mine = _if(builder, end[RELU], mine, rectified)
        y = pointer(builder, builder.add(end[Y], builder.mul(end[Y_BLOCK], _i64(i))), _i8)

        def put(builder, pool, values=mine, y=y):
            for w in range(pixels // pool):
                best = values[w * pool]
                for v in values[w * pool + 1 : (w + 1) * pool]:
                    best = builder.select(builder.fcmp_ordered(">", v, best), v, best)
                _store(builder, _at(builder, y, _offset(builder, results, _i64(w))), best)

        for pool in (1, 2, 4, 8):
            if pixels % pool == 0:
                with builder.if_then(builder.icmp_signed("==", end[POOL], _i64(pool))):
                    put(builder, pool)


# ---- sums ------------------------------------------------------------------------------------------------------------


def _term(builder, terms, k):
    """(offset of x, offset of the weights) of term k: the low and high halves of its int64."""
    both = builder.load(builder.gep(terms, [k]))
    return builder.sext(builder.trunc(both, _i32), _i64), builder.ashr(both, _i64(32))


@functools.cache
def broadcast_of(vectors: int, places: int, together: int = 1, apart: int = 0):
    """`run(count, terms, weights, x, table, ends)`: acc[i][j] = fma(x_jk, w_ik, acc[i][j]) for the terms in order.

    Term k is an int64, two int32: x_jk is the float at x + place j + its low half, w_ik vector i at weights + its high
    half. The `places` int32 of the table each stand for `together` pixels that are `apart` bytes from each other. The
    accumulators begin at +0.
    """
    pixels = places * together

    @intrinsic
    def run(typing, count, terms, weights, x, table, ends):
        def generate(context, builder, s, v):
            count, terms, weights, x, table, ends = v
            terms, weights = pointer(builder, terms, _i64), pointer(builder, weights, _i8)
            table, x = pointer(builder, table, _i32), pointer(builder, x, _i8)
            bases = [builder.gep(x, [_offset(builder, table, _i64(j))]) for j in range(places)]

            def step(b, k, values):
                (offset, w_offset), fma_of, values = _term(b, terms, k), _fma(b), list(values)
                w = _at(b, weights, w_offset, _vec)
                ws = [_load(b, b.gep(w, [_i64(i)])) for i in range(vectors)]
                for j, base in enumerate(bases):
                    first = b.gep(base, [offset])
                    for t in range(together):
                        x = _splat(b, b.load(_at(b, first, _i64(t * apart))))
                        for i, w in enumerate(ws):
                            place = i * pixels + j * together + t
                            values[place] = b.call(fma_of, [x, w, values[place]])
                return values

            _finish(builder, _loop(builder, count, [_zero] * (vectors * pixels), step), pixels, ends)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5, ends_type), generate

    return run


@functools.cache
def sliding_of(places: int, together: int, taps: int, apart: int):
    """The same for one vector of channels and whole kernel rows: a term of `terms` stands for `taps` terms.

    They are `apart` bytes from each other, as the pixels are, and have weights that follow one another, so a float that
    several taps of several pixels see is loaded once.
    """
    pixels = places * together

    @intrinsic
    def run(typing, count, terms, weights, x, table, ends):
        def generate(context, builder, s, v):
            count, terms, weights, x, table, ends = v
            terms, weights = pointer(builder, terms, _i64), pointer(builder, weights, _i8)
            table, x = pointer(builder, table, _i32), pointer(builder, x, _i8)
            bases = [builder.gep(x, [_offset(builder, table, _i64(j))]) for j in range(places)]

            def step(b, k, values):
                (offset, w_offset), fma_of, values = _term(b, terms, k), _fma(b), list(values)
                w = _at(b, weights, w_offset, _vec)
                ws = [_load(b, b.gep(w, [_i64(t)])) for t in range(taps)]
                for j, base in enumerate(bases):
                    first = b.gep(base, [offset])
                    seen = range(together + taps - 1)
                    xs = [_splat(b, b.load(_at(b, first, _i64(t * apart)))) for t in seen]
                    for t, w in enumerate(ws):
                        for i in range(together):
                            place = j * together + i
                            values[place] = b.call(fma_of, [xs[i + t], w, values[place]])
                return values

            _finish(builder, _loop(builder, count, [_zero] * pixels, step), pixels, ends)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5, ends_type), generate

    return run


@functools.cache
def lanewise_of(pixels: int):
    """The same where each channel sees only itself: x_jk is the vector at x + place j + the low half of term k."""

    @intrinsic
    def run(typing, count, terms, weights, x, table, ends):
        def generate(context, builder, s, v):
            count, terms, weights, x, table, ends = v
            terms, weights = pointer(builder, terms, _i64), pointer(builder, weights, _i8)
            table, x = pointer(builder, table, _i32), pointer(builder, x, _i8)
            bases = [builder.gep(x, [_offset(builder, table, _i64(j))]) for j in range(pixels)]

            def step(b, k, values):
                (offset, w_offset), fma_of = _term(b, terms, k), _fma(b)
                w = _load(b, _at(b, weights, w_offset))
                xs = [_load(b, _at(b, base, offset)) for base in bases]
                return [b.call(fma_of, [x, w, value]) for x, value in zip(xs, values, strict=True)]

            _finish(builder, _loop(builder, count, [_zero] * pixels, step), pixels, ends)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5, ends_type), generate

    return run


# ---- weights as they lie ---------------------------------------------------------------------------------------------


@intrinsic
def rows(typing, first, stride, last):
    """first, first + stride ...: 16 addresses, none past `last`."""

    def generate(context, builder, s, v):
        at, stride, last = v
        found = ir.Constant(ir.ArrayType(_i64, LANES), ir.Undefined)
        for r in range(LANES):
            within = builder.select(builder.icmp_signed("<", at, last), at, last)
            found, at = builder.insert_value(found, within, r), builder.add(at, stride)
        return found

    return types.UniTuple(types.int64, LANES)(types.int64, types.int64, types.int64), generate


def _turned(builder, half_of):
    """16 vectors, turned: vector c holds element c of each; half_of(r, h) is elements 8h to 8h + 7 of vector r.

    Half vectors come from memory in pairs, so that the rest takes three shuffles a vector instead of four.
    """
    low, high = ([x + lane for lane in (0, 4, 8, 12) for x in pair] for pair in ((0, 16, 1, 17), (2, 18, 3, 19)))
    evens, odds = ([x + lane for lane in (0, 4, 8, 12) for x in pair] for pair in ((0, 1, 16, 17), (2, 3, 18, 19)))
    first = [*range(4), *range(8, 12), *range(16, 20), *range(24, 28)]
    second = [x + 4 for x in first]
    turned = [None] * LANES
    for h in range(2):
        quarters = []  # rows 0 to 7, then 8 to 15; [column][lane: rows and columns in fours]
        for base in (0, 8):
            pairs = [
                _shuffle(builder, half_of(base + r, h), half_of(base + r + 4, h), list(range(LANES))) for r in range(4)
            ]
            t = [_shuffle(builder, *two, mask) for two in (pairs[:2], pairs[2:]) for mask in (low, high)]
            quarters.append([_shuffle(builder, t[k], t[k + 2], mask) for k in (0, 1) for mask in (evens, odds)])
        for c, (upper, lower) in enumerate(zip(*quarters, strict=True)):
            turned[8 * h + c] = _shuffle(builder, upper, lower, first)
            turned[8 * h + c + 4] = _shuffle(builder, upper, lower, second)
    return turned


def _halves(builder, places):
    """half_of for `_turned` of vectors at addresses."""

    def half_of(r, h):
        value = builder.load(_at(builder, places[r], _i64(h * 32), _half))
        value.align = 4
        return value

    return half_of


def _halves_before(builder, places, mask):
    """The same with +0 outside a mask."""
    vectors = [masked_load(builder, place, mask) for place in places]
    return lambda r, h: _shuffle(builder, vectors[r], vectors[r], list(range(8 * h, 8 * h + 8)))


@intrinsic
def turn(typing, rows, columns, target, stride):
    """The first `columns` floats at each of 16 addresses, turned: vector c at target + c * stride, for c < columns.

    `columns` is 16 at most.
    """

    def generate(context, builder, s, v):
        rows, columns, target, stride = v
        places = [pointer(builder, builder.extract_value(rows, r), _i8) for r in range(LANES)]
        target = pointer(builder, target, _i8)
        with builder.if_else(builder.icmp_signed(">=", columns, _i64(LANES))) as (then, otherwise):
            with then:
                for c, vector in enumerate(_turned(builder, _halves(builder, places))):
                    _store(builder, _at(builder, target, builder.mul(stride, _i64(c))), vector)
            with otherwise:
                some = _halves_before(builder, places, mask_before(builder, columns))
                for c, vector in enumerate(_turned(builder, some)[:-1]):
                    with builder.if_then(builder.icmp_signed("<", _i64(c), columns)):
                        _store(builder, _at(builder, target, builder.mul(stride, _i64(c))), vector)
        return context.get_dummy_value()

    many = types.UniTuple(types.int64, LANES)
    return types.void(many, types.int64, types.int64, types.int64), generate


@functools.cache
def turning_of(groups: int, images: int):
    """Dot products with weights as they lie, each read once: what pays where few images share them.

    `run(count, terms, weights, row, last, x, table, ends)` for 16 * groups outputs with `count` weights each, from the
    address `weights` on, `row` bytes from one output's to the next: acc[g][j] = fma(x_jk, w_gk, acc[g][j]) for k <
    count, in order. w_gk holds weight k of outputs 16 * g to 16 * g + 15, x_jk is the float at x + place j + the low
    half of term k. The accumulators begin at +0. The table of terms is filled up to a multiple of 16 with any valid
    offset. With one group, no weights are read past those at `last`: that output is repeated.
    """

    @intrinsic
    def run(typing, count, terms, weights, row, last, x, table, ends):
        def generate(context, builder, s, v):
            count, terms, weights, row, last, x, table, ends = v
            terms, table, x = pointer(builder, terms, _i64), pointer(builder, table, _i32), pointer(builder, x, _i8)
            bases = [builder.gep(x, [_offset(builder, table, _i64(j))]) for j in range(images)]
            places = [builder.add(weights, builder.mul(row, _i64(r))) for r in range(LANES * groups)]
            if groups == 1:
                places = [builder.select(builder.icmp_signed("<", at, last), at, last) for at in places]
            lines = [pointer(builder, at, _i8) for at in places]
            with builder.goto_entry_block():
                room = builder.alloca(ir.ArrayType(_vec, LANES * groups))
                room.align = 64
            room = builder.bitcast(room, _vec.as_pointer())

            def turned(b, first, g, halves):
                across = b.mul(first, _i64(4))
                return _turned(b, halves(b, [b.gep(line, [across]) for line in lines[g * LANES : (g + 1) * LANES]]))

            def products(b, k, values, ws):
                """The products of term k."""
                offset, _ = _term(b, terms, k)
                fma_of, values = _fma(b), list(values)
                for j, base in enumerate(bases):
                    x = _splat(b, b.load(_at(b, base, offset)))
                    for g, w in ws:
                        values[g * images + j] = b.call(fma_of, [x, w, values[g * images + j]])
                return values

            def block(b, first, values, halves):
                """16 terms: from registers for few images, else by way of memory, so that all groups share each x."""
                for g in range(groups):
                    for k, w in enumerate(turned(b, first, g, halves)):
                        if images <= 2:
                            values = products(b, b.add(first, _i64(k)), values, [(g, w)])
                        else:
                            _store(b, b.gep(room, [_i64(k * groups + g)]), w)
                if images <= 2:
                    return values

                def step(b, k, values):
                    at = b.mul(k, _i64(groups))
                    ws = [(g, _load(b, b.gep(room, [b.add(at, _i64(g))]))) for g in range(groups)]
                    return products(b, b.add(first, k), values, ws)

                return _loop(b, _i64(LANES), values, step)

            whole = builder.sdiv(count, _i64(LANES))
            values = [_zero] * (groups * images)
            values = _loop(builder, whole, values, lambda b, n, vs: block(b, b.mul(n, _i64(LANES)), vs, _halves))
            done = builder.mul(whole, _i64(LANES))
            rest = builder.sub(count, done)
            some, mask = builder.icmp_signed(">", rest, _i64(0)), mask_before(builder, rest)
            # Zero weights in the place of those past the end leave the sums as they are.
            values = _loop(
                builder,
                builder.zext(some, _i64),
                values,
                lambda b, n, vs: block(b, done, vs, lambda b, places: _halves_before(b, places, mask)),
            )
            _finish(builder, values, images, ends)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7, ends_type), generate

    return run
