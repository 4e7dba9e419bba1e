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
from gpucnn.kernels.numba.team import prange
from gpucnn.kernels.numba.vectors import finished

ZERO, ONE = np.float32(0), np.float32(1)


@inner
def lanes_of(images, block):
    """How many images of a block are really there."""
    return min(LANES, images - block * LANES)


@kernel("bias gradient")
def bias_gradient(dy, out, images, band, scratch):
    """out[c] = the sum of dy; scratch (channels, 2, levels) float64."""
    for u in prange(dy.shape[1]):
        c = np.int64(u)
        over_bands, over_blocks = scratch[c, 0], scratch[c, 1]
        for b in range(dy.shape[0]):
            values, bands = dy[b, c], 0
            for first in range(0, dy.shape[2], band * LANES):
                acc = splat64(0.0)
                for i in range(first, min(first + band * LANES, dy.shape[2]), LANES):
                    acc = add64(acc, widen(load(values, i)))
                push64(over_bands, bands, tree64(acc, lanes_of(images, b)))
                bands += 1
            push64(over_blocks, b, total64(over_bands, bands))
        out[c] = np.float32(total64(over_blocks, dy.shape[0])) + ZERO


@kernel("batch norm statistics")
def batch_norm_statistics(x, mean, var, unbiased, running_mean, running_var, momentum, moves, images, band, scratch):
    """mean, var and unbiased var (C,) of x, each rounded once; two passes; scratch (channels, 2, levels) float64.

    The running statistics move toward mean and unbiased if it `moves` them.
    """
    count = images * (x.shape[2] // LANES)
    for u in prange(x.shape[1]):
        c = np.int64(u)
        over_bands, over_blocks = scratch[c, 0], scratch[c, 1]
        mean64, var64 = 0.0, 0.0
        for centred in range(2):
            for b in range(x.shape[0]):
                values, bands = x[b, c], 0
                for first in range(0, x.shape[2], band * LANES):
                    acc = splat64(0.0)
                    last = min(first + band * LANES, x.shape[2])
                    if centred:
                        for i in range(first, last, LANES):
                            d = subtract64(widen(load(values, i)), splat64(mean64))
                            acc = add64(acc, multiply64(d, d))
                    else:
                        for i in range(first, last, LANES):
                            acc = add64(acc, widen(load(values, i)))
                    push64(over_bands, bands, tree64(acc, lanes_of(images, b)))
                    bands += 1
                push64(over_blocks, b, total64(over_bands, bands))
            if centred:
                var64 = total64(over_blocks, x.shape[0]) / count
            else:
                mean64 = total64(over_blocks, x.shape[0]) / count
        mean[c], var[c] = np.float32(mean64), np.float32(var64)
        unbiased[c] = np.float32(var64 * count / max(count - 1, 1))
        if moves:
            running_mean[c] = moved(running_mean[c], mean[c], momentum)
            running_var[c] = moved(running_var[c], unbiased[c], momentum)


@inner
def inverse_deviation(var, eps):
    return ONE / np.float32(math.sqrt(var + eps))


@kernel("batch norm")
def batch_norm(x, mean, var, gamma, beta, eps, other, adds, y, relu):
    """y = fma(gamma, (x - mean) * inv, beta), plus `other` if it `adds` that."""
    C = x.shape[1]
    for u in prange(x.shape[0] * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        values, others, results = x[b, c], other[b, c], y[b, c]
        m, inv = splat(mean[c]), splat(inverse_deviation(var[c], eps))
        g, shift = splat(gamma[c]), splat(beta[c])
        for i in range(0, x.shape[2], LANES):
            v = fma(g, multiply(subtract(load(values, i), m), inv), shift)
            if adds:
                v = add(v, load(others, i))
            store(results, i, finished(v, relu))


# What follows batch norm, whose gradient is computed here first.
NOTHING, RELU, RELU_OF_SUM = range(3)


@kernel("batch norm gradient")
def batch_norm_gradient(
    dy, x, mean, var, gamma, beta, eps, after, y, dsum, dx, out_gamma, out_beta, images, band, scratch
):
    """dx, dgamma and dbeta; images that fill up a block get +0; scratch (channels, 4, levels) float64.

    After RELU dy counts only where the layer's output, computed here once more, is above zero; after RELU_OF_SUM where
    y is, the output of that, and dsum is then the gradient of each addend.
    """
    count = images * (x.shape[2] // LANES)
    for u in prange(x.shape[1]):
        c = np.int64(u)
        m, inv = splat(mean[c]), splat(inverse_deviation(var[c], eps))
        g, shift, zero = splat(gamma[c]), splat(beta[c]), splat(ZERO)
        for b in range(x.shape[0]):
            values, gradients, outputs, through, bands = x[b, c], dy[b, c], y[b, c], dsum[b, c], 0
            for first in range(0, x.shape[2], band * LANES):
                by_gamma, by_beta = splat64(0.0), splat64(0.0)
                for i in range(first, min(first + band * LANES, x.shape[2]), LANES):
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
                push64(scratch[c, 0], bands, tree64(by_gamma, lanes_of(images, b)))
                push64(scratch[c, 1], bands, tree64(by_beta, lanes_of(images, b)))
                bands += 1
            push64(scratch[c, 2], b, total64(scratch[c, 0], bands))
            push64(scratch[c, 3], b, total64(scratch[c, 1], bands))
        gamma64, beta64 = total64(scratch[c, 2], x.shape[0]), total64(scratch[c, 3], x.shape[0])
        out_gamma[c], out_beta[c] = np.float32(gamma64) + ZERO, np.float32(beta64) + ZERO
        a_mean, b_mean = splat(np.float32(beta64 / count)), splat(np.float32(gamma64 / count))
        scale = splat(gamma[c] * inverse_deviation(var[c], eps))
        for b in range(x.shape[0]):
            values, results = x[b, c], dx[b, c]
            gradients = dsum[b, c] if after == RELU_OF_SUM else dy[b, c]
            there = splat(np.float32(lanes_of(images, b)))
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
