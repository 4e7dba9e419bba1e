"""Vectors of 16 float32 or float64 for Numba, and the register tiles made of them. Nothing here knows convolutions.

Plain Numba loops reach a third of the machine's speed at best, because the tile of accumulators does not stay in
registers. Here a `Vec` is an LLVM <16 x float>, whatever the machine's registers: one on AVX-512, two on AVX2, four on NEON.
Arrays are addressed by element from their first one, whatever their strides: `load(a, i)` reads a.base[i : i + 16].
No instruction carries a fast-math flag, so LLVM keeps each operation as it is written.
"""

import functools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
_f32, _f64, _i32, _i64 = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64)
_vec = ir.VectorType(_f32, LANES)
_vec64 = ir.VectorType(_f64, LANES)
_index = types.intp


class Vec(types.Type):
    """16 float32."""

    def __init__(self):
        super().__init__(name="f32x16")


class Vec64(types.Type):
    """16 float64."""

    def __init__(self):
        super().__init__(name="f64x16")


vec, vec64 = Vec(), Vec64()


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _vec)


@register_model(Vec64)
class _Vec64Model(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _vec64)


# ---- code generation shared by the intrinsics ------------------------------------------------------------------------


def _address(context, builder, array_type, array, i):
    """A pointer to element i counted from the array's first."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [i])


def _load(builder, pointer):
    value = builder.load(builder.bitcast(pointer, _vec.as_pointer()))
    value.align = 4
    return value


def _store(builder, pointer, value):
    instruction = builder.store(value, builder.bitcast(pointer, _vec.as_pointer()))
    instruction.align = 4


def _splat(builder, scalar, vector_type=_vec):
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, _i32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_i32, LANES), [0] * LANES))


def _fma(builder):
    kind = ir.FunctionType(_vec, [_vec] * 3)
    return cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.v16f32")


def _pairs(builder, x, y, k):
    """Elements k, k + 2, ... of x followed by y."""
    mask = ir.Constant(ir.VectorType(_i32, LANES), list(range(k, 2 * LANES, 2)))
    return builder.shuffle_vector(x, y, mask)


def _lane_tree(builder, vectors):
    """Vector j's lanes summed by adjacent pairs, as lane j of the result; fewer than 16 vectors count as zeros behind."""
    zero = ir.Constant(_vec, None)
    vectors = vectors + [zero] * (LANES - len(vectors))
    while len(vectors) > 1:
        vectors = [
            zero if x is zero and y is zero else builder.fadd(_pairs(builder, x, y, 0), _pairs(builder, x, y, 1))
            for x, y in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


def _binary(kind, operation):
    @intrinsic
    def function(typing, x, y):
        return kind(kind, kind), lambda c, builder, s, v: getattr(builder, operation)(*v)

    return function


def _select(kind, comparison):
    @intrinsic
    def function(typing, a, b, x, y):
        def generate(c, builder, s, v):
            return builder.select(builder.fcmp_ordered(comparison, v[0], v[1]), v[2], v[3])

        return kind(kind, kind, kind, kind), generate

    return function


# ---- float32 vectors ----------------------------------------------------------------------------------------------------

add, subtract, multiply = _binary(vec, "fadd"), _binary(vec, "fsub"), _binary(vec, "fmul")
divide = _binary(vec, "fdiv")
where_greater = _select(vec, ">")  # where_greater(a, b, x, y): a > b ? x : y
where_equal = _select(vec, "==")


@intrinsic
def load(typing, a, i):
    return vec(a, _index), lambda c, b, s, v: _load(b, _address(c, b, s.args[0], v[0], v[1]))


@intrinsic
def store(typing, a, i, x):
    def generate(context, builder, s, v):
        _store(builder, _address(context, builder, s.args[0], v[0], v[1]), v[2])
        return context.get_dummy_value()

    return types.void(a, _index, vec), generate


@intrinsic
def element(typing, a, i):
    """a.base[i]."""
    return a.dtype(a, _index), lambda c, b, s, v: b.load(_address(c, b, s.args[0], v[0], v[1]))


@intrinsic
def splat(typing, x):
    return vec(types.float32), lambda c, b, s, v: _splat(b, v[0])


@intrinsic
def fma(typing, x, y, z):
    return vec(vec, vec, vec), lambda c, b, s, v: b.call(_fma(b), v)


@intrinsic
def sqrt(typing, x):
    """Correctly rounded."""

    def generate(context, builder, s, v):
        kind = ir.FunctionType(_vec, [_vec])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.sqrt.v16f32"), v)

    return vec(vec), generate


@intrinsic
def lane_numbers(typing):
    """(0, 1, ..., 15)."""
    return vec(), lambda c, b, s, v: ir.Constant(_vec, [float(k) for k in range(LANES)])


@intrinsic
def load_integers(typing, a, i):
    """16 int32 as float32, exact below 2**24."""

    def generate(context, builder, s, v):
        kind = ir.VectorType(_i32, LANES)
        pointer = builder.bitcast(_address(context, builder, s.args[0], v[0], v[1]), kind.as_pointer())
        value = builder.load(pointer)
        value.align = 4
        return builder.sitofp(value, _vec)

    return vec(a, _index), generate


@intrinsic
def scalar_fma(typing, x, y, z):
    """float32 x * y + z, rounded once."""

    def generate(context, builder, s, v):
        kind = ir.FunctionType(_f32, [_f32] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.f32"), v)

    return types.float32(types.float32, types.float32, types.float32), generate


@functools.cache
def keep_first_of(count: int):
    """keep_first(acc, n): a tuple of `count` vectors with their lanes from n on set to +0."""
    lanes_type = ir.VectorType(_i32, LANES)
    accumulators = types.UniTuple(vec, count)

    @intrinsic
    def keep_first(typing, acc, n):
        def generate(context, builder, s, v):
            acc, n = v
            limit = builder.insert_element(ir.Constant(lanes_type, ir.Undefined), builder.trunc(n, _i32), _i32(0))
            limit = builder.shuffle_vector(limit, limit, ir.Constant(lanes_type, [0] * LANES))
            present = builder.icmp_signed("<", ir.Constant(lanes_type, list(range(LANES))), limit)
            for t in range(count):
                value = builder.select(present, builder.extract_value(acc, t), ir.Constant(_vec, None))
                acc = builder.insert_value(acc, value, t)
            return acc

        return accumulators(accumulators, _index), generate

    return keep_first


@intrinsic
def transpose(typing, a, i, a_row, b, j, b_row):
    """b.base[j + c * b_row + r] = a.base[i + r * a_row + c] for r, c < 16."""

    def generate(context, builder, s, v):
        source = _address(context, builder, s.args[0], v[0], v[1])
        target = _address(context, builder, s.args[3], v[3], v[4])
        rows = [_load(builder, builder.gep(source, [builder.mul(v[2], _i64(r))])) for r in range(LANES)]
        # Four rounds of the perfect shuffle: row r and row r + 8 interleave into rows 2r and 2r + 1.
        low = ir.Constant(ir.VectorType(_i32, LANES), [x for k in range(8) for x in (k, k + LANES)])
        high = ir.Constant(ir.VectorType(_i32, LANES), [x for k in range(8, 16) for x in (k, k + LANES)])
        for _ in range(4):
            rows = [
                builder.shuffle_vector(rows[r], rows[r + 8], mask) for r in range(LANES // 2) for mask in (low, high)
            ]
        for r, row in enumerate(rows):
            _store(builder, builder.gep(target, [builder.mul(v[5], _i64(r))]), row)
        return context.get_dummy_value()

    return types.void(a, _index, _index, b, _index, _index), generate


# ---- float64 vectors, for statistics -----------------------------------------------------------------------------------

add64, subtract64, multiply64 = _binary(vec64, "fadd"), _binary(vec64, "fsub"), _binary(vec64, "fmul")
divide64 = _binary(vec64, "fdiv")
where_greater64 = _select(vec64, ">")
where_less64 = _select(vec64, "<")


def _bits(builder, x):
    return builder.bitcast(x, ir.VectorType(_i64, LANES))


def _constant_bits(value: int):
    return ir.Constant(ir.VectorType(_i64, LANES), [value] * LANES)


@intrinsic
def power_of_two(typing, n):
    """2**n, built from exponent bits, for whole numbers n in [-1022, 1023]."""

    def generate(context, builder, s, v):
        exponent = builder.fptosi(v[0], ir.VectorType(_i64, LANES))
        bits = builder.shl(builder.add(exponent, _constant_bits(1023)), _constant_bits(52))
        return builder.bitcast(bits, _vec64)

    return vec64(vec64), generate


# log takes x = m * 2**e with m in [sqrt(1/2), sqrt(2)): these are the bits of sqrt(1/2).
_SQRT_HALF = 0x3FE6A09E667F3BCD


@intrinsic
def exponent_of(typing, x):
    """e of x = m * 2**e."""

    def generate(context, builder, s, v):
        u = builder.sub(_bits(builder, v[0]), _constant_bits(_SQRT_HALF))
        return builder.sitofp(builder.ashr(u, _constant_bits(52)), _vec64)

    return vec64(vec64), generate


@intrinsic
def mantissa_of(typing, x):
    """m of x = m * 2**e."""

    def generate(context, builder, s, v):
        u = builder.sub(_bits(builder, v[0]), _constant_bits(_SQRT_HALF))
        fraction = builder.and_(u, _constant_bits((1 << 52) - 1))
        return builder.bitcast(builder.add(fraction, _constant_bits(_SQRT_HALF)), _vec64)

    return vec64(vec64), generate


@intrinsic
def narrow(typing, x):
    """float64 to float32, rounded to nearest even."""
    return vec(vec64), lambda c, b, s, v: b.fptrunc(v[0], _vec)


@intrinsic
def load64(typing, a, i):
    def generate(context, builder, s, v):
        pointer = builder.bitcast(_address(context, builder, s.args[0], v[0], v[1]), _vec64.as_pointer())
        value = builder.load(pointer)
        value.align = 8
        return value

    return vec64(a, _index), generate


@intrinsic
def store64(typing, a, i, x):
    def generate(context, builder, s, v):
        pointer = builder.bitcast(_address(context, builder, s.args[0], v[0], v[1]), _vec64.as_pointer())
        builder.store(v[2], pointer).align = 8
        return context.get_dummy_value()

    return types.void(a, _index, vec64), generate


@intrinsic
def widen(typing, x):
    """float32 to float64."""
    return vec64(vec), lambda c, b, s, v: b.fpext(v[0], _vec64)


@intrinsic
def splat64(typing, x):
    return vec64(types.float64), lambda c, b, s, v: _splat(b, v[0], _vec64)


@intrinsic
def tree64(typing, x, n):
    """The first n lanes of x summed by adjacent pairs; the others count as +0."""

    def generate(context, builder, s, v):
        zero = ir.Constant(_f64, 0.0)
        values = []
        for lane in range(LANES):
            present = builder.icmp_signed("<", _i64(lane), v[1])
            values.append(builder.select(present, builder.extract_element(v[0], _i32(lane)), zero))
        while len(values) > 1:
            values = [builder.fadd(x, y) for x, y in zip(values[::2], values[1::2], strict=True)]
        return values[0]

    return types.float64(vec64, _index), generate


# ---- register tiles -----------------------------------------------------------------------------------------------------


@functools.cache
def zeros_of(count: int):
    """zeros() -> a tuple of `count` vectors of +0."""

    @intrinsic
    def zeros(typing):
        return types.UniTuple(vec, count)(), lambda c, b, s, v: ir.Constant(ir.ArrayType(_vec, count), None)

    return zeros


@functools.cache
def broadcast_tile(rows: int, columns: int):
    """Two steps of a tile acc[i * columns + j] = fma(x_j, w_i, acc[i * columns + j]), w_i one float for all lanes.

    `step(acc, w, wi, w_row, x, xi, x_column)`: w_i = w.base[wi + i * w_row], x_j = x.base[xi + j * x_column].
    `edge_step(..., column, stride, width)`: x_j is zero, and its address never read, unless
    0 <= column + j * stride < width.
    """
    accumulators = types.UniTuple(vec, rows * columns)

    def tile(context, builder, s, v, read):
        acc, w, wi, w_row, x, xi, x_column = v[:7]
        weights = _address(context, builder, s.args[1], w, wi)
        pixels = _address(context, builder, s.args[4], x, xi)
        origin = _address(context, builder, s.args[4], x, _i64(0))
        fma_of = _fma(builder)
        xs = [read(builder, builder.gep(pixels, [builder.mul(x_column, _i64(j))]), origin, j) for j in range(columns)]
        for i in range(rows):
            weight = _splat(builder, builder.load(builder.gep(weights, [builder.mul(w_row, _i64(i))])))
            for j, xj in enumerate(xs):
                t = i * columns + j
                acc = builder.insert_value(acc, builder.call(fma_of, [xj, weight, builder.extract_value(acc, t)]), t)
        return acc

    @intrinsic
    def step(typing, acc, w, wi, w_row, x, xi, x_column):
        def generate(context, builder, s, v):
            return tile(context, builder, s, v, lambda b, pointer, origin, j: _load(b, pointer))

        return accumulators(accumulators, w, _index, _index, x, _index, _index), generate

    @intrinsic
    def edge_step(typing, acc, w, wi, w_row, x, xi, x_column, column, stride, width):
        def generate(context, builder, s, v):
            def read(b, pointer, origin, j):
                inside = b.icmp_unsigned("<", b.add(v[7], b.mul(v[8], _i64(j))), v[9])
                value = _load(b, b.select(inside, pointer, origin))
                return b.select(inside, value, ir.Constant(_vec, None))

            return tile(context, builder, s, v, read)

        kind = accumulators(accumulators, w, _index, _index, x, _index, _index, _index, _index, _index)
        return kind, generate

    return step, edge_step


@functools.cache
def product_tile(rows: int, channels: int, taps: int):
    """Two steps of a tile acc[(i * channels + c) * taps + t] = fma(d_i, x_ct, acc[...]), all of them vectors.

    `step(acc, d, di, d_row, x, xi, x_channel, x_tap)`: d_i = d.base[di + i * d_row] and
    x_ct = x.base[xi + c * x_channel + t * x_tap]. `edge_step(..., column, dilation, width)`: x_ct is zero, and its
    address never read, unless 0 <= column + t * dilation < width.
    """
    accumulators = types.UniTuple(vec, rows * channels * taps)

    def tile(context, builder, s, v, read):
        acc, d, di, d_row, x, xi, x_channel, x_tap = v[:8]
        gradients = _address(context, builder, s.args[1], d, di)
        pixels = _address(context, builder, s.args[4], x, xi)
        origin = _address(context, builder, s.args[4], x, _i64(0))
        fma_of = _fma(builder)
        xs = []
        for c in range(channels):
            base = builder.gep(pixels, [builder.mul(x_channel, _i64(c))])
            for t in range(taps):
                xs.append(read(builder, builder.gep(base, [builder.mul(x_tap, _i64(t))]), origin, t))
        for i in range(rows):
            gradient = _load(builder, builder.gep(gradients, [builder.mul(d_row, _i64(i))]))
            for j, xj in enumerate(xs):
                k = i * len(xs) + j
                acc = builder.insert_value(acc, builder.call(fma_of, [gradient, xj, builder.extract_value(acc, k)]), k)
        return acc

    @intrinsic
    def step(typing, acc, d, di, d_row, x, xi, x_channel, x_tap):
        def generate(context, builder, s, v):
            return tile(context, builder, s, v, lambda b, pointer, origin, t: _load(b, pointer))

        return accumulators(accumulators, d, _index, _index, x, _index, _index, _index), generate

    @intrinsic
    def edge_step(typing, acc, d, di, d_row, x, xi, x_channel, x_tap, column, dilation, width):
        def generate(context, builder, s, v):
            def read(b, pointer, origin, t):
                inside = b.icmp_unsigned("<", b.add(v[8], b.mul(v[9], _i64(t))), v[10])
                value = _load(b, b.select(inside, pointer, origin))
                return b.select(inside, value, ir.Constant(_vec, None))

            return tile(context, builder, s, v, read)

        kind = accumulators(accumulators, d, _index, _index, x, _index, _index, _index, _index, _index, _index)
        return kind, generate

    return step, edge_step


@functools.cache
def lane_trees_of(count: int):
    """`lane_tree(acc, k)`: lane j of the result is vector 16 * k + j of the tuple, its lanes summed by adjacent pairs."""

    def tree_of(k):
        @intrinsic
        def lane_tree(typing, acc):
            def generate(context, builder, s, v):
                last = min(count, (k + 1) * LANES)
                return _lane_tree(builder, [builder.extract_value(v[0], t) for t in range(k * LANES, last)])

            return vec(acc), generate

        return lane_tree

    return tuple(tree_of(k) for k in range(-(-count // LANES)))
