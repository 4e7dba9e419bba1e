"""Philox4x32-10 (rule 10): Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011."""

import numpy as np
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.simd import LANES
from gpucnn.kernels.numba.team import prange

M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
DROPOUT, SHIFT, CROP, FLIP, CUTOUT = 3, 4, 6, 7, 8


@inner
def word(seed, index, step, purpose, layer):
    """The first output word, as uint64, of counter (index low, index high, step, purpose << 16 | layer) under
    `seed`.
    """
    k0, k1 = np.uint64(seed) & LOW, np.uint64(seed) >> HALF
    c0, c1 = np.uint64(index) & LOW, np.uint64(index) >> HALF
    c2, c3 = np.uint64(step), np.uint64(purpose << 16 | layer)
    for _ in range(10):
        p0, p1 = M0 * c0, M1 * c2
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return c0


@kernel("dropout")
def dropout(x, y, rate, scale, offset, seed, step, layer):
    """y (block, values, lane) = x * scale, or +0 where the draw of the value's logical index is below rate.

    `offset` is the number of the first image in the whole batch.
    """
    blocks, values = x.shape[0], x.shape[1]
    for u in prange(blocks * values):
        b, i = np.int64(u) // values, np.int64(u) % values
        for lane in range(LANES):
            w = word(seed, (offset + b * LANES + lane) * values + i, step[0], DROPOUT, layer)
            draw = np.float32(w >> np.uint64(8)) * np.float32(2.0**-24)
            y[b, i, lane] = np.float32(0) if draw < rate else x[b, i, lane] * scale
