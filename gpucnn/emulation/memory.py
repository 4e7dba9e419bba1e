"""Arrays next to inaccessible pages, so that a kernel's stray read or write is an error."""

import ctypes
import functools
import mmap
import os

import numpy as np


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


def guarded(shape: tuple[int, ...], dtype, front: bool = False) -> np.ndarray:
    """An array of 0xff bytes (NaN) that ends at an inaccessible page, or with `front` begins after one.

    It ends exactly there if its size is a multiple of 16; otherwise up to 15 bytes are between, as kernels may load 16
    bytes at once.
    """
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    page = mmap.PAGESIZE
    room = -(-max(size, 1) // page) * page
    memory = mmap.mmap(-1, room + 2 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for at in (base, base + page + room):
        if _libc().mprotect(at, page, mmap.PROT_READ & 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    start = page if front else page + room - -(-size // 16) * 16
    array = np.frombuffer(memory, np.uint8, size, start)
    array[...] = 0xFF
    return array.view(dtype).reshape(shape)
