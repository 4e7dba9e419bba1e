"""Arguments of a kernel in memory, where any thread can read them without Python.

A table of int64 holds them one after the other: an array as its address, its shape and its strides in bytes, a number
in the low bytes of one slot, a tuple as its elements.
"""

import ctypes
import functools
from array import array as array_of

import numpy as np
from gpucnn.kernels.numba.addresses import pointer
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

_i64 = ir.IntType(64)
_BITS = {np.dtype(np.float32): np.int32, np.dtype(np.float64): np.int64, np.dtype(np.uint64): np.int64}


# NumPy's PyArrayInterface, which __array_struct__ gives: a quarter of the time of array.ctypes.data.
_struct_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_address_at = ctypes.c_size_t.from_address
_DATA = 40  # bytes into it


def address(array: np.ndarray) -> int:
    """Where the array's values begin."""
    capsule = array.__array_struct__  # the structure lives as long as it does
    return _address_at(_struct_of(capsule, None) + _DATA).value


def table(arguments) -> array_of:
    """int64: `arguments` as `unpacked` reads them; arrays are not copied, so they must stay."""
    slots: list[int] = []
    for argument in arguments:
        _append(slots, argument)
    return array_of("q", slots or [0])


def _append(slots: list[int], argument) -> None:
    if isinstance(argument, np.ndarray):
        slots.append(address(argument))
        slots += argument.shape
        slots += argument.strides
    elif isinstance(argument, tuple):
        for element in argument:
            _append(slots, element)
    elif isinstance(argument, (bool, int, np.bool_)):
        slots.append(int(argument))
    else:
        number = np.asarray(argument)
        slots.append(int(number.view(_BITS.get(number.dtype, number.dtype))))


@functools.cache
def unpacked_of(signature: tuple):
    """`unpacked(address)`: the tuple of the arguments of these types from the table at `address`."""
    everything = types.Tuple(signature)

    @intrinsic
    def unpacked(typing, address):
        def generate(context, builder, s, v):
            number = 0

            def word(kind=_i64):
                nonlocal number
                place = builder.gep(pointer(builder, v[0], _i64), [_i64(number)])
                number += 1
                return builder.load(builder.bitcast(place, kind.as_pointer()))

            def load(kind):
                if isinstance(kind, types.Array):
                    array = context.make_array(kind)(context, builder)
                    data = builder.inttoptr(word(), context.get_data_type(kind.dtype).as_pointer())
                    shape, strides = [word() for _ in range(kind.ndim)], [word() for _ in range(kind.ndim)]
                    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
                    populate_array(array, data, shape, strides, _i64(size), None)
                    return array._getvalue()
                if isinstance(kind, types.BaseTuple):
                    return context.make_tuple(builder, kind, [load(element) for element in kind])
                if isinstance(kind, types.Boolean):
                    return builder.icmp_signed("!=", word(), _i64(0))
                return word(context.get_value_type(kind))

            return context.make_tuple(builder, everything, [load(kind) for kind in signature])

        return everything(types.int64), generate

    return unpacked
