"""Vectors of 16 float32 or float64 for Numba.

A `Vec` is an LLVM <16 x float>, whatever the machine's registers: one on AVX-512, two on AVX2, four on NEON.
Arrays are addressed by element from their first one, whatever their strides: `load(a, i)` reads a.base[i : i + 16].
No instruction carries a fast-math flag, so LLVM keeps each operation as it is written.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
_f32, _f64, _i32, _i64 = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64)
_vec, _half = ir.VectorType(_f32, LANES), ir.VectorType(_f32, LANES // 2)
_vec64 = ir.VectorType(_f64, LANES)
_index = types.intp


class Vec(types.Type):
    """16 float32."""

    def __init__(self):
        super().__init__(name="f32x16")


class Half(types.Type):
    """8 float32, half of a Vec, which fill a register of AVX2."""

    def __init__(self):
        super().__init__(name="f32x8")


class Vec64(types.Type):
    """16 float64."""

    def __init__(self):
        super().__init__(name="f64x16")


vec, half, vec64 = Vec(), Half(), Vec64()


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _vec)


@register_model(Half)
class _HalfModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _half)


@register_model(Vec64)
class _Vec64Model(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _vec64)


# ---- code generation shared by the intrinsics ------------------------------------------------------------------------


def _address(context, builder, array_type, array, i):
    """A pointer to element i counted from the array's first."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [i])


def _load(builder, pointer, kind=_vec):
    value = builder.load(builder.bitcast(pointer, kind.as_pointer()))
    value.align = 4
    return value


def _store(builder, pointer, value):
    instruction = builder.store(value, builder.bitcast(pointer, _vec.as_pointer()))
    instruction.align = 4


def _splat(builder, scalar, vector_type=_vec):
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, _i32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_i32, LANES), [0] * LANES))


def _fma(builder, vector_type=_vec):
    kind = ir.FunctionType(vector_type, [vector_type] * 3)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{vector_type.count}f32")


# Rounds of a tree over lanes: neighbors among pieces of so many lanes are added within so many lanes, and what becomes
# of two vectors goes into one. Registers are shuffled fastest within four lanes, so the first rounds stay there.
_LANE_ROUNDS, _PAIR_ROUNDS = ((1, 4), (1, 4), (4, LANES), (4, LANES)), ((2, 4), (4, LANES), (4, LANES))


