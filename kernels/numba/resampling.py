"""Maps along one spatial axis: padding, upsampling, the windows of adaptive pooling, and their gradients."""

import numpy as np
from gpucnn.kernels.numba.compiler import kernel
from gpucnn.kernels.numba.conv import stride_of
from gpucnn.kernels.numba.simd import LANES, add, fma, load, splat, store
from gpucnn.kernels.numba.team import prange

ZERO = np.float32(0)


@kernel("axis map")
def resample_axis(x, y, first, position, weight, start):
    """y[u, p] = start[p], then fma(weight, x[u, position], .) over the taps first[p] to first[p + 1], then + 0.

    x (outer, I, inner) and y (outer, O, inner) are contiguous, inner being whole vectors; a unit of work is one (u, p).
    """
    outputs, inner = y.shape[1], y.shape[2]
    for u in prange(y.shape[0] * outputs):
        u = np.int64(u)
        outer, p = u // outputs, u % outputs
        low, high = np.int64(first[p]), np.int64(first[p + 1])
        row = outer * stride_of(x, 0)
        begin, zero = splat(start[p]), splat(ZERO)
        for i in range(0, inner, LANES):
            acc = begin
            for t in range(low, high):
                acc = fma(splat(weight[t]), load(x, row + np.int64(position[t]) * inner + i), acc)
            store(y, u * inner + i, add(acc, zero))
