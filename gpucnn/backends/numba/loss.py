"""Softmax and losses on the CPU backend."""

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba.base import NumbaBase
from gpucnn.backends.numba.layout import flat
from gpucnn.backends.protocol import Array
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba import loss, sums
from gpucnn.kernels.numba.value_loss import value_loss


class NumbaLoss(NumbaBase):
    """See the protocol and LaneBackend for what each method does."""

    def softmax(self, x: Batch) -> Batch:
        y = self._like(x)
        self._run(loss.softmax, flat(self._data(x)), flat(y.data))
        return y

    def softmax_gradient(self, dy: Batch, y: Batch) -> Batch:
        dx = self._like(y)
        self._run(loss.softmax_gradient, flat(self._data(dy)), flat(self._data(y)), flat(dx.data))
        return dx

    def _softmax_cross_entropy(self, logits: Batch, labels: Array, dz: Batch, scale, mean: Array, totals) -> None:
        blocks = len(dz.data)
        totals = np.zeros(2) if totals is None else totals
        part, slots = self._empty((2, blocks), np.float64), self._empty((sums.levels(blocks),), np.float64)
        arguments = self._data(logits), labels, dz.data, logits.images, scale
        self._run(loss.softmax_cross_entropy, *arguments, mean, totals, part, slots)

    def _label_weights(self, labels, weights, images: int, total: Array) -> None:
        slots = self._empty((sums.levels(len(labels)),), np.float64)
        self._run(loss.label_weights, labels, weights, images, total, slots)

    def _weighted_cross_entropy(self, logits, labels, weights, weight, share, keep, dz, mean, totals) -> None:
        blocks = len(dz.data)
        totals = np.zeros(3) if totals is None else totals
        part, slots = self._empty((2, blocks), np.float64), self._empty((sums.levels(blocks),), np.float64)
        arguments = self._data(logits), labels, weights, weight, share, keep, dz.data, logits.images
        self._run(loss.weighted_cross_entropy, *arguments, mean, totals, part, slots)

    def _value_loss(self, kind, x, targets, dx, values: int, scale, delta, mean, totals) -> None:
        blocks = len(dx.data)
        totals = np.zeros(1) if totals is None else totals
        levels = sums.levels(max(-(-values // BAND), blocks))
        part, slots = self._empty((blocks,), np.float64), self._empty((blocks + 1, levels), np.float64)
        arrays = (a.reshape(blocks, -1) for a in (self._data(x), self._data(targets), dx.data))
        self._run(value_loss[kind], *arrays, x.images, values, scale, delta, mean, totals, part, slots)
