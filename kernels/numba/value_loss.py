"""Losses of values against targets of the same shape, with their gradients (rule 8): one kernel a kind."""

import numpy as np
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.elementary import exp64, log64
from gpucnn.kernels.numba.simd import (
    LANES,
    add64,
    divide64,
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
    where_greater64,
    where_less64,
    widen,
)
from gpucnn.kernels.numba.sums import push64, total64
from gpucnn.kernels.numba.team import leads, prange

ZERO = np.float32(0)


@inner
def _magnitude(d):
    return where_less64(d, splat64(0.0), subtract64(splat64(0.0), d), d)


@inner
def _mean_squared(x, t, delta):
    """(the loss in float64, the gradient before the division by the number of values)."""
    d = subtract(x, t)
    wide = widen(d)
    return multiply64(wide, wide), d


@inner
def _mean_absolute(x, t, delta):
    d, zero = subtract(x, t), splat(ZERO)
    one = splat(np.float32(1))
    sign = where_greater(d, zero, one, where_greater(zero, d, subtract(zero, one), zero))
    return _magnitude(widen(d)), sign


@inner
def _huber(x, t, delta):
    d, limit = subtract(x, t), splat(delta)
    a, far, half = _magnitude(widen(d)), widen(limit), splat64(0.5)
    near_loss = multiply64(half, multiply64(a, a))
    far_loss = multiply64(far, subtract64(a, multiply64(half, far)))
    least = subtract(splat(ZERO), limit)
    slope = where_greater(least, d, least, where_greater(d, limit, limit, d))
    return where_greater64(a, far, far_loss, near_loss), slope


@inner
def _binary_cross_entropy(x, t, delta):
    x64, t64, zero, one = widen(x), widen(t), splat64(0.0), splat64(1.0)
    e = exp64(subtract64(zero, _magnitude(x64)))
    total = add64(one, e)
    loss = subtract64(where_greater64(x64, zero, x64, zero), multiply64(x64, t64))
    sigmoid = divide64(where_greater64(x64, zero, one, e), total)
    return add64(loss, log64(total)), narrow(subtract64(sigmoid, t64))


def _kernel_of(kind, formula):
    @kernel(f"value loss {kind}")
    def value_loss(x, t, dx, images, values, scale, delta, loss, totals, part, scratch):
        """loss (1,) = the mean; dx the gradient; totals (1,) gains the sum.

        x, t, dx (block, values * lanes); part (blocks,) and scratch (blocks + 1, levels) float64.
        """
        blocks = x.shape[0]
        for u in prange(blocks):
            b = np.int64(u)
            lanes, bands = min(LANES, images - b * LANES), 0
            outputs, targets, gradients, slots = x[b], t[b], dx[b], scratch[b]
            for first in range(0, x.shape[1], BAND * LANES):
                acc = splat64(0.0)
                for i in range(first, min(first + BAND * LANES, x.shape[1]), LANES):
                    term, slope = formula(load(outputs, i), load(targets, i), delta)
                    acc = add64(acc, term)
                    store(gradients, i, multiply(slope, splat(scale)))
                push64(slots, bands, tree64(acc, lanes))
                bands += 1
            if lanes < LANES:  # no image: no gradient
                for i in range(0, x.shape[1], LANES):
                    for lane in range(lanes, LANES):
                        gradients[i + lane] = ZERO
            part[b] = total64(slots, bands)
        if leads():
            slots = scratch[blocks]
            for b in range(blocks):
                push64(slots, b, part[b])
            loss_sum = total64(slots, blocks)
            loss[0] = np.float32(loss_sum / (images * values))
            totals[0] += loss_sum

    return value_loss


value_loss = {
    "mean_squared": _kernel_of("mean squared", _mean_squared),
    "mean_absolute": _kernel_of("mean absolute", _mean_absolute),
    "huber": _kernel_of("huber", _huber),
    "binary_cross_entropy": _kernel_of("binary cross-entropy", _binary_cross_entropy),
}
