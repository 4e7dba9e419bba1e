"""Batch norm, bias gradients and the mean of a map: sums over positions and images in float64 (rules 3 and 4).

All activations here are contiguous and flat along their positions: (block, channel, position * 16 + lane).
"""

import math

import numpy as np
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.optimizers import moved
from gpucnn.kernels.numba.simd import (
    LANES,
    add,
    add64,
    divide64,
    fma,
    lane_numbers,
    load,
    multiply,
    multiply64,
    narrow,
    splat,
    splat64,
    store,
    subtract,
    subtract64,
    tree64,
    where_greater,
    widen,
)
from gpucnn.kernels.numba.sums import push64, push_lanes, total64, total_lanes
from gpucnn.kernels.numba.team import get_thread_id, prange
from gpucnn.kernels.numba.vectors import finished

ZERO, ONE = np.float32(0), np.float32(1)


@inner
def lanes_of(images, block):
    """How many images of a block are really there."""
    return min(LANES, images - block * LANES)


@inner
def map_sum(values, band, lanes, slots):
    """The sum of a channel's map in the images of a block: rules 3a to 3c, in float64."""
    bands = 0
    for first in range(0, values.shape[0], band * LANES):
        acc = splat64(0.0)
        for i in range(first, min(first + band * LANES, values.shape[0]), LANES):
            acc = add64(acc, widen(load(values, i)))
        push64(slots, bands, tree64(acc, lanes))
        bands += 1
    return total64(slots, bands)


@inner
def map_squares(values, center, band, lanes, slots):
    """The same of (value - center)**2."""
    bands = 0
    for first in range(0, values.shape[0], band * LANES):
        acc = splat64(0.0)
        for i in range(first, min(first + band * LANES, values.shape[0]), LANES):
            d = subtract64(widen(load(values, i)), splat64(center))
            acc = add64(acc, multiply64(d, d))
        push64(slots, bands, tree64(acc, lanes))
        bands += 1
    return total64(slots, bands)


# What follows batch norm, whose gradient is computed first.
NOTHING, RELU, RELU_OF_SUM = range(3)


@inner
def map_products(values, gradients, m, inv, g, shift, after, outputs, through, band, lanes, slots):
    """The same of dy * xhat and of dy, xhat = (x - m) * inv.

    After RELU dy counts only where the layer's output, computed here once more, is above zero; after RELU_OF_SUM where
    `outputs` are, and `through` becomes what counts.
    """
    bands, zero = 0, splat(ZERO)
    for first in range(0, values.shape[0], band * LANES):
        by_gamma, by_beta = splat64(0.0), splat64(0.0)
        for i in range(first, min(first + band * LANES, values.shape[0]), LANES):
            xhat = multiply(subtract(load(values, i), m), inv)
            d = load(gradients, i)
            if after == RELU:
                d = where_greater(fma(g, xhat, shift), zero, d, zero)
            elif after == RELU_OF_SUM:
                d = where_greater(load(outputs, i), zero, d, zero)
                store(through, i, d)
            d = widen(d)
            by_gamma = add64(by_gamma, multiply64(d, widen(xhat)))
            by_beta = add64(by_beta, d)
        push64(slots[0], bands, tree64(by_gamma, lanes))
        push64(slots[1], bands, tree64(by_beta, lanes))
        bands += 1
    return total64(slots[0], bands), total64(slots[1], bands)


@inner
def block_total(part, c, slots):
    """The sum of column c over the blocks of part (block, C): rule 3d."""
    for b in range(part.shape[0]):
        push64(slots, b, part[b, c])
    return total64(slots, part.shape[0])


