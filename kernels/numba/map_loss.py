"""Cross-entropy and Dice of label maps (rule 8), on (block, class, positions * 16).

Labels (block, positions * 16) are float32: class + 1, or 0 for a position to ignore.
"""

import numpy as np
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.elementary import log64
from gpucnn.kernels.numba.loss import exponentials
from gpucnn.kernels.numba.norm import lanes_of
from gpucnn.kernels.numba.simd import (
    LANES,
    add,
    add64,
    divide,
    divide64,
    fma,
    lane_numbers,
    load,
    load64,
    multiply,
    multiply64,
    narrow,
    splat,
    splat64,
    store,
    store64,
    subtract,
    subtract64,
    tree64,
    where_equal,
    where_greater,
    widen,
)
from gpucnn.kernels.numba.sums import push64, push_lanes, total64, total_lanes
from gpucnn.kernels.numba.team import leads, prange

ZERO, ONE = np.float32(0), np.float32(1)
HALF = np.float32(0.5)


@inner
def _labels_of(labels, i, lanes):
    """What 16 images have at a position; 0 where no image is."""
    return where_greater(splat(np.float32(lanes)), lane_numbers(), load(labels, i), splat(ZERO))


@inner
def _total(part, slots):
    """The tree over the bands of each block, then over the blocks; part (blocks, bands), slots (2, levels)."""
    for b in range(part.shape[0]):
        for t in range(part.shape[1]):
            push64(slots[0], t, part[b, t])
        push64(slots[1], b, total64(slots[0], part.shape[1]))
    return total64(slots[1], part.shape[0])


@kernel("label map weights")
def label_map_weights(labels, weights, images, band, sums, part, slots):
    """sums (2,) = the labels' weights added up, and their number; part (2, blocks, bands), slots (2, levels)."""
    bands, size = part.shape[2], labels.shape[1]
    for u in prange(part.shape[1] * bands):
        b, t = np.int64(u) // bands, np.int64(u) % bands
        lanes = lanes_of(images, b)
        weight, count = splat64(0.0), splat64(0.0)
        for i in range(t * band * LANES, min((t + 1) * band * LANES, size), LANES):
            label, own = _labels_of(labels[b], i, lanes), splat(ZERO)
            for c in range(weights.shape[0]):
                own = where_equal(label, splat(np.float32(c + 1)), splat(weights[c]), own)
            weight = add64(weight, widen(own))
            count = add64(count, widen(where_greater(label, splat(HALF), splat(ONE), splat(ZERO))))
        part[0, b, t] = tree64(weight, lanes)
        part[1, b, t] = tree64(count, lanes)
    if leads():
        for k in range(2):
            sums[k] = _total(part[k], slots)


@kernel("map cross-entropy")
def map_cross_entropy(z, labels, weights, share, keep, sums, dz, images, band, loss, totals, part, slots):
    """weighted_cross_entropy at each position; sums are label_map_weights'; totals (4,)."""
    classes, size, bands, weight = z.shape[1], z.shape[2], part.shape[2], sums[0]
    scale = np.float32(1.0 / weight)
    for u in prange(z.shape[0] * bands):
        b, t = np.int64(u) // bands, np.int64(u) % bands
        lanes = lanes_of(images, b)
        acc, hits, zero = splat64(0.0), splat64(0.0), splat(ZERO)
        for i in range(t * band * LANES, min((t + 1) * band * LANES, size), LANES):
            logits, gradients = z[b, :, i:], dz[b, :, i:]
            label = _labels_of(labels[b], i, lanes)
            largest, first, total = exponentials(logits, gradients)
            log_sum, together, each = narrow(log64(widen(total))), zero, zero
            for c in range(classes):
                w = splat(weights[c])
                q = multiply(splat(share), w)
                q = where_equal(label, splat(np.float32(c + 1)), fma(splat(keep), w, q), q)
                together = add(together, q)
                each = fma(q, subtract(log_sum, subtract(load(logits[c], 0), largest)), each)
            for c in range(classes):
                w = splat(weights[c])
                q = multiply(splat(share), w)
                q = where_equal(label, splat(np.float32(c + 1)), fma(splat(keep), w, q), q)
                p = divide(load(gradients[c], 0), total)
                v = multiply(fma(p, together, multiply(splat(np.float32(-1)), q)), splat(scale))
                store(gradients[c], 0, where_greater(label, splat(HALF), v, zero))
            acc = add64(acc, widen(where_greater(label, splat(HALF), each, zero)))
            hits = add64(hits, widen(where_equal(label, add(first, splat(ONE)), splat(ONE), zero)))
        part[0, b, t] = tree64(acc, lanes)
        part[1, b, t] = tree64(hits, lanes)
    if leads():
        loss_sum = _total(part[0], slots)
        loss[0] = np.float32(loss_sum / weight) if weight > 0 else ZERO
        totals[0] += loss_sum
        totals[1] += _total(part[1], slots)
        totals[2] += weight
        totals[3] += sums[1]


@kernel("dice")
def dice(p, labels, dp, images, smooth, loss, totals, terms, scratch, slots):
    """loss (1,), dp, totals (1,) as the protocol defines them.

    terms (block, class, 16) float64; scratch (block, class, 2, levels, 16) and slots (levels,) for trees.
    """
    blocks, classes, size = p.shape
    values = np.float64(images * classes)
    for u in prange(blocks * classes):
        b, c = np.int64(u) // classes, np.int64(u) % classes
        lanes, zero = lanes_of(images, b), splat(ZERO)
        own, bands, labeled = splat(np.float32(c + 1)), 0, splat64(0.0)
        for start in range(0, size, BAND * LANES):
            overlap, mass = splat64(0.0), splat64(0.0)
            for i in range(start, min(start + BAND * LANES, size), LANES):
                label, v = _labels_of(labels[b], i, lanes), load(p[b, c], i)
                overlap = add64(overlap, widen(where_equal(label, own, v, zero)))
                mass = add64(mass, widen(where_greater(label, splat(HALF), v, zero)))
                labeled = add64(labeled, widen(where_equal(label, own, splat(ONE), zero)))
            push_lanes(scratch[b, c, 0], bands, overlap)
            push_lanes(scratch[b, c, 1], bands, mass)
            bands += 1
        twice = multiply64(splat64(2.0), total_lanes(scratch[b, c, 0], bands))
        below = add64(add64(total_lanes(scratch[b, c, 1], bands), labeled), splat64(smooth))
        ratio = divide64(add64(twice, splat64(smooth)), below)
        store64(terms[b, c], 0, subtract64(splat64(1.0), ratio))
        below = multiply64(below, splat64(values))
        on, off = narrow(divide64(subtract64(ratio, splat64(2.0)), below)), narrow(divide64(ratio, below))
        for i in range(0, size, LANES):
            label = _labels_of(labels[b], i, lanes)
            store(dp[b, c], i, where_equal(label, own, on, where_greater(label, splat(HALF), off, zero)))
    if leads():
        for b in range(blocks):
            each = splat64(0.0)
            for c in range(classes):
                each = add64(each, load64(terms[b, c], 0))
            push64(slots, b, tree64(divide64(each, splat64(np.float64(classes))), lanes_of(images, b)))
        loss_sum = total64(slots, blocks)
        loss[0] = np.float32(loss_sum / images)
        totals[0] += loss_sum
