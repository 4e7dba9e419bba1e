"""Batch norm, bias gradients and the mean of a map: sums in float64 by rules 3 and 4, and what is done with them.

What is summed is (block, channel, position, lane); sums go through `part` as sums.py tells, K being the channels.
What is computed value by value is flat: value i has channel i // pixels % channels, with `pixels` the positions times
32 lanes.
"""

import numpy as np
from gpucnn.kernels.numba_cuda.arithmetic import (
    ONE,
    ZERO,
    add,
    add64,
    divide,
    divide64,
    fma,
    multiply,
    multiply64,
    narrow,
    sqrt,
    subtract,
    subtract64,
    widen,
)
from gpucnn.kernels.numba_cuda.compiler import LANES, device, kernel
from gpucnn.kernels.numba_cuda.sums import column_tree64, keep, lane_tree64, there, total64
from numba import cuda, float64

ZERO64 = np.float64(0)

# ---- sums: one block of 32 threads a channel, band and block of lanes; a thread is an image --------------------------


@device
def band_of(i, x, band):
    """(channel, band's number, block of lanes, number of bands, first position, stop) for block of threads i."""
    channels, positions = x.shape[1], x.shape[2]
    bands = (positions + band - 1) // band
    t = i // channels % bands
    return i % channels, t, i // channels // bands, bands, t * band, min((t + 1) * band, positions)


@kernel
def value_sums(x, part, images, band):
    """part = the sums of x."""
    shared = cuda.shared.array(0, float64)
    lane = cuda.threadIdx.x
    c, t, b, bands, first, stop = band_of(cuda.blockIdx.x, x, band)
    acc = ZERO64
    if there(b * LANES + lane, images):
        for p in range(first, stop):
            acc = add64(acc, widen(x[b, c, p, lane]))
    shared[lane] = acc
    lane_tree64(shared, lane)
    keep(part, c, shared[lane], b, t, bands, lane)


@kernel
def square_sums(x, mean64, part, images, band):
    """part = the sums of (x - mean)**2, mean64 (C,) not rounded to float32."""
    shared = cuda.shared.array(0, float64)
    lane = cuda.threadIdx.x
    c, t, b, bands, first, stop = band_of(cuda.blockIdx.x, x, band)
    acc = ZERO64
    if there(b * LANES + lane, images):
        for p in range(first, stop):
            d = subtract64(widen(x[b, c, p, lane]), mean64[c])
            acc = add64(acc, multiply64(d, d))
    shared[lane] = acc
    lane_tree64(shared, lane)
    keep(part, c, shared[lane], b, t, bands, lane)


@kernel
def product_sums(dy, x, mean, var, eps, part, images, band):
    """part = the sums of dy * xhat."""
    shared = cuda.shared.array(0, float64)
    lane = cuda.threadIdx.x
    c, t, b, bands, first, stop = band_of(cuda.blockIdx.x, x, band)
    inv = inverse_deviation(var[c], eps)
    acc = ZERO64
    if there(b * LANES + lane, images):
        for p in range(first, stop):
            xhat = multiply(subtract(x[b, c, p, lane], mean[c]), inv)
            acc = add64(acc, multiply64(widen(dy[b, c, p, lane]), widen(xhat)))
    shared[lane] = acc
    lane_tree64(shared, lane)
    keep(part, c, shared[lane], b, t, bands, lane)


# ---- results of the sums: one thread per channel -----------------------------------------------------------------


@kernel
def sum_of(part, out, bands):
    """out[c] = the sum, rounded once, + 0."""
    c = cuda.grid(1)
    if c < out.size:
        out[c] = add(narrow(total64(part, c, bands)), ZERO)


@kernel
def mean_of(part, bands, count, mean64, mean):
    """mean = the sum over count, before and after rounding."""
    c = cuda.grid(1)
    if c < mean.size:
        mean64[c] = divide64(total64(part, c, bands), count)
        mean[c] = narrow(mean64[c])


