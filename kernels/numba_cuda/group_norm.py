"""Group norm and layer norm: sums within each image in float64 (rules 3 and 4), and what is done with them (rule 5).

The values of a group of channels are a line of M values: (lines, M, lane), a line being a group of a block. A line's
sums are made of bands of 64 values, one thread per band, line and lane, in `part` (bands, lines * 32); norm.map_sums is
the plain one. Then one thread a line and lane runs the tree over them. What is computed value by value is flat: value i
has map i // pixels, pixels being the positions times 32 lanes; its line is map // channels, `channels` being those of a
group.
"""

import numpy as np
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba_cuda.arithmetic import (
    ZERO,
    add64,
    divide64,
    fma,
    multiply,
    multiply64,
    narrow,
    subtract,
    subtract64,
    widen,
)
from gpucnn.kernels.numba_cuda.compiler import LANES, device, kernel
from gpucnn.kernels.numba_cuda.norm import band_of, inverse_deviation
from gpucnn.kernels.numba_cuda.sums import column_tree64, keep, lane_tree64, there
from numba import cuda, float64

ZERO64 = np.float64(0)


@device
def mean64_of(part, i, count):
    """The tree over column i of part, over count."""
    column_tree64(part, i, 0, part.shape[0], 1)
    return divide64(part[0, i], count)


@kernel
def line_square_sums(x, mean64, part):
    """part = the sums of (x - mean)**2, mean64 (lines * 32,) not rounded to float32."""
    i = cuda.grid(1)
    if i < part.size:
        t, k = i // part.shape[1], i % part.shape[1]
        acc = ZERO64
        for p in range(t * BAND, min((t + 1) * BAND, x.shape[1])):
            d = subtract64(widen(x[k // LANES, p, k % LANES]), mean64[k])
            acc = add64(acc, multiply64(d, d))
        part[t, k] = acc


@kernel
def line_mean_of(part, count, mean64, mean):
    """mean = the sum over count, before and after rounding. One thread a line and lane."""
    i = cuda.grid(1)
    if i < mean.size:
        mean64[i] = mean64_of(part, i, count)
        mean[i] = narrow(mean64[i])


@kernel
def group_norm(x, mean, var, gamma, beta, eps, y, pixels, channels, rectified):
    """y = fma(gamma, (x - mean) * inv, beta). One thread per value."""
    i = cuda.grid(1)
    if i < y.size:
        k = i // pixels // channels * LANES + i % LANES
        c = i // pixels % gamma.size
        xhat = multiply(subtract(x[i], mean[k]), inverse_deviation(var[k], eps))
        value = fma(gamma[c], xhat, beta[c])
        y[i] = ZERO if rectified and not value > ZERO else value


@kernel
def line_gradient_sums(dy, x, mean, var, gamma, eps, plain, weighted, positions, channels):
    """plain = the sums of gamma * dy, weighted = those of that times xhat; dy and x (lines, M, lane)."""
    i = cuda.grid(1)
    if i < plain.size:
        t, k = i // plain.shape[1], i % plain.shape[1]
        line, lane = k // LANES, k % LANES
        first = line % (gamma.size // channels) * channels
        inv = inverse_deviation(var[k], eps)
        by_one, by_xhat = ZERO64, ZERO64
        for p in range(t * BAND, min((t + 1) * BAND, x.shape[1])):
            g = widen(multiply(gamma[first + p // positions], dy[line, p, lane]))
            xhat = multiply(subtract(x[line, p, lane], mean[k]), inv)
            by_one = add64(by_one, g)
            by_xhat = add64(by_xhat, multiply64(g, widen(xhat)))
        plain[t, k] = by_one
        weighted[t, k] = by_xhat


@kernel
def group_norm_gradient(dy, x, mean, var, gamma, eps, a, b, dx, pixels, channels):
    """dx = inv * fma(-xhat, b, gamma * dy - a). One thread per value."""
    i = cuda.grid(1)
    if i < dx.size:
        k = i // pixels // channels * LANES + i % LANES
        inv = inverse_deviation(var[k], eps)
        xhat = multiply(subtract(x[i], mean[k]), inv)
        g = multiply(gamma[i // pixels % gamma.size], dy[i])
        dx[i] = multiply(inv, fma(-xhat, b[k], subtract(g, a[k])))


@kernel
def group_product_sums(dy, x, mean, var, eps, channels, part, images, band):
    """part = the sums of dy * xhat: a block of 32 threads a channel, band and block of lanes, as in norm.py."""
    shared = cuda.shared.array(0, float64)
    lane = cuda.threadIdx.x
    c, t, b, bands, first, stop = band_of(cuda.blockIdx.x, x, band)
    k = (b * (x.shape[1] // channels) + c // channels) * LANES + lane
    inv = inverse_deviation(var[k], eps)
    acc = ZERO64
    if there(b * LANES + lane, images):
        for p in range(first, stop):
            xhat = multiply(subtract(x[b, c, p, lane], mean[k]), inv)
            acc = add64(acc, multiply64(widen(dy[b, c, p, lane]), widen(xhat)))
    shared[lane] = acc
    lane_tree64(shared, lane)
    keep(part, c, shared[lane], b, t, bands, lane)
