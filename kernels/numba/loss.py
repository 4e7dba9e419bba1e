"""Softmax with its gradient, and softmax cross-entropy, plain and with weights and smoothing (rule 8)."""

import numpy as np
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.elementary import log64
from gpucnn.kernels.numba.elementary32 import exp
from gpucnn.kernels.numba.simd import (
    LANES,
    add,
    divide,
    fma,
    load,
    load_integers,
    multiply,
    narrow,
    splat,
    store,
    subtract,
    tree64,
    where_equal,
    where_greater,
    widen,
)
from gpucnn.kernels.numba.sums import push64, total64
from gpucnn.kernels.numba.team import leads, prange

ZERO, ONE = np.float32(0), np.float32(1)


@inner
def exponentials(z, e):
    """e (C, lane) = exp(z - max); returns (max, its first index, the sequential sum of e)."""
    classes = z.shape[0]
    largest, first = load(z[0], 0), splat(ZERO)
    for c in range(1, classes):
        v = load(z[c], 0)
        first = where_greater(v, largest, splat(np.float32(c)), first)
        largest = where_greater(v, largest, v, largest)
    total = splat(ZERO)
    for c in range(classes):
        v = exp(subtract(load(z[c], 0), largest))
        store(e[c], 0, v)
        total = add(total, v)
    return largest, first, total


@kernel("softmax")
def softmax(z, y):
    """y = e / s along the channels of z (block, C, positions * lanes), at each position."""
    for u in prange(z.shape[0]):
        b = np.int64(u)
        for i in range(0, z.shape[2], LANES):
            logits, results = z[b, :, i:], y[b, :, i:]
            _, _, total = exponentials(logits, results)
            for c in range(z.shape[1]):
                store(results[c], 0, divide(load(results[c], 0), total))


@kernel("softmax gradient")
def softmax_gradient(dy, y, dx):
    """dx = (dy - s) * y at each position of (block, C, positions * lanes), s the chain of dy * y along the channels."""
    for u in prange(y.shape[0]):
        b = np.int64(u)
        for i in range(0, y.shape[2], LANES):
            gradients, results, out = dy[b, :, i:], y[b, :, i:], dx[b, :, i:]
            total = splat(ZERO)
            for c in range(y.shape[1]):
                total = fma(load(gradients[c], 0), load(results[c], 0), total)
            for c in range(y.shape[1]):
                store(out[c], 0, multiply(subtract(load(gradients[c], 0), total), load(results[c], 0)))


@inner
def finish(part, scratch, divisor, loss, totals):
    """loss (1,) = the sum of part[0] / divisor; totals (2 or more,) gains it undivided, and the hits in part[1]."""
    hits, blocks = 0.0, part.shape[1]
    for b in range(blocks):
        push64(scratch, b, part[0, b])
        hits += part[1, b]
    loss_sum = total64(scratch, blocks)
    loss[0] = np.float32(loss_sum / divisor)
    totals[0] += loss_sum
    totals[1] += hits


@kernel("softmax cross-entropy")
def softmax_cross_entropy(z, labels, dz, images, scale, loss, totals, part, scratch):
    """loss (1,) = the mean; dz = (p - t) * scale; totals (2,) gains the losses' sum and the number of hits.

    z, dz (block, C, lane); labels (block, lane), -1 past the last image; part (2, blocks) and scratch (levels,)
    float64.
    """
    blocks, classes = z.shape[0], z.shape[1]
    for u in prange(blocks):
        b = np.int64(u)
        lanes = min(LANES, images - b * LANES)
        largest, first, total = exponentials(z[b], dz[b])
        target = load_integers(labels[b], 0)
        of_target, factor = splat(ZERO), splat(scale)
        for c in range(classes):
            here = splat(np.float32(c))
            of_target = where_equal(target, here, load(z[b, c], 0), of_target)
            p = divide(load(dz[b, c], 0), total)
            v = multiply(subtract(p, where_equal(target, here, splat(ONE), splat(ZERO))), factor)
            store(dz[b, c], 0, where_greater(target, splat(np.float32(-0.5)), v, splat(ZERO)))
        each = subtract(narrow(log64(widen(total))), subtract(of_target, largest))
        part[0, b] = tree64(widen(each), lanes)
        part[1, b] = tree64(widen(where_equal(target, first, splat(ONE), splat(ZERO))), lanes)
    if leads():
        finish(part, scratch, images, loss, totals)


@kernel("label weights")
def label_weights(labels, weights, images, total, scratch):
    """total (1,) = the weights (classes,) of all images' labels, added up; scratch (levels,); both float64."""
    for b in range(labels.shape[0]):
        own = splat(ZERO)
        target = load_integers(labels[b], 0)
        for c in range(weights.shape[0]):
            own = where_equal(target, splat(np.float32(c)), splat(weights[c]), own)
        push64(scratch, b, tree64(widen(own), min(LANES, images - b * LANES)))
    total[0] = total64(scratch, labels.shape[0])


@kernel("weighted cross-entropy")
def weighted_cross_entropy(z, labels, weights, weight, share, keep, dz, images, loss, totals, part, scratch):
    """The same with class weights (classes,) and smoothing: class c asks for share * w_c, the label for keep * w_c
    more.

    weight (1,) float64 is the sum of all images' weights; totals (3,); part (2, blocks) and scratch (levels,) float64.
    """
    blocks, classes = z.shape[0], z.shape[1]
    scale = np.float32(1.0 / weight[0])
    for u in prange(blocks):
        b = np.int64(u)
        lanes = min(LANES, images - b * LANES)
        largest, first, total = exponentials(z[b], dz[b])
        target, of_log = load_integers(labels[b], 0), narrow(log64(widen(total)))
        together, each = splat(ZERO), splat(ZERO)
        for c in range(classes):
            w = splat(weights[c])
            asked = multiply(splat(share), w)
            asked = where_equal(target, splat(np.float32(c)), fma(splat(keep), w, asked), asked)
            together = add(together, asked)
            each = fma(asked, subtract(of_log, subtract(load(z[b, c], 0), largest)), each)
        for c in range(classes):
            w = splat(weights[c])
            asked = multiply(splat(share), w)
            asked = where_equal(target, splat(np.float32(c)), fma(splat(keep), w, asked), asked)
            p = divide(load(dz[b, c], 0), total)
            v = multiply(fma(p, together, multiply(splat(np.float32(-1)), asked)), splat(scale))
            store(dz[b, c], 0, where_greater(target, splat(np.float32(-0.5)), v, splat(ZERO)))
        part[0, b] = tree64(widen(each), lanes)
        part[1, b] = tree64(widen(where_equal(target, first, splat(ONE), splat(ZERO))), lanes)
    if leads():
        finish(part, scratch, weight[0], loss, totals)
        totals[2] += weight[0]
