"""Sums over a part of a batch in float64 (rules 3 and 4), where several processes share it, and what follows from all.

Activations are flat along their positions: (block, channel, position * 16 + lane).
"""

import numpy as np
from gpucnn.kernels.numba.compiler import kernel
from gpucnn.kernels.numba.norm import inverse_deviation, lanes_of
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
    subtract64,
    tree64,
    where_greater,
    widen,
)
from gpucnn.kernels.numba.sums import push64, total64
from gpucnn.kernels.numba.team import prange

VALUES, SQUARES, PRODUCTS = 0, 1, 2


@kernel("channel sums")
def channel_sums(x, y, center, kind, out, images, band, scratch):
    """out[c] (C,) float64 = the sum of x, of (x - center)**2 or of x * y; scratch (channels, 2, levels) float64."""
    for u in prange(x.shape[1]):
        c = np.int64(u)
        over_bands, over_blocks = scratch[c, 0], scratch[c, 1]
        middle = splat64(center[c])
        for b in range(x.shape[0]):
            values, others, bands = x[b, c], y[b, c], 0
            for first in range(0, x.shape[2], band * LANES):
                acc = splat64(0.0)
                last = min(first + band * LANES, x.shape[2])
                if kind == VALUES:
                    for i in range(first, last, LANES):
                        acc = add64(acc, widen(load(values, i)))
                elif kind == SQUARES:
                    for i in range(first, last, LANES):
                        d = subtract64(widen(load(values, i)), middle)
                        acc = add64(acc, multiply64(d, d))
                else:
                    for i in range(first, last, LANES):
                        acc = add64(acc, multiply64(widen(load(values, i)), widen(load(others, i))))
                push64(over_bands, bands, tree64(acc, lanes_of(images, b)))
                bands += 1
            push64(over_blocks, b, total64(over_bands, bands))
        out[c] = total64(over_blocks, x.shape[0])


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
