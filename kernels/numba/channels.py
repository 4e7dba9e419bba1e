"""A bias for each channel, and channels moved from one batch to another.

All activations here are contiguous and flat along their positions: (block, channel, position * 16 + lane).
"""

import numpy as np
from gpucnn.kernels.numba.compiler import kernel
from gpucnn.kernels.numba.simd import LANES, load, splat, store
from gpucnn.kernels.numba.team import prange
from gpucnn.kernels.numba.vectors import biased


@kernel("add bias")
def add_bias(x, bias, y, relu):
    """y = (x + bias) + 0, or its ReLU."""
    C = x.shape[1]
    for u in prange(x.shape[0] * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        values, results, shift = x[b, c], y[b, c], splat(bias[c])
        for i in range(0, x.shape[2], LANES):
            store(results, i, biased(load(values, i), shift, relu))


@kernel("copy channels")
def copy_channels(x, y, first_x, first_y, count):
    """y[:, first_y : first_y + count] = x[:, first_x : first_x + count]."""
    for u in prange(x.shape[0] * count):
        b, c = np.int64(u) // count, np.int64(u) % count
        values, results = x[b, first_x + c], y[b, first_y + c]
        for i in range(0, x.shape[2], LANES):
            store(results, i, load(values, i))
