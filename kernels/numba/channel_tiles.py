"""Register tiles in which 16 output channels ride in a vector, for images whose channels lie in blocks of 16.

A tile is `vectors` by `pixels` accumulators in registers. Its pixels are any: each has an address of its own, and what
a term of the dot product reads is an offset from that address, from a table that all pixels share. So one machine code
serves every kernel size, stride, dilation, number of axes and layout of the input.
"""

import functools

from gpucnn.kernels.numba.addresses import mask_before, masked_load, pointer
from gpucnn.kernels.numba.register_tiles import _loop
from gpucnn.kernels.numba.simd import LANES, _fma, _i32, _i64, _load, _splat, _store, _vec
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_i8, _f32 = ir.IntType(8), ir.FloatType()
_zero = ir.Constant(_vec, None)


def _offset(builder, offsets, k):
    """Byte offset of term k, from its int32 in the table."""
    return builder.sext(builder.load(builder.gep(offsets, [k])), _i64)


def _at(builder, base, offset, kind):
    return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())


@functools.cache
def broadcast_of(vectors: int, pixels: int):
    """`run(terms, offsets, weights, places, target)`: acc[i][j] = fma(x_jk, w_ik, acc[i][j]) for k < terms, in order.

    x_jk is the float at places[j] + offsets[k], w_ik the vector at weights + (k * vectors + i) * 64. The accumulators
    begin at +0 and end at target + (i * pixels + j) * 64.
    """
    many = types.UniTuple(types.int64, pixels)

    @intrinsic
    def run(typing, terms, offsets, weights, places, target):
        def generate(context, builder, s, v):
            terms, offsets, weights, places, target = v
            offsets, weights = pointer(builder, offsets, _i32), pointer(builder, weights, _vec)
            bases = [pointer(builder, builder.extract_value(places, j), _i8) for j in range(pixels)]

            def step(b, k, values):
                offset, fma_of, values = _offset(b, offsets, k), _fma(b), list(values)
                first = b.mul(k, _i64(vectors))
                ws = [_load(b, b.gep(weights, [b.add(first, _i64(i))])) for i in range(vectors)]
                for j, base in enumerate(bases):
                    x = _splat(b, b.load(_at(b, base, offset, _f32)))
                    for i, w in enumerate(ws):
                        values[i * pixels + j] = b.call(fma_of, [x, w, values[i * pixels + j]])
                return values

            values = _loop(builder, terms, [_zero] * (vectors * pixels), step)
            room = pointer(builder, target, _vec)
            for t, value in enumerate(values):
                _store(builder, builder.gep(room, [_i64(t)]), value)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, many, types.int64), generate

    return run


@functools.cache
def lanewise_of(pixels: int):
    """The same where each channel sees only itself: `run(terms, offsets, weights, places, target)`.

    acc[j] = fma(x_jk, w_k, acc[j]), x_jk being the vector at places[j] + offsets[k] and w_k that at weights + k * 64.
    """
    many = types.UniTuple(types.int64, pixels)

    @intrinsic
    def run(typing, terms, offsets, weights, places, target):
        def generate(context, builder, s, v):
            terms, offsets, weights, places, target = v
            offsets, weights = pointer(builder, offsets, _i32), pointer(builder, weights, _vec)
            bases = [pointer(builder, builder.extract_value(places, j), _i8) for j in range(pixels)]

            def step(b, k, values):
                offset, fma_of = _offset(b, offsets, k), _fma(b)
                w = _load(b, b.gep(weights, [k]))
                xs = [_load(b, _at(b, base, offset, _f32)) for base in bases]
                return [b.call(fma_of, [x, w, value]) for x, value in zip(xs, values, strict=True)]

            room = pointer(builder, target, _vec)
            for t, value in enumerate(_loop(builder, terms, [_zero] * pixels, step)):
                _store(builder, builder.gep(room, [_i64(t)]), value)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, many, types.int64), generate

    return run


@functools.cache
def places_of(count: int):
    """`places(base, table)`: base + each of the first `count` int32 of the table."""

    @intrinsic
    def places(typing, base, table):
        def generate(context, builder, s, v):
            offsets = pointer(builder, v[1], _i32)
            found = ir.Constant(ir.ArrayType(_i64, count), ir.Undefined)
            for j in range(count):
                found = builder.insert_value(found, builder.add(v[0], _offset(builder, offsets, _i64(j))), j)
            return found

        return types.UniTuple(types.int64, count)(types.int64, types.int64), generate

    return places


