"""Memory by address, for kernels that find their arguments in a table instead of taking arrays.

An address is an int64 and counts bytes. A native kernel takes `(arguments, unit)`: the address of a table of int64, the
kernel's slots, and which unit of its work to do.
"""

from gpucnn.kernels.numba.simd import LANES, _i64, _index, _load, _store, _vec, _vec64, vec, vec64
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

VECTOR = 4 * LANES  # bytes
_f32, _i32 = ir.FloatType(), ir.IntType(32)
_callee = ir.FunctionType(ir.VoidType(), [_i64, _i64])


def pointer(builder, address, kind=_f32):
    """An LLVM pointer from an address."""
    return builder.inttoptr(address, kind.as_pointer())


@intrinsic
def slot(typing, address, i):
    """The int64 number i of the table at `address`."""

    def generate(context, builder, s, v):
        return builder.load(builder.gep(pointer(builder, v[0], _i64), [v[1]]))

    return types.int64(types.int64, _index), generate


@intrinsic
def offset_at(typing, address):
    """The int32 at `address`, as int64."""

    def generate(context, builder, s, v):
        return builder.sext(builder.load(pointer(builder, v[0], _i32)), _i64)

    return types.int64(types.int64), generate


@intrinsic
def float_at(typing, address):
    return types.float32(types.int64), lambda c, b, s, v: b.load(pointer(b, v[0]))


@intrinsic
def put_float(typing, address, x):
    def generate(context, builder, s, v):
        builder.store(v[1], pointer(builder, v[0]))
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), generate


@intrinsic
def put_slot(typing, address, i, x):
    """The int64 number i of the table at `address` becomes x."""

    def generate(context, builder, s, v):
        builder.store(v[2], builder.gep(pointer(builder, v[0], _i64), [v[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, _index, types.int64), generate


@intrinsic
def vector_at(typing, address):
    """The 16 floats at `address`."""
    return vec(types.int64), lambda c, b, s, v: _load(b, pointer(b, v[0]))


@intrinsic
def put_vector(typing, address, x):
    def generate(context, builder, s, v):
        _store(builder, pointer(builder, v[0]), v[1])
        return context.get_dummy_value()

    return types.void(types.int64, vec), generate


@intrinsic
def vector64_at(typing, address):
    """The 16 float64 at `address`."""

    def generate(context, builder, s, v):
        value = builder.load(pointer(builder, v[0], _vec64))
        value.align = 8
        return value

    return vec64(types.int64), generate


@intrinsic
def put_vector64(typing, address, x):
    def generate(context, builder, s, v):
        builder.store(v[1], pointer(builder, v[0], _vec64)).align = 8
        return context.get_dummy_value()

    return types.void(types.int64, vec64), generate


def mask_before(builder, count):
    """<16 x i1>, set in the first `count` lanes."""
    lanes = ir.VectorType(_i32, LANES)
    some = builder.insert_element(ir.Constant(lanes, ir.Undefined), builder.trunc(count, _i32), _i32(0))
    every = builder.shuffle_vector(some, some, ir.Constant(lanes, [0] * LANES))
    return builder.icmp_signed("<", ir.Constant(lanes, list(range(LANES))), every)


def masked_load(builder, place, mask):
    """The floats at `place` in the lanes of the mask, +0 in the others."""
    kind = ir.FunctionType(_vec, [_vec.as_pointer(), _i32, ir.VectorType(ir.IntType(1), LANES), _vec])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.load.v16f32.p0")
    arguments = builder.bitcast(place, _vec.as_pointer()), _i32(4), mask, ir.Constant(_vec, None)
    return builder.call(function, arguments)


@intrinsic
def floats_at(typing, address, count):
    """The first `count` floats at `address`, 16 at most, and +0 in the other lanes; nothing else is read."""

    def generate(context, builder, s, v):
        return masked_load(builder, pointer(builder, v[0]), mask_before(builder, v[1]))

    return vec(types.int64, types.int64), generate


@intrinsic
def put_floats(typing, address, count, x):
    """The first `count` floats at `address`, 16 at most, become those of x; nothing else is written."""

    def generate(context, builder, s, v):
        target, mask = pointer(builder, v[0], _vec), mask_before(builder, v[1])
        kind = ir.FunctionType(ir.VoidType(), [_vec, target.type, _i32, mask.type])
        store = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.store.v16f32.p0")
        builder.call(store, [v[2], target, _i32(4), mask])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, vec), generate


def stack_of(vectors: int):
    """`stack()`: the address of room for so many vectors in the frame of the function that calls it."""

    @intrinsic
    def stack(typing):
        def generate(context, builder, s, v):
            with builder.goto_entry_block():
                room = builder.alloca(ir.ArrayType(_vec, vectors))
                room.align = VECTOR
            return builder.ptrtoint(room, _i64)

        return types.int64(), generate

    return stack


# ---- what several threads share --------------------------------------------------------------------------------------


@intrinsic
def shared(typing, address):
    """The int64 at `address`, and everything that was written before it."""

    def generate(context, builder, s, v):
        return builder.load_atomic(pointer(builder, v[0], _i64), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def publish(typing, address, x):
    """The int64 at `address` becomes x, after everything that was written before."""

    def generate(context, builder, s, v):
        builder.store_atomic(v[1], pointer(builder, v[0], _i64), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def count_up(typing, address, n):
    """The int64 at `address` becomes n more, whoever else counts."""

    def generate(context, builder, s, v):
        builder.atomic_rmw("add", pointer(builder, v[0], _i64), v[1], "seq_cst")
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def swap(typing, address, x):
    """The int64 at `address` becomes x, before everything that is written afterwards."""

    def generate(context, builder, s, v):
        builder.atomic_rmw("xchg", pointer(builder, v[0], _i64), v[1], "seq_cst")
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def exchange(typing, address, expected, x):
    """Whether the int64 at `address` was as expected, and so became x."""

    def generate(context, builder, s, v):
        place = pointer(builder, v[0], _i64)
        return builder.extract_value(builder.cmpxchg(place, v[1], v[2], "seq_cst", "seq_cst"), 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


@intrinsic
def rest(typing):
    """Tell the processor that this is a loop that waits."""

    def generate(context, builder, s, v):
        if "x86" in builder.module.triple or "amd64" in builder.module.triple:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        elif "aarch64" in builder.module.triple or "arm64" in builder.module.triple:
            # Its yield does nothing on most; this takes about as long as a pause, by which waits are counted.
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            barrier = cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.isb")
            builder.call(barrier, [ir.IntType(32)(15)])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def cycles(typing):
    """A clock counter, some 2 to 4 a nanosecond."""

    def generate(context, builder, s, v):
        kind = ir.FunctionType(_i64, [])
        if "aarch64" in builder.module.triple or "arm64" in builder.module.triple:
            # Only the kernel may read the cycle counter; the timer has tens of ticks a microsecond, or a thousand. By
            # name: for inline assembly llvmlite has no parser ready.
            read = ir.FunctionType(_i64, [ir.MetaDataType()])
            read = cgutils.get_or_insert_function(builder.module, read, "llvm.read_volatile_register.i64")
            names = "cntvct_el0", "cntfrq_el0"
            ticks, rate = (builder.call(read, [builder.module.add_metadata([name])]) for name in names)
            return builder.mul(ticks, builder.udiv(_i64(3_000_000_000), rate))
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter"), [])

    return types.int64(), generate


@intrinsic
def call(typing, function, arguments, unit):
    """Call a native kernel by its address."""

    def generate(context, builder, s, v):
        builder.call(builder.inttoptr(v[0], _callee.as_pointer()), [v[1], v[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate
