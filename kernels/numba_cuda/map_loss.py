"""Cross-entropy and Dice of label maps (rule 8), on (block, class, position, lane).

Labels (block, 1, position, lane) are float32: class + 1, or 0 for a position to ignore. Cross-entropy sums over images
and positions, Dice within each image and class over a line, as sums.py and group_norm.py do.
"""

import numpy as np
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba_cuda.arithmetic import (
    ZERO,
    add,
    add64,
    divide,
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
from gpucnn.kernels.numba_cuda.elementary import log64
from gpucnn.kernels.numba_cuda.loss import exponentials
from gpucnn.kernels.numba_cuda.norm import band_of
from gpucnn.kernels.numba_cuda.sums import column_tree64, keep, lane_tree64, there, total64
from numba import cuda, float64

ZERO64, ONE64, TWO64 = np.float64(0), np.float64(1), np.float64(2)


@device
def class_at(labels, b, p, lane, images):
    """The class that an image has at a position, -1 where there is none."""
    return int(labels[b, 0, p, lane]) - 1 if there(b * LANES + lane, images) else -1


# ---- cross-entropy: one block of 32 threads a band and block of lanes; a thread is an image --------------------------


@kernel
def label_map_weights(labels, weights, part, images, band):
    """part = the sums of the labels' weights, in column 0, and the numbers of labels, in column 1."""
    shared = cuda.shared.array(0, float64)
    lane = cuda.threadIdx.x
    _, t, b, bands, first, stop = band_of(cuda.blockIdx.x, labels, band)
    weight, count = ZERO64, ZERO64
    for p in range(first, stop):
        label = class_at(labels, b, p, lane, images)
        if label >= 0:
            weight, count = add64(weight, widen(weights[label])), add64(count, ONE64)
    shared[lane] = weight
    lane_tree64(shared, lane)
    keep(part, 0, shared[lane], b, t, bands, lane)
    cuda.syncthreads()
    shared[lane] = count
    lane_tree64(shared, lane)
    keep(part, 1, shared[lane], b, t, bands, lane)


@kernel
def sums_of(part, bands, sums):
    """sums (2,) = the columns of part. A single thread."""
    if cuda.grid(1) == 0:
        for k in range(2):
            sums[k] = total64(part, k, bands)


@kernel
def map_cross_entropy(z, labels, weights, share, keep_most, weight, dz, part, images, band):
    """dz, and part = the sums of the losses, in column 0, and the hits, in column 1; weight is what sums_of gave."""
    shared = cuda.shared.array(0, float64)
    lane, classes = cuda.threadIdx.x, z.shape[1]
    _, t, b, bands, first, stop = band_of(cuda.blockIdx.x, labels, band)
    losses, hits = ZERO64, ZERO64
    for p in range(first, stop):
        label = class_at(labels, b, p, lane, images)
        if label >= 0:
            scale = narrow(divide64(ONE64, weight[0]))
            largest, best, total = exponentials(z[:, :, p], dz[:, :, p], b, lane)
            log_sum, together, loss = narrow(log64(widen(total))), ZERO, ZERO
            for c in range(classes):
                q = multiply(share, weights[c])
                q = fma(keep_most, weights[c], q) if c == label else q
                together = add(together, q)
                loss = fma(q, subtract(log_sum, subtract(z[b, c, p, lane], largest)), loss)
            for c in range(classes):
                q = multiply(share, weights[c])
                q = fma(keep_most, weights[c], q) if c == label else q
                share_of_class = divide(dz[b, c, p, lane], total)
                dz[b, c, p, lane] = multiply(fma(share_of_class, together, -q), scale)
            losses = add64(losses, widen(loss))
            hits = add64(hits, ONE64 if best == label else ZERO64)
        else:
            for c in range(classes):
                dz[b, c, p, lane] = ZERO
    shared[lane] = losses
    lane_tree64(shared, lane)
    keep(part, 0, shared[lane], b, t, bands, lane)
    cuda.syncthreads()
    shared[lane] = hits
    lane_tree64(shared, lane)
    keep(part, 1, shared[lane], b, t, bands, lane)


@kernel
def mean_map_loss(part, bands, weight, loss, totals):
    """loss (1,) = the mean; totals (4,) gains the losses' sum, the hits, and both of weight. A single thread."""
    if cuda.grid(1) == 0:
        losses = total64(part, 0, bands)
        loss[0] = narrow(divide64(losses, weight[0])) if weight[0] > ZERO64 else ZERO
        totals[0] = add64(totals[0], losses)
        totals[1] = add64(totals[1], total64(part, 1, bands))
        totals[2] = add64(totals[2], weight[0])
        totals[3] = add64(totals[3], weight[1])


# ---- Dice: line k of an image and class is block, class and lane together --------------------------------------------


@kernel
def dice_band_sums(p, labels, overlap, mass, labeled, images):
    """The sums of a band of 64 positions, (bands, lines): of p at the class's labels, of p, of labels of the class."""
    i = cuda.grid(1)
    if i < overlap.size:
        t, k = i // overlap.shape[1], i % overlap.shape[1]
        lane, c, b = k % LANES, k // LANES % p.shape[1], k // LANES // p.shape[1]
        own, every, count = ZERO64, ZERO64, ZERO64
        for x in range(t * BAND, min((t + 1) * BAND, p.shape[2])):
            label = class_at(labels, b, x, lane, images)
            if label >= 0:
                every = add64(every, widen(p[b, c, x, lane]))
            if label == c:
                own, count = add64(own, widen(p[b, c, x, lane])), add64(count, ONE64)
        overlap[t, k], mass[t, k], labeled[t, k] = own, every, count


@kernel
def dice_of_lines(overlap, mass, labeled, smooth, values, terms, on, off):
    """A line's term of the loss and the two values of its gradient. One thread a line."""
    k = cuda.grid(1)
    if k < terms.size:
        for part in (overlap, mass, labeled):
            column_tree64(part, k, 0, part.shape[0], 1)
        below = add64(add64(mass[0, k], labeled[0, k]), smooth)
        ratio = divide64(add64(multiply64(TWO64, overlap[0, k]), smooth), below)
        terms[k] = subtract64(ONE64, ratio)
        below = multiply64(below, values)
        on[k], off[k] = narrow(divide64(subtract64(ratio, TWO64), below)), narrow(divide64(ratio, below))


@kernel
def dice_gradient(labels, on, off, dp, images):
    """dp of every value. One thread a value."""
    i = cuda.grid(1)
    classes, positions = dp.shape[1], dp.shape[2]
    if i < dp.size:
        lane, x, line = i % LANES, i // LANES % positions, i // LANES // positions
        c, b = line % classes, line // classes
        k, label = line * LANES + lane, class_at(labels, b, x, lane, images)
        dp[b, c, x, lane] = on[k] if label == c else off[k] if label >= 0 else ZERO


@kernel
def dice_mean(terms, classes, own, count, loss, totals):
    """loss (1,) = the mean of the images' losses, own (N, 1); totals (1,) gains their sum. A single thread."""
    if cuda.grid(1) == 0:
        images = own.shape[0]
        for n in range(images):
            each = ZERO64
            for c in range(classes):
                each = add64(each, terms[(n // LANES * classes + c) * LANES + n % LANES])
            own[n, 0] = divide64(each, float64(classes))
        column_tree64(own, 0, 0, images, 1)
        loss[0] = narrow(divide64(own[0, 0], count))
        totals[0] = add64(totals[0], own[0, 0])
