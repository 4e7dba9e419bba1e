"""Softmax and losses as launches of kernels/cuda/loss.cu and value_loss.cu."""

import math

import numpy as np

from gpucnn.arithmetic.sums import BAND
from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import HALVES, LANES, ceil_div, i32
from gpucnn.backends.protocol import Array


class CudaLoss(CudaBase):
    """See the protocol for what each method does."""

    def softmax(self, x: Batch) -> Batch:
        y = self._like(x)
        positions = math.prod(x.spatial)
        units = x.data.shape[0] * positions
        sizes = i32(x.channels), i32(positions), i32(units)
        self._run("loss.cu", "softmax", (ceil_div(units, 4),), (LANES, 4), self._data(x), y.data, *sizes)
        return y

    def softmax_gradient(self, dy: Batch, y: Batch) -> Batch:
        dx, positions = self._like(y), math.prod(y.spatial)
        units = y.data.shape[0] * positions
        arguments = self._data(dy), self._data(y), dx.data, i32(y.channels), i32(positions), i32(units)
        self._run("loss.cu", "softmax_gradient", (ceil_div(units, 8),), (LANES, 8), *arguments)
        return dx

    def _softmax_cross_entropy(self, logits: Batch, labels: Array, dz: Batch, scale, mean: Array, totals) -> None:
        blocks = len(dz.data)
        part = self._empty((2, blocks * HALVES), np.float64)
        sizes = i32(logits.images), i32(blocks), i32(logits.channels), scale
        arguments = self._data(logits), labels, dz.data, mean, totals, part, self._counters_of(1)
        self._run("loss.cu", "softmax_cross_entropy", (ceil_div(blocks, 4),), (LANES, 4), *arguments, *sizes)

    def _label_weights(self, labels, weights, images: int, total: Array) -> None:
        part, sizes = self._empty((len(labels) * HALVES,), np.float64), (i32(images), i32(len(labels)))
        self._run("loss.cu", "label_weights", (1,), (LANES, 4), labels, weights, total, part, *sizes)

    def _weighted_cross_entropy(self, logits, labels, weights, weight, share, keep, dz, mean, totals) -> None:
        blocks = len(dz.data)
        part, sizes = self._empty((2, blocks * HALVES), np.float64), (i32(logits.images), i32(blocks))
        arguments = self._data(logits), labels, weights, share, keep, weight, dz.data, mean, totals, part
        counters = self._counters_of(1)
        self._run(
            "loss.cu",
            "weighted_cross_entropy",
            (ceil_div(blocks, 4),),
            (LANES, 4),
            *arguments,
            counters,
            *sizes,
            i32(logits.channels),
        )

    def _value_loss(self, kind, x, targets, dx, values: int, scale, delta, mean, totals) -> None:
        blocks, bands = len(dx.data), ceil_div(values, BAND)
        part = self._empty((blocks * HALVES, bands), np.float64)
        numbers = i32(x.images), i32(blocks), i32(values), scale, delta
        arguments = self._data(x), self._data(targets), dx.data, mean, totals, *numbers, part
        grid = 1, min(ceil_div(blocks * bands, 8), 8 * self.launcher.processors)
        expression = f"value_loss<{kind}>"
        self._run("value_loss.cu", expression, grid, (LANES, 8), *arguments, self._counters_of(1))