@kernel("bias gradient")
def bias_gradient(dy, out, part, images, band, scratch):
    """out[c] = the sum of dy; part (blocks, C) and scratch (threads, levels) float64."""
    C = dy.shape[1]
    for u in prange(dy.shape[0] * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        part[b, c] = map_sum(dy[b, c], band, lanes_of(images, b), scratch[get_thread_id()])
    for u in prange(C):
        c = np.int64(u)
        out[c] = np.float32(block_total(part, c, scratch[get_thread_id()])) + ZERO


@kernel("batch norm statistics")
def batch_norm_statistics(
    x, mean, var, unbiased, running_mean, running_var, momentum, moves, part, center, images, band, scratch
):
    """mean, var and unbiased var (C,) of x, each rounded once, in two passes.

    The running statistics move toward mean and unbiased if it `moves` them. part (2, blocks, C), center (C,) and
    scratch (threads, levels) float64. A thread sums the blocks that it computes in other kernels too, so that they are
    in its caches.
    """
    C, count = x.shape[1], images * (x.shape[2] // LANES)
    for u in prange(x.shape[0] * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        part[0, b, c] = map_sum(x[b, c], band, lanes_of(images, b), scratch[get_thread_id()])
    for u in prange(C):
        c = np.int64(u)
        center[c] = block_total(part[0], c, scratch[get_thread_id()]) / count
    for u in prange(x.shape[0] * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        part[1, b, c] = map_squares(x[b, c], center[c], band, lanes_of(images, b), scratch[get_thread_id()])
    for u in prange(C):
        c = np.int64(u)
        var64 = block_total(part[1], c, scratch[get_thread_id()]) / count
        mean[c], var[c] = np.float32(center[c]), np.float32(var64)
        unbiased[c] = np.float32(var64 * count / max(count - 1, 1))
        if moves:
            running_mean[c] = moved(running_mean[c], mean[c], momentum)
            running_var[c] = moved(running_var[c], unbiased[c], momentum)


@inner
def inverse_deviation(var, eps):
    return ONE / np.float32(math.sqrt(var + eps))


@kernel("batch norm constants")
def batch_norm_constants(mean, var, gamma, beta, eps, known):
    """known (4, C): the mean, 1 / deviation, gamma and beta of each channel, as they are now."""
    for c in range(known.shape[1]):
        known[0, c], known[1, c] = mean[c], inverse_deviation(var[c], eps)
        known[2, c], known[3, c] = gamma[c], beta[c]


@inner
def normalized(v, known, c, relu):
    """fma(gamma, (v - mean) * inv, beta), or its ReLU, for values of channel c."""
    xhat = multiply(subtract(v, splat(known[0, c])), splat(known[1, c]))
    return finished(fma(splat(known[2, c]), xhat, splat(known[3, c])), relu)


@inner
def read(x, at, known, c, norm):
    """x.base[at : at + 16], values of channel c; with `norm` batch norm and ReLU of them."""
    v = load(x, at)
    return normalized(v, known, c, True) if norm else v


@kernel("batch norm")
def batch_norm(x, known, other, adds, y, relu):
    """y = fma(gamma, (x - mean) * inv, beta), plus `other` if it `adds` that."""
    C = x.shape[1]
    for u in prange(x.shape[0] * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        for i in range(0, x.shape[2], LANES):
            v = normalized(load(x[b, c], i), known, c, False)
            if adds:
                v = add(v, load(other[b, c], i))
            store(y[b, c], i, finished(v, relu))


@inner
def parameter_gradients(part, means, count, out_gamma, out_beta, scratch):
    """dgamma and dbeta from their sums in each block, part (2, blocks, C), and both over the count: means (2, C)."""
    for u in prange(part.shape[2]):
        c, slots = np.int64(u), scratch[get_thread_id(), 0]
        gamma64, beta64 = block_total(part[0], c, slots), block_total(part[1], c, slots)
        out_gamma[c], out_beta[c] = np.float32(gamma64) + ZERO, np.float32(beta64) + ZERO
        means[0, c], means[1, c] = np.float32(gamma64 / count), np.float32(beta64 / count)


@kernel("batch norm gradient")
def batch_norm_gradient(
    dy, x, mean, var, gamma, beta, eps, after, y, dsum, dx, out_gamma, out_beta, part, means, images, band, scratch
):
    """dx, dgamma and dbeta; images that fill up a block get +0.

    After RELU_OF_SUM, y is the output of that, and dsum becomes the gradient of each addend; see map_products.
    part (2, blocks, C) and scratch (threads, 2, levels) float64, means (2, C).
    """
    C, count = x.shape[1], images * (x.shape[2] // LANES)
    for u in prange(x.shape[0] * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        m, inv, lanes = splat(mean[c]), splat(inverse_deviation(var[c], eps)), lanes_of(images, b)
        about = m, inv, splat(gamma[c]), splat(beta[c]), after, y[b, c], dsum[b, c], band, lanes
        part[0, b, c], part[1, b, c] = map_products(x[b, c], dy[b, c], *about, scratch[get_thread_id()])
    parameter_gradients(part, means, count, out_gamma, out_beta, scratch)
    for u in prange(x.shape[0] * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        values, results = x[b, c], dx[b, c]
        gradients = dsum[b, c] if after == RELU_OF_SUM else dy[b, c]
        m, inv, zero = splat(mean[c]), splat(inverse_deviation(var[c], eps)), splat(ZERO)
        g, shift, there = splat(gamma[c]), splat(beta[c]), splat(np.float32(lanes_of(images, b)))
        scale = splat(gamma[c] * inverse_deviation(var[c], eps))
        b_mean, a_mean = splat(means[0, c]), splat(means[1, c])
        for i in range(0, x.shape[2], LANES):
            xhat = multiply(subtract(load(values, i), m), inv)
            d = load(gradients, i)
            if after == RELU:
                d = where_greater(fma(g, xhat, shift), zero, d, zero)
            negative = multiply(splat(np.float32(-1)), xhat)
            v = multiply(scale, fma(negative, b_mean, subtract(d, a_mean)))
            store(results, i, where_greater(there, lane_numbers(), v, zero))


@kernel("batch norm input gradient")
def batch_norm_input_gradient(dy, var, gamma, eps, dx):
    """dx = dy * (gamma * inv)."""
    C = dy.shape[1]
    for u in prange(dy.shape[0] * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        scale = splat(gamma[c] * inverse_deviation(var[c], eps))
        for i in range(0, dy.shape[2], LANES):
            store(dx[b, c], i, multiply(load(dy[b, c], i), scale))


@kernel("global average pool")
def global_avg_pool(x, y, band, scratch):
    """y (block, C, lane) = the mean of each map; scratch (block, C, levels, 16) float64."""
    C, positions = x.shape[1], x.shape[2] // LANES
    for u in prange(x.shape[0] * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        values, slots, bands = x[b, c], scratch[b, c], 0
        for first in range(0, x.shape[2], band * LANES):
            acc = splat64(0.0)
            for i in range(first, min(first + band * LANES, x.shape[2]), LANES):
                acc = add64(acc, widen(load(values, i)))
            push_lanes(slots, bands, acc)
            bands += 1
        store(y[b, c], 0, add(narrow(divide64(total_lanes(slots, bands), splat64(np.float64(positions)))), splat(ZERO)))


@kernel("global average pool gradient")
def global_avg_pool_gradient(dy, dx, count):
    """dx (block, C, positions) = dy (block, C, lane) / count."""
    C = dx.shape[1]
    for u in prange(dx.shape[0] * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        for lane in range(LANES):
            dx[b, c, lane] = dy[b, c, lane] / count
        for i in range(LANES, dx.shape[2], LANES):
            store(dx[b, c], i, load(dx[b, c], 0))
