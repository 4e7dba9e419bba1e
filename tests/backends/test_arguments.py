"""Arguments of kernels in memory (kernels/numba/arguments.py)."""

import os
import subprocess
import sys

import numpy as np
import pytest
from gpucnn.kernels.numba.arguments import address, table

VALUES = np.arange(240, dtype=np.float32).reshape(2, 3, 4, 10)
ARRAYS = {
    "whole": VALUES,
    "a part": VALUES[1:, 1:, ::2, 3:],
    "backwards": VALUES[::-1, :, ::-1],
    "other axes": VALUES.T,
    "no axis": VALUES[1, 2, 3, 4, ...],
    "nothing": VALUES[:0],
    "doubles": VALUES.astype(np.float64)[1],
    "bytes": VALUES.astype(np.uint8)[0, 1:],
    "in a memoryview": np.asarray(memoryview(VALUES)[1:]),
    "not writable": np.broadcast_to(VALUES[0, 0, 0], (5, 10)),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_is_its_address_shape_and_strides(kind):
    array = ARRAYS[kind]
    assert address(array) == array.ctypes.data
    assert list(table((array,))) == [array.ctypes.data, *array.shape, *array.strides]


def test_numbers_are_in_the_low_bytes_and_tuples_their_elements():
    numbers = (-3, True, np.float32(1.5), (np.float64(-2.5), (7, np.uint64(2**64 - 1))), np.int32(-1))
    one, two = np.float32(1.5).view(np.int32), np.float64(-2.5).view(np.int64)
    assert list(table(numbers)) == [-3, 1, one, two, 7, -1, -1]
    assert list(table(())) == [0]


def test_no_memory_is_read_after_it_was_freed():
    """Python's debugging allocator overwrites what it frees."""
    code = "import numpy as np; from gpucnn.kernels.numba.arguments import address; a = np.zeros(3); "
    code += "assert address(a) == a.ctypes.data, hex(address(a))"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONMALLOC": "debug"}, check=True)
