"""Clipping the flat gradient buffer, by value and by its norm (rule 9)."""

import numpy as np
from gpucnn.kernels.contract import BAND, BLOCK
from gpucnn.kernels.numba_cuda.arithmetic import ONE, add64, divide64, multiply, multiply64, narrow, sqrt64, widen
from gpucnn.kernels.numba_cuda.compiler import LANES, kernel
from gpucnn.kernels.numba_cuda.sums import column_tree64, keep, lane_tree64
from numba import cuda, float64

ZERO64 = np.float64(0)


@kernel
def clip_value(g, limit):
    """g clamped to [-limit, limit]. One thread per value."""
    i = cuda.grid(1)
    if i < g.size:
        g[i] = -limit if g[i] < -limit else limit if g[i] > limit else g[i]


@kernel
def square_parts(g, part):
    """part (blocks, 1) = the sums of squares of 64 rows of 16 values: a thread a column, 32 threads two such blocks."""
    shared = cuda.shared.array(0, float64)
    lane = cuda.threadIdx.x
    block = cuda.blockIdx.x * (LANES // BLOCK) + lane // BLOCK
    acc = ZERO64
    for row in range(BAND):
        i = (block * BAND + row) * BLOCK + lane % BLOCK
        if i < g.size:
            value = widen(g[i])
            acc = add64(acc, multiply64(value, value))
    shared[lane] = acc
    lane_tree64(shared, lane)
    keep(part, 0, shared[lane], cuda.blockIdx.x, 0, 1, lane)


@kernel
def norm_scale(part, limit, scale):
    """scale (1,) = f32(limit / norm) where the norm exceeds the limit, else 1. A single thread."""
    if cuda.grid(1) == 0:
        column_tree64(part, 0, 0, part.shape[0], 1)
        norm = sqrt64(part[0, 0])
        scale[0] = narrow(divide64(limit, norm)) if norm > limit else ONE


@kernel
def scale_all(g, scale):
    """g *= scale. One thread per value."""
    i = cuda.grid(1)
    if i < g.size and scale[0] != ONE:
        g[i] = multiply(g[i], scale[0])
