"""A flat buffer in units of work."""

import numpy as np
from gpucnn.kernels.numba.compiler import inner
from gpucnn.kernels.numba.simd import LANES

# Pixels (vectors) that one unit of work takes.
CHUNK = 256


@inner
def chunks_of(a):
    """How many units of work a flat buffer makes."""
    return (a.shape[0] + CHUNK * LANES - 1) // (CHUNK * LANES)


@inner
def numbers_of(a, u):
    """The numbers of unit u's elements, unsigned: an index that may be negative keeps a loop from being vectorized."""
    first, last = chunk(a, u)
    return range(np.uint64(first), np.uint64(last))


@inner
def chunk(a, u):
    """First and last element of unit u."""
    first = np.int64(u) * CHUNK * LANES
    return first, min(first + CHUNK * LANES, a.shape[0])