@functools.cache
def rows_of(count: int):
    """`rows(first, stride, last)`: first, first + stride ...: `count` addresses, none past `last`."""

    @intrinsic
    def rows(typing, first, stride, last):
        def generate(context, builder, s, v):
            at, stride, last = v
            found = ir.Constant(ir.ArrayType(_i64, count), ir.Undefined)
            for r in range(count):
                within = builder.select(builder.icmp_signed("<", at, last), at, last)
                found, at = builder.insert_value(found, within, r), builder.add(at, stride)
            return found

        return types.UniTuple(types.int64, count)(types.int64, types.int64, types.int64), generate

    return rows


def _transposed(builder, rows):
    """16 vectors, turned: vector c holds element c of each."""
    low = ir.Constant(ir.VectorType(_i32, LANES), [x for k in range(8) for x in (k, k + LANES)])
    high = ir.Constant(ir.VectorType(_i32, LANES), [x for k in range(8, 16) for x in (k, k + LANES)])
    for _ in range(4):
        rows = [builder.shuffle_vector(rows[r], rows[r + 8], mask) for r in range(LANES // 2) for mask in (low, high)]
    return rows


@intrinsic
def turn(typing, rows, columns, target, stride):
    """The first `columns` floats at each of 16 addresses, turned: vector c at target + c * stride, for c < columns.

    `columns` is 16 at most.
    """

    def generate(context, builder, s, v):
        rows, columns, target, stride = v
        places = [pointer(builder, builder.extract_value(rows, r), _f32) for r in range(LANES)]
        target = pointer(builder, target, _i8)

        whole = builder.icmp_signed(">=", columns, _i64(LANES))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                for c, vector in enumerate(_transposed(builder, [_load(builder, place) for place in places])):
                    _store(builder, _at(builder, target, builder.mul(stride, _i64(c)), _f32), vector)
            with otherwise:
                mask = mask_before(builder, columns)
                vectors = _transposed(builder, [masked_load(builder, place, mask) for place in places])
                for c in range(LANES - 1):
                    with builder.if_then(builder.icmp_signed("<", _i64(c), columns)):
                        _store(builder, _at(builder, target, builder.mul(stride, _i64(c)), _f32), vectors[c])
        return context.get_dummy_value()

    many = types.UniTuple(types.int64, LANES)
    return types.void(many, types.int64, types.int64, types.int64), generate


@functools.cache
def turning_of(groups: int, images: int):
    """Dot products with weights as they lie, each read once: what pays where few images share them.

    `run(terms, offsets, rows, places, target)` with 16 * groups addresses of rows of `terms` floats, the weights of one
    output each: acc[g][j] = fma(x_jk, w_gk, acc[g][j]) for k < terms, in order. w_gk holds float k of rows 16 * g to
    16 * g + 15, x_jk is the float at places[j] + offsets[k]. The accumulators begin at +0 and end at
    target + (g * images + j) * 64. The offsets' table is filled up to a multiple of 16 with any valid offset.
    """
    rows_type, many = types.UniTuple(types.int64, LANES * groups), types.UniTuple(types.int64, images)

    @intrinsic
    def run(typing, terms, offsets, rows, places, target):
        def generate(context, builder, s, v):
            terms, offsets, rows, places, target = v
            offsets = pointer(builder, offsets, _i32)
            lines = [pointer(builder, builder.extract_value(rows, r), _i8) for r in range(LANES * groups)]
            bases = [pointer(builder, builder.extract_value(places, j), _i8) for j in range(images)]

            def block(b, first, values, read):
                fma_of, values = _fma(b), list(values)
                across = b.mul(first, _i64(4))
                for g in range(groups):
                    turned = _transposed(
                        b, [read(b, _at(b, line, across, _f32)) for line in lines[g * LANES : (g + 1) * LANES]]
                    )
                    for k in range(LANES):
                        offset = _offset(b, offsets, b.add(first, _i64(k)))
                        for j, base in enumerate(bases):
                            x = _splat(b, b.load(_at(b, base, offset, _f32)))
                            t = g * images + j
                            values[t] = b.call(fma_of, [x, turned[k], values[t]])
                return values

            whole = builder.sdiv(terms, _i64(LANES))
            values = [_zero] * (groups * images)
            values = _loop(builder, whole, values, lambda b, n, vs: block(b, b.mul(n, _i64(LANES)), vs, _load))
            done = builder.mul(whole, _i64(LANES))
            rest = builder.sub(terms, done)
            some = builder.zext(builder.icmp_signed(">", rest, _i64(0)), _i64)
            mask = mask_before(builder, rest)
            # Zero weights in the place of those past the end leave the sums as they are.
            values = _loop(
                builder, some, values, lambda b, n, vs: block(b, done, vs, lambda b, at: masked_load(b, at, mask))
            )
            room = pointer(builder, target, _vec)
            for t, value in enumerate(values):
                _store(builder, builder.gep(room, [_i64(t)]), value)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, rows_type, many, types.int64), generate

    return run
