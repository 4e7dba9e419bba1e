"""Softmax with its gradient, and softmax cross-entropy, plain and with class weights and label smoothing (rule 8).

One thread an image, logits (block, class, lane); softmax of maps one thread an image and position.
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
    narrow,
    subtract,
    widen,
)
from gpucnn.kernels.numba_cuda.compiler import LANES, device, kernel
from gpucnn.kernels.numba_cuda.elementary import exp64, log64
from gpucnn.kernels.numba_cuda.sums import column_tree64, there
from numba import cuda

ZERO64, ONE64 = np.float64(0), np.float64(1)


@device
def exponentials(z, e, b, lane):
    """e = exp(z - max) for one image; returns (max, its first index, the sequential sum of e)."""
    largest, first = z[b, 0, lane], 0
    for c in range(1, z.shape[1]):
        if z[b, c, lane] > largest:
            largest, first = z[b, c, lane], c
    total = ZERO
    for c in range(z.shape[1]):
        value = narrow(exp64(widen(subtract(z[b, c, lane], largest))))
        e[b, c, lane] = value
        total = add(total, value)
    return largest, first, total


@kernel
def softmax(z, y):
    """y = e / s, both (block, C, position, lane)."""
    i = cuda.grid(1)
    positions = z.shape[2]
    if i < z.shape[0] * positions * LANES:
        lane, p, b = i % LANES, i // LANES % positions, i // LANES // positions
        _, _, total = exponentials(z[:, :, p], y[:, :, p], b, lane)
        for c in range(z.shape[1]):
            y[b, c, p, lane] = divide(y[b, c, p, lane], total)


@kernel
def softmax_gradient(dy, y, dx):
    """dx = (dy - s) * y, s the chain of dy * y along the channels of (block, C, position, lane). A thread per pixel."""
    i = cuda.grid(1)
    positions = y.shape[2]
    if i < y.shape[0] * positions * LANES:
        lane, p, b = i % LANES, i // LANES % positions, i // LANES // positions
        total = ZERO
        for c in range(y.shape[1]):
            total = fma(dy[b, c, p, lane], y[b, c, p, lane], total)
        for c in range(y.shape[1]):
            dx[b, c, p, lane] = multiply(subtract(dy[b, c, p, lane], total), y[b, c, p, lane])


@kernel
def softmax_cross_entropy(z, labels, dz, losses, hits, scale):
    """dz = (p - t) * scale, +0 where there is no image; losses (N, 1) and hits (N,) float64 of the real images.

    labels (block, lane), -1 where there is no image.
    """
    i = cuda.grid(1)
    if i < labels.size:
        b, lane = i // LANES, i % LANES
        target = labels[b, lane]
        largest, first, total = exponentials(z, dz, b, lane)
        for c in range(z.shape[1]):
            p = divide(dz[b, c, lane], total)
            hot = ONE if c == target else ZERO
            dz[b, c, lane] = multiply(subtract(p, hot), scale) if target >= 0 else ZERO
        if there(i, losses.shape[0]):
            loss = subtract(narrow(log64(widen(total))), subtract(z[b, target, lane], largest))
            losses[i, 0] = widen(loss)
            hits[i] = ONE64 if first == target else ZERO64


@kernel
def mean_loss(losses, hits, count, loss, totals):
    """loss (1,) = the mean; totals (2,) gains the losses' sum and the number of hits. A single thread.

    With one position an image, the tree over 16 images and then over the blocks is one tree over all images.
    """
    if cuda.grid(1) == 0:
        column_tree64(losses, 0, 0, losses.shape[0], 1)
        right = ZERO64
        for i in range(hits.size):
            right = add64(right, hits[i])
        loss[0] = narrow(divide64(losses[0, 0], count))
        totals[0] = add64(totals[0], losses[0, 0])
        totals[1] = add64(totals[1], right)


@kernel
def label_weights(labels, weights, own, total):
    """total (1,) = the weights of all images' labels, added up by way of own (N, 1), float64. A single thread."""
    if cuda.grid(1) == 0:
        images = own.shape[0]
        for i in range(images):
            own[i, 0] = widen(weights[labels[i // LANES, i % LANES]])
        column_tree64(own, 0, 0, images, 1)
        total[0] = own[0, 0]


@kernel
def weighted_cross_entropy(z, labels, weights, share, keep, weight, dz, losses, hits):
    """softmax_cross_entropy where class c asks for q = share * weights[c], the label for keep * weights[label] more.

    weight (1,) float64 is what label_weights gave.
    """
    i = cuda.grid(1)
    if i < labels.size:
        b, lane = i // LANES, i % LANES
        target, scale = labels[b, lane], narrow(divide64(ONE64, weight[0]))
        largest, first, total = exponentials(z, dz, b, lane)
        of_log = narrow(log64(widen(total)))
        together, loss = ZERO, ZERO
        for c in range(z.shape[1]):
            q = multiply(share, weights[c])
            q = fma(keep, weights[c], q) if c == target else q
            together = add(together, q)
            loss = fma(q, subtract(of_log, subtract(z[b, c, lane], largest)), loss)
        for c in range(z.shape[1]):
            q = multiply(share, weights[c])
            q = fma(keep, weights[c], q) if c == target else q
            p = divide(dz[b, c, lane], total)
            dz[b, c, lane] = multiply(fma(p, together, -q), scale) if target >= 0 else ZERO
        if there(i, losses.shape[0]):
            losses[i, 0] = widen(loss)
            hits[i] = ONE64 if first == target else ZERO64


@kernel
def weighted_mean_loss(losses, hits, weight, loss, totals):
    """mean_loss divided by weight (1,), which totals (3,) gains too."""
    if cuda.grid(1) == 0:
        column_tree64(losses, 0, 0, losses.shape[0], 1)
        right = ZERO64
        for i in range(hits.size):
            right = add64(right, hits[i])
        loss[0] = narrow(divide64(losses[0, 0], weight[0]))
        totals[0] = add64(totals[0], losses[0, 0])
        totals[1] = add64(totals[1], right)
        totals[2] = add64(totals[2], weight[0])
