"""Losses of values against targets of the same shape, with their gradients (rule 8), on (block, value, lane).

An image's values are a line, cut into bands of 64; sums go through `part` as sums.py tells, of one column.
"""

import numpy as np
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba_cuda.arithmetic import (
    ONE,
    ZERO,
    add64,
    divide64,
    multiply,
    multiply64,
    narrow,
    subtract,
    subtract64,
    widen,
)
from gpucnn.kernels.numba_cuda.compiler import LANES, device, kernel
from gpucnn.kernels.numba_cuda.elementary import exp64, log64
from gpucnn.kernels.numba_cuda.sums import keep, lane_tree64, there, total64
from numba import cuda, float64

ZERO64, HALF64, ONE64 = np.float64(0), np.float64(0.5), np.float64(1)
KINDS = {"mean_squared": 0, "mean_absolute": 1, "huber": 2, "binary_cross_entropy": 3}


@device
def magnitude(d):
    return -d if d < ZERO64 else d


@device
def term_of(kind, x, t, delta):
    """(the loss in float64, the gradient before the division by the number of values)."""
    d = subtract(x, t)
    if kind == 0:
        return multiply64(widen(d), widen(d)), d
    if kind == 1:
        return magnitude(widen(d)), ONE if d > ZERO else -ONE if d < ZERO else ZERO
    if kind == 2:
        a, far = magnitude(widen(d)), widen(delta)
        loss = multiply64(HALF64, multiply64(a, a))
        if a > far:
            loss = multiply64(far, subtract64(a, multiply64(HALF64, far)))
        return loss, -delta if d < -delta else delta if d > delta else d
    v, target = widen(x), widen(t)
    near = subtract64(v if v > ZERO64 else ZERO64, multiply64(v, target))
    e = exp64(-magnitude(v))
    total = add64(ONE64, e)
    sigmoid = divide64(ONE64 if v > ZERO64 else e, total)
    return add64(near, log64(total)), narrow(subtract64(sigmoid, target))


@kernel
def value_loss(kind, x, t, dx, scale, delta, part, images):
    """dx, and part = the sums of the losses: one block of 32 threads a band and block of lanes;
    a thread is an image.
    """
    shared = cuda.shared.array(0, float64)
    lane, values = cuda.threadIdx.x, x.shape[1]
    bands = (values + BAND - 1) // BAND
    band, b = cuda.blockIdx.x % bands, cuda.blockIdx.x // bands
    acc = ZERO64
    for i in range(band * BAND, min((band + 1) * BAND, values)):
        if there(b * LANES + lane, images):
            loss, slope = term_of(kind, x[b, i, lane], t[b, i, lane], delta)
            acc = add64(acc, loss)
            dx[b, i, lane] = multiply(slope, scale)
        else:
            dx[b, i, lane] = ZERO
    shared[lane] = acc
    lane_tree64(shared, lane)
    keep(part, 0, shared[lane], b, band, bands, lane)


@kernel
def mean_value_loss(part, bands, count, loss, totals):
    """loss (1,) = the mean; totals (1,) gains the sum. A single thread."""
    if cuda.grid(1) == 0:
        total = total64(part, 0, bands)
        loss[0] = narrow(divide64(total, count))
        totals[0] = add64(totals[0], total)