def _tree(builder, vectors, rounds):
    zero = ir.Constant(_vec, None)
    vectors = vectors + [zero] * (2 ** len(rounds) - len(vectors))
    for size, within in rounds:
        even, odd = (
            ir.Constant(
                ir.VectorType(_i32, LANES),
                [
                    lane + k
                    for start in range(0, LANES, within)
                    for vector in (0, LANES)
                    for lane in range(vector + start + first, vector + start + within, 2 * size)
                    for k in range(size)
                ],
            )
            for first in (0, size)
        )
        vectors = [
            zero
            if x is zero and y is zero
            else builder.fadd(builder.shuffle_vector(x, y, even), builder.shuffle_vector(x, y, odd))
            for x, y in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


def _lane_tree(builder, vectors):
    """Vector j's lanes summed by adjacent pairs, as lane j of the result;
    fewer than 16 vectors count as zeros behind.
    """
    return _tree(builder, vectors, _LANE_ROUNDS)


def _pair_tree(builder, vectors):
    """Vector j's lanes of either parity summed by adjacent images, as lanes 2j and 2j + 1 of the result; fewer than 8
    vectors count as zeros behind.
    """
    return _tree(builder, vectors, _PAIR_ROUNDS)


def _splat_pair(builder, pointer):
    """The two floats at `pointer`, eight times over."""
    pair = builder.load(builder.bitcast(pointer, _f64.as_pointer()))
    pair.align = 4
    undefined = ir.Constant(ir.VectorType(_f64, LANES // 2), ir.Undefined)
    first = builder.insert_element(undefined, pair, _i32(0))
    eight = ir.Constant(ir.VectorType(_i32, LANES // 2), [0] * (LANES // 2))
    return builder.bitcast(builder.shuffle_vector(first, undefined, eight), _vec)


def _shuffle(lanes):
    """An intrinsic of two vectors x and y: their lanes, y's counted from 16 on, in this order."""

    @intrinsic
    def function(typing, x, y):
        def generate(context, builder, s, v):
            return builder.shuffle_vector(*v, ir.Constant(ir.VectorType(_i32, LANES), lanes))

        return vec(vec, vec), generate

    return function


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


# ---- float32 vectors -------------------------------------------------------------------------------------------------

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
def load_between(typing, a, i, low, high):
    """a.base[i : i + 16] in the lanes from `low` to `high` - 1 and +0 in the others, which are not read."""

    def generate(context, builder, s, v):
        lanes, mask = ir.VectorType(_i64, LANES), ir.VectorType(ir.IntType(1), LANES)
        pointer = builder.bitcast(_address(context, builder, s.args[0], v[0], v[1]), _vec.as_pointer())
        numbers = ir.Constant(lanes, list(range(LANES)))
        above = builder.icmp_signed(">=", numbers, _splat(builder, v[2], lanes))
        inside = builder.and_(above, builder.icmp_signed("<", numbers, _splat(builder, v[3], lanes)))
        kind = ir.FunctionType(_vec, [_vec.as_pointer(), _i32, mask, _vec])
        masked = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.load.v16f32.p0")
        return builder.call(masked, [pointer, _i32(4), inside, ir.Constant(_vec, None)])

    return vec(a, _index, _index, _index), generate


@intrinsic
def prefetch(typing, a, i):
    """Ask for the cache line of a.base[i]; no fault, whatever i."""

    def generate(context, builder, s, v):
        pointer = builder.bitcast(_address(context, builder, s.args[0], v[0], v[1]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), _i32, _i32, _i32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, _i32(0), _i32(3), _i32(1)])  # a read, to all caches, of data
        return context.get_dummy_value()

    return types.void(a, _index), generate


@intrinsic
def element(typing, a, i):
    """a.base[i]."""
    return a.dtype(a, _index), lambda c, b, s, v: b.load(_address(c, b, s.args[0], v[0], v[1]))


@intrinsic
def put(typing, a, i, x):
    """a.base[i] = x."""

    def generate(context, builder, s, v):
        builder.store(v[2], _address(context, builder, s.args[0], v[0], v[1]))
        return context.get_dummy_value()

    return types.void(a, _index, a.dtype), generate


@intrinsic
def splat(typing, x):
    return vec(types.float32), lambda c, b, s, v: _splat(b, v[0])


@intrinsic
def splat_pair(typing, a, i):
    """(a.base[i], a.base[i + 1]) eight times."""
    return vec(a, _index), lambda c, b, s, v: _splat_pair(b, _address(c, b, s.args[0], v[0], v[1]))


# Two channels of 8 images in one vector: channel 0 and 1 of image 0, of image 1, and so on.
interleave = _shuffle([x for k in range(LANES // 2) for x in (k, LANES + k)])
first_of_pairs, second_of_pairs = _shuffle(list(range(0, 2 * LANES, 2))), _shuffle(list(range(1, 2 * LANES, 2)))


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


# ---- float64 vectors, for statistics ---------------------------------------------------------------------------------

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


@intrinsic
def fma64(typing, x, y, z):
    def generate(context, builder, s, v):
        kind = ir.FunctionType(_vec64, [_vec64] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.v16f64"), v)

    return vec64(vec64, vec64, vec64), generate


@intrinsic
def absolute64(typing, x):
    def generate(context, builder, s, v):
        kind = ir.FunctionType(_vec64, [_vec64])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.fabs.v16f64"), v)

    return vec64(vec64), generate


@intrinsic
def power_in_low_bits(typing, x):
    """2**n where x = 1.5 * 2**52 + n, for whole numbers n in [-1022, 1023]."""

    def generate(context, builder, s, v):
        exponent = builder.shl(_bits(builder, v[0]), _constant_bits(52))
        return builder.bitcast(builder.add(exponent, _constant_bits(1023 << 52)), _vec64)

    return vec64(vec64), generate


@intrinsic
def identical(typing, x, y):
    """Whether all lanes of two float32 vectors have the same bits."""

    def generate(context, builder, s, v):
        kind = ir.VectorType(_i32, LANES)
        same = builder.icmp_signed("==", *(builder.bitcast(value, kind) for value in v))
        return builder.icmp_signed("==", builder.bitcast(same, ir.IntType(LANES)), ir.IntType(LANES)(-1))

    return types.boolean(vec, vec), generate


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
        numbers = ir.Constant(ir.VectorType(_i64, LANES), list(range(LANES)))
        there = builder.icmp_signed("<", numbers, _splat(builder, v[1], numbers.type))
        values, width = builder.select(there, v[0], ir.Constant(_vec64, None)), LANES
        while width > 1:
            undefined, width = ir.Constant(values.type, ir.Undefined), width // 2
            masks = [ir.Constant(ir.VectorType(_i32, width), list(range(k, 2 * width, 2))) for k in (0, 1)]
            values = builder.fadd(*(builder.shuffle_vector(values, undefined, mask) for mask in masks))
        return builder.extract_element(values, _i32(0))

    return types.float64(vec64, _index), generate