@kernel
def variance_of(part, bands, count, rest, var, unbiased):
    """var = the sum over count; unbiased = var * count / rest, rest being count - 1 but at least 1."""
    c = cuda.grid(1)
    if c < var.size:
        var64 = divide64(total64(part, c, bands), count)
        var[c] = narrow(var64)
        unbiased[c] = narrow(divide64(multiply64(var64, count), rest))


@kernel
def sum_and_mean_of(part, bands, count, out, mean):
    """out = the sum, rounded once, + 0; mean = the sum over count, rounded once."""
    c = cuda.grid(1)
    if c < out.size:
        sum64 = total64(part, c, bands)
        out[c] = add(narrow(sum64), ZERO)
        mean[c] = narrow(divide64(sum64, count))


# ---- value by value (rule 5): one thread per value ------------------------------------------------------------------


@device
def inverse_deviation(var, eps):
    return divide(ONE, sqrt(add(var, eps)))


@kernel
def batch_norm(x, mean, var, gamma, beta, eps, y, pixels, rectified):
    """y = fma(gamma, (x - mean) * inv, beta)."""
    i = cuda.grid(1)
    if i < y.size:
        c = i // pixels % mean.size
        xhat = multiply(subtract(x[i], mean[c]), inverse_deviation(var[c], eps))
        value = fma(gamma[c], xhat, beta[c])
        y[i] = ZERO if rectified and not value > ZERO else value


@kernel
def batch_norm_gradient(dy, x, mean, var, gamma, eps, dbeta_mean, dgamma_mean, dx, pixels, images):
    """dx = (gamma * inv) * fma(-xhat, b, dy - a), a, b the means of dy and of dy * xhat; +0 where no image is."""
    i = cuda.grid(1)
    if i < dx.size:
        c = i // pixels % mean.size
        inv = inverse_deviation(var[c], eps)
        xhat = multiply(subtract(x[i], mean[c]), inv)
        inner = fma(-xhat, dgamma_mean[c], subtract(dy[i], dbeta_mean[c]))
        image = i // pixels // mean.size * LANES + i % LANES
        dx[i] = multiply(multiply(gamma[c], inv), inner) if there(image, images) else ZERO


@kernel
def batch_norm_input_gradient(dy, var, gamma, eps, dx, pixels):
    """dx = dy * (gamma * inv)."""
    i = cuda.grid(1)
    if i < dx.size:
        c = i // pixels % var.size
        dx[i] = multiply(dy[i], multiply(gamma[c], inverse_deviation(var[c], eps)))


# ---- the mean of each map, within its image: x (maps, position, lane), a map being a channel of a block --------------


@kernel
def map_sums(x, part, band):
    """part[t, i] = the float64 sum of band t of map, or line, and lane i. One thread each."""
    i = cuda.grid(1)
    if i < part.size:
        t, k = i // part.shape[1], i % part.shape[1]
        acc = ZERO64
        for p in range(t * band, min((t + 1) * band, x.shape[1])):
            acc = add64(acc, widen(x[k // LANES, p, k % LANES]))
        part[t, k] = acc


@kernel
def global_avg_pool(part, y, positions):
    """y[i] = the tree over the bands, over the number of positions, + 0. One thread per map and lane; y is flat."""
    i = cuda.grid(1)
    if i < y.size:
        column_tree64(part, i, 0, part.shape[0], 1)
        y[i] = add(narrow(divide64(part[0, i], positions)), ZERO)


@kernel
def global_avg_pool_gradient(dy, dx, positions):
    """dx[map, p, lane] = dy[map, lane] / positions. One thread per value of dx."""
    i = cuda.grid(1)
    if i < dx.size:
        lane, p, k = i % LANES, i // LANES % dx.shape[1], i // LANES // dx.shape[1]
        dx[k, p, lane] = divide(dy[k, lane], positions)
