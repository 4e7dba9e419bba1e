"""Batch norm, ReLU and 2x2 max pooling of stride 2 in one pass, forward and backward: the map between is never stored.

Activations are (block, channel, H, W, lane), contiguous; the sums are norm.py's, in the same order.
"""

import numpy as np
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.norm import ZERO, inverse_deviation, lanes_of, parameter_gradients
from gpucnn.kernels.numba.simd import (
    LANES,
    add,
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
    where_equal,
    where_greater,
    widen,
)
from gpucnn.kernels.numba.sums import push64, total64
from gpucnn.kernels.numba.team import get_thread_id, prange
from gpucnn.kernels.numba.vectors import largest_of_four, rectified


@kernel("batch norm with max pool", contiguous=True)
def batch_norm_max_pool(x, mean, var, gamma, beta, eps, y, where):
    """y = the maxima of max(0, fma(gamma, (x - mean) * inv, beta)); where = the tap 0..3 of each before ReLU."""
    C, H, W = y.shape[1], y.shape[2], y.shape[3]
    line = x.shape[3] * LANES
    for u in prange(x.shape[0] * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        m, inv = splat(mean[c]), splat(inverse_deviation(var[c], eps))
        g, shift = splat(gamma[c]), splat(beta[c])
        for h in range(H):
            values, results, taps = x[b, c, 2 * h], y[b, c, h], where[b, c, h]
            for w in range(W):
                at = 2 * w * LANES
                v0 = fma(g, multiply(subtract(load(values, at), m), inv), shift)
                v1 = fma(g, multiply(subtract(load(values, at + LANES), m), inv), shift)
                v2 = fma(g, multiply(subtract(load(values, at + line), m), inv), shift)
                v3 = fma(g, multiply(subtract(load(values, at + line + LANES), m), inv), shift)
                best, tap = largest_of_four(v0, v1, v2, v3)
                store(results, w * LANES, rectified(best))
                store(taps, w * LANES, tap)


@inner
def through(dy, where, i, tap, y):
    """What comes to the pixel at this tap of a window, from +0, y being its value before ReLU."""
    zero = splat(ZERO)
    return where_greater(y, zero, where_equal(load(where, i), splat(tap), add(load(dy, i), zero), zero), zero)


@kernel("batch norm with max pool gradient", contiguous=True)
def batch_norm_max_pool_gradient(
    dy, where, x, mean, var, gamma, beta, eps, dx, out_gamma, out_beta, part, means, images, band, scratch
):
    """dx, dgamma and dbeta; images that fill up a block get +0; arrays as in norm.batch_norm_gradient.

    Rows and columns of x past the last whole window get no gradient, but are part of the statistics. `band` counts
    rows.
    """
    B, C, H, W = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
    pooled_h, pooled_w = dy.shape[2], dy.shape[3]
    for u in prange(B * C):
        b, c, slots = np.int64(u) // C, np.int64(u) % C, scratch[get_thread_id()]
        m, inv = splat(mean[c]), splat(inverse_deviation(var[c], eps))
        g, shift = splat(gamma[c]), splat(beta[c])
        by_gamma, by_beta, bands = splat64(0.0), splat64(0.0), 0
        for h in range(H):
            if h // 2 < pooled_h:
                values, gradients, taps = x[b, c, h], dy[b, c, h // 2], where[b, c, h // 2]
                first = np.float32(h % 2 * 2)
                for w in range(pooled_w):
                    for k in range(2):
                        xhat = multiply(subtract(load(values, (2 * w + k) * LANES), m), inv)
                        y = fma(g, xhat, shift)
                        d = widen(through(gradients, taps, w * LANES, first + np.float32(k), y))
                        by_gamma = add64(by_gamma, multiply64(d, widen(xhat)))
                        by_beta = add64(by_beta, d)
            if h % band == band - 1 or h == H - 1:
                push64(slots[0], bands, tree64(by_gamma, lanes_of(images, b)))
                push64(slots[1], bands, tree64(by_beta, lanes_of(images, b)))
                by_gamma, by_beta, bands = splat64(0.0), splat64(0.0), bands + 1
        part[0, b, c], part[1, b, c] = total64(slots[0], bands), total64(slots[1], bands)
    parameter_gradients(part, means, images * H * W, out_gamma, out_beta, scratch)
    for u in prange(B * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        m, inv, zero = splat(mean[c]), splat(inverse_deviation(var[c], eps)), splat(ZERO)
        g, shift, there = splat(gamma[c]), splat(beta[c]), splat(np.float32(lanes_of(images, b)))
        scale = splat(gamma[c] * inverse_deviation(var[c], eps))
        b_mean, a_mean = splat(means[0, c]), splat(means[1, c])
        for h in range(H):
            values, results, tap = x[b, c, h], dx[b, c, h], np.float32(h % 2 * 2)
            row = min(h // 2, pooled_h - 1)
            gradients, taps = dy[b, c, row], where[b, c, row]
            inside = pooled_w if h // 2 < pooled_h else 0
            for w in range(W):
                xhat = multiply(subtract(load(values, w * LANES), m), inv)
                d = zero
                if w // 2 < inside:
                    d = through(gradients, taps, w // 2 * LANES, tap + np.float32(w % 2), fma(g, xhat, shift))
                negative = multiply(splat(np.float32(-1)), xhat)
                v = multiply(scale, fma(negative, b_mean, subtract(d, a_mean)))
                store(results, w * LANES, where_greater(there, lane_numbers(), v, zero))
