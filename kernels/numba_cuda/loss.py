"""Softmax, and softmax cross-entropy with its gradient (rule 8): one thread an image, logits (block, class, lane)."""

import numpy as np
from numba import cuda

from .arithmetic import ONE, ZERO, add, add64, divide, divide64, multiply, narrow, subtract, widen
from .compiler import LANES, device, kernel
from .elementary import exp64, log64
from .sums import column_tree64, there

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
    """y = e / s."""
    i = cuda.grid(1)
    if i < z.shape[0] * LANES:
        b, lane = i // LANES, i % LANES
        _, _, total = exponentials(z, y, b, lane)
        for c in range(z.shape[1]):
            y[b, c, lane] = divide(y[b, c, lane], total)


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
