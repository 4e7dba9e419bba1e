"""Clipping the flat gradient buffer, by value and by its norm (rule 9)."""

import math

import numpy as np
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba.chunks import chunks_of, numbers_of
from gpucnn.kernels.numba.compiler import kernel
from gpucnn.kernels.numba.simd import LANES, add64, load, load_between, multiply64, splat64, tree64, widen
from gpucnn.kernels.numba.sums import push64, total64
from gpucnn.kernels.numba.team import prange

ZERO = np.float32(0)
SQUARES = BAND * LANES  # values that one sum of squares takes: 64 rows of 16


@kernel("clip value", contiguous=True)
def clip_value(g, limit):
    for u in prange(chunks_of(g)):
        for i in numbers_of(g, u):
            v = g[i]
            g[i] = -limit if v < -limit else limit if v > limit else v


@kernel("norm parts")
def norm_parts(g, part):
    """part[b] = the sum of the squares of block b: rows of 16 one after the other, then the tree over the 16."""
    for u in prange(part.shape[0]):
        first = np.int64(u) * SQUARES
        last = min(first + SQUARES, g.shape[0])
        whole = first + (last - first) // LANES * LANES
        acc = splat64(0.0)
        for i in range(first, whole, LANES):
            v = widen(load(g, i))
            acc = add64(acc, multiply64(v, v))
        if whole < last:  # a buffer that is no multiple of 16
            v = widen(load_between(g, whole, 0, last - whole))
            acc = add64(acc, multiply64(v, v))
        part[u] = tree64(acc, LANES)


@kernel("clip norm")
def norm_scale(part, slots, limit, scale):
    """scale (1,) = f32(limit / norm) where the norm exceeds the limit, else 1."""
    for b in range(part.shape[0]):
        push64(slots, b, part[b])
    norm = math.sqrt(total64(slots, part.shape[0]))
    scale[0] = np.float32(limit / norm) if norm > limit else np.float32(1)


@kernel("scale gradient", contiguous=True)
def scale_all(g, scale):
    factor = scale[0]
    if factor != np.float32(1):
        for u in prange(chunks_of(g)):
            for i in numbers_of(g, u):
                g[i] *= factor
