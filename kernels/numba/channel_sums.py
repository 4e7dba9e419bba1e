"""Sums over a part of a batch in float64 (rules 3 and 4), where several processes share it, and what follows from all.

Activations are flat along their positions: (block, channel, position * 16 + lane).
"""

import numpy as np
from gpucnn.kernels.numba.compiler import kernel
from gpucnn.kernels.numba.norm import block_total, inverse_deviation, lanes_of, map_squares, map_sum
from gpucnn.kernels.numba.simd import (
    LANES,
    add64,
    fma,
    lane_numbers,
    load,
    multiply,
    multiply64,
    splat,
    splat64,
    store,
    subtract,
    tree64,
    where_greater,
    widen,
)
from gpucnn.kernels.numba.sums import push64, total64
from gpucnn.kernels.numba.team import get_thread_id, prange

VALUES, SQUARES, PRODUCTS = 0, 1, 2


@kernel("channel sums")
def channel_sums(x, y, center, kind, out, part, images, band, scratch):
    """out[c] (C,) float64 = the sum of x, of (x - center)**2 or of x * y; arrays as in norm.bias_gradient."""
    C = x.shape[1]
    for u in prange(x.shape[0] * C):
        b, c, slots = np.int64(u) // C, np.int64(u) % C, scratch[get_thread_id()]
        lanes = lanes_of(images, b)
        if kind == VALUES:
            part[b, c] = map_sum(x[b, c], band, lanes, slots)
        elif kind == SQUARES:
            part[b, c] = map_squares(x[b, c], center[c], band, lanes, slots)
        else:
            values, others, bands = x[b, c], y[b, c], 0
            for first in range(0, x.shape[2], band * LANES):
                acc = splat64(0.0)
                for i in range(first, min(first + band * LANES, x.shape[2]), LANES):
                    acc = add64(acc, multiply64(widen(load(values, i)), widen(load(others, i))))
                push64(slots, bands, tree64(acc, lanes))
                bands += 1
            part[b, c] = total64(slots, bands)
    for u in prange(C):
        out[np.int64(u)] = block_total(part, np.int64(u), scratch[get_thread_id()])


@kernel("batch norm gradient by means")
def batch_norm_gradient(dy, x, mean, var, gamma, eps, gamma_mean, beta_mean, dx, images):
    """dx = (gamma * inv) * fma(-xhat, gamma_mean, dy - beta_mean); images that fill up a block get +0."""
    C = x.shape[1]
    for u in prange(x.shape[0] * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        values, gradients, results = x[b, c], dy[b, c], dx[b, c]
        inv = inverse_deviation(var[c], eps)
        m, scale, shift, factor = splat(mean[c]), splat(gamma[c] * inv), splat(beta_mean[c]), splat(gamma_mean[c])
        there, zero = splat(np.float32(lanes_of(images, b))), splat(np.float32(0))
        for i in range(0, x.shape[2], LANES):
            negative = multiply(splat(np.float32(-1)), multiply(subtract(load(values, i), m), splat(inv)))
            v = multiply(scale, fma(negative, factor, subtract(load(gradients, i), shift)))
            store(results, i, where_greater(there, lane_numbers(), v, zero))
