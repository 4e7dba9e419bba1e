"""Group norm and layer norm: statistics of each image's groups of channels, in float64 by rules 3 and 4.

Activations are flat along their positions, (block, channel, position * 16 + lane). The values of a group follow one
another in memory, so a group of a block is one line of M vectors: (block, group, M * 16 + lane). Each lane is an image
with sums of its own; a tree waits in `scratch`, one vector of float64 a level.
"""

import numpy as np
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.norm import NOTHING, block_total, lanes_of, map_products
from gpucnn.kernels.numba.simd import (
    LANES,
    add64,
    divide,
    divide64,
    fma,
    load,
    multiply,
    multiply64,
    narrow,
    splat,
    splat64,
    sqrt,
    store,
    subtract,
    subtract64,
    widen,
)
from gpucnn.kernels.numba.simd import add as add32
from gpucnn.kernels.numba.sums import push_lanes, total_lanes
from gpucnn.kernels.numba.team import get_thread_id, prange
from gpucnn.kernels.numba.vectors import finished

ZERO, ONE = np.float32(0), np.float32(1)


@inner
def inverse_deviation(var, eps):
    """1 / sqrt(var + eps) of 16 images."""
    return divide(splat(ONE), sqrt(add32(var, splat(eps))))


@kernel("group norm statistics")
def group_norm_statistics(x, mean, var, scratch):
    """mean and var (block, group, lane) of lines x (block, group, M * 16); two passes;
    scratch (block, group, levels, 16).
    """
    G, size = x.shape[1], x.shape[2]
    count = splat64(np.float64(size // LANES))
    for u in prange(x.shape[0] * G):
        b, g = np.int64(u) // G, np.int64(u) % G
        values, slots = x[b, g], scratch[b, g]
        centre = splat64(0.0)
        for centred in range(2):
            bands = 0
            for first in range(0, size, BAND * LANES):
                acc = splat64(0.0)
                last = min(first + BAND * LANES, size)
                if centred:
                    for i in range(first, last, LANES):
                        d = subtract64(widen(load(values, i)), centre)
                        acc = add64(acc, multiply64(d, d))
                else:
                    for i in range(first, last, LANES):
                        acc = add64(acc, widen(load(values, i)))
                push_lanes(slots, bands, acc)
                bands += 1
            result = divide64(total_lanes(slots, bands), count)
            if centred:
                store(var[b, g], 0, narrow(result))
            else:
                centre = result
                store(mean[b, g], 0, narrow(result))


@kernel("group norm")
def group_norm(x, mean, var, gamma, beta, eps, y, relu, parts):
    """y = fma(gamma, (x - mean) * inv, beta), x and y (block, channel, positions * 16);
    each group in `parts` pieces.
    """
    G, channels = mean.shape[1], x.shape[1] // mean.shape[1]
    for u in prange(x.shape[0] * G * parts):
        part = np.int64(u) % parts
        b, g = np.int64(u) // parts // G, np.int64(u) // parts % G
        m, inv = load(mean[b, g], 0), inverse_deviation(load(var[b, g], 0), eps)
        for c in range(g * channels + channels * part // parts, g * channels + channels * (part + 1) // parts):
            values, results = x[b, c], y[b, c]
            scale, shift = splat(gamma[c]), splat(beta[c])
            for i in range(0, x.shape[2], LANES):
                v = fma(scale, multiply(subtract(load(values, i), m), inv), shift)
                store(results, i, finished(v, relu))


@kernel("group norm means")
def group_norm_means(dy, x, mean, var, gamma, eps, a, b, inv, scratch):
    """a and b, the means of gamma * dy and of that times xhat over each line, and inv: all (block, group, lane).

    dy and x (block, channel, positions * 16); scratch (block, group, 2, levels, 16).
    """
    G, channels, size = mean.shape[1], x.shape[1] // mean.shape[1], x.shape[2]
    M = channels * (size // LANES)
    count = splat64(np.float64(M))
    for u in prange(x.shape[0] * G):
        block, g = np.int64(u) // G, np.int64(u) % G
        m, scale = load(mean[block, g], 0), inverse_deviation(load(var[block, g], 0), eps)
        store(inv[block, g], 0, scale)
        slots = scratch[block, g]
        bands, taken = 0, 0
        plain, weighted = splat64(0.0), splat64(0.0)
        for k in range(channels):
            values, gradients, factor = (
                x[block, g * channels + k],
                dy[block, g * channels + k],
                splat(gamma[g * channels + k]),
            )
            first = 0
            # A band may begin in one channel and end in another.
            while first < size:
                last = min(first + (BAND - taken) * LANES, size)
                for i in range(first, last, LANES):
                    d = widen(multiply(factor, load(gradients, i)))
                    xhat = multiply(subtract(load(values, i), m), scale)
                    plain = add64(plain, d)
                    weighted = add64(weighted, multiply64(d, widen(xhat)))
                taken += (last - first) // LANES
                first = last
                if taken == BAND:
                    push_lanes(slots[0], bands, plain)
                    push_lanes(slots[1], bands, weighted)
                    plain, weighted = splat64(0.0), splat64(0.0)
                    bands += 1
                    taken = 0
        if taken:
            push_lanes(slots[0], bands, plain)
            push_lanes(slots[1], bands, weighted)
            bands += 1
        store(a[block, g], 0, narrow(divide64(total_lanes(slots[0], bands), count)))
        store(b[block, g], 0, narrow(divide64(total_lanes(slots[1], bands), count)))


@kernel("group norm gradient")
def group_norm_gradient(dy, x, mean, inv, gamma, a, b, dx, parts):
    """dx = inv * fma(-xhat, b, gamma * dy - a); each group in `parts` pieces."""
    G, channels = mean.shape[1], x.shape[1] // mean.shape[1]
    for u in prange(x.shape[0] * G * parts):
        part = np.int64(u) % parts
        block, g = np.int64(u) // parts // G, np.int64(u) // parts % G
        m, scale = load(mean[block, g], 0), load(inv[block, g], 0)
        plain, weighted = load(a[block, g], 0), load(b[block, g], 0)
        for c in range(g * channels + channels * part // parts, g * channels + channels * (part + 1) // parts):
            values, gradients, results, factor = x[block, c], dy[block, c], dx[block, c], splat(gamma[c])
            for i in range(0, x.shape[2], LANES):
                negative = multiply(splat(np.float32(-1)), multiply(subtract(load(values, i), m), scale))
                d = subtract(multiply(factor, load(gradients, i)), plain)
                store(results, i, multiply(scale, fma(negative, weighted, d)))


@kernel("group norm parameter gradients")
def group_norm_parameter_gradients(dy, x, mean, inv, out_gamma, out_beta, part, images, band, scratch):
    """dgamma and dbeta (C,): sums of dy * xhat and of dy by rule 4; part (2, blocks, C) and scratch (threads, 2,
    levels) float64.
    """
    C = x.shape[1]
    channels = C // mean.shape[1]
    for u in prange(x.shape[0] * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        g = c // channels
        m, scale, zero = load(mean[b, g], 0), load(inv[b, g], 0), splat(ZERO)
        about = m, scale, zero, zero, NOTHING, dy[b, c], dy[b, c], band, lanes_of(images, b), scratch[get_thread_id()]
        part[0, b, c], part[1, b, c] = map_products(x[b, c], dy[b, c], *about)
    for u in prange(C):
        c, slots = np.int64(u), scratch[get_thread_id(), 0]
        out_gamma[c] = np.float32(block_total(part[0], c, slots)) + ZERO
        out_beta[c] = np.float32(block_total(part[1], c, slots)) + ZERO
