"""Softmax and losses on the readable GPU backend."""

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba_cuda.base import NumbaCudaBase
from gpucnn.backends.protocol import Array
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba_cuda import loss, value_loss
from gpucnn.kernels.numba_cuda.compiler import LANES


class NumbaCudaLoss(NumbaCudaBase):
    """See the protocol and LaneBackend for what each method does."""

    def softmax(self, x: Batch) -> Batch:
        y = self._like(x)
        self._run(loss.softmax, x.data.size // x.channels, self._pixels(x), self._pixels(y))
        return y

    def softmax_gradient(self, dy: Batch, y: Batch) -> Batch:
        dx = self._like(y)
        self._run(loss.softmax_gradient, y.data.size // y.channels, *map(self._pixels, (dy, y, dx)))
        return dx

    def _softmax_cross_entropy(self, logits: Batch, labels: Array, dz: Batch, scale, mean: Array, totals) -> None:
        count = logits.images
        losses, hits = self._empty((count, 1), np.float64), self._empty((count,), np.float64)
        totals = self.zeros((2,), np.float64) if totals is None else totals
        self._run(loss.softmax_cross_entropy, labels.size, self._data(logits), labels, dz.data, losses, hits, scale)
        self._run(loss.mean_loss, 1, losses, hits, np.float64(count), mean, totals)

    def _label_weights(self, labels, weights, images: int, total: Array) -> None:
        self._run(loss.label_weights, 1, labels, weights, self._empty((images, 1), np.float64), total)

    def _weighted_cross_entropy(self, logits, labels, weights, weight, share, keep, dz, mean, totals) -> None:
        count = logits.images
        losses, hits = self._empty((count, 1), np.float64), self._empty((count,), np.float64)
        totals = self.zeros((3,), np.float64) if totals is None else totals
        arguments = self._data(logits), labels, weights, share, keep, weight, dz.data, losses, hits
        self._run(loss.weighted_cross_entropy, labels.size, *arguments)
        self._run(loss.weighted_mean_loss, 1, losses, hits, weight, mean, totals)

    def _value_loss(self, kind, x, targets, dx, values: int, scale, delta, mean, totals) -> None:
        blocks, bands = len(dx.data), -(-values // BAND)
        totals = self.zeros((1,), np.float64) if totals is None else totals
        part = self._part(x, bands, 1, np.float64)
        arrays = (a.reshape(blocks, values, LANES) for a in (self._data(x), self._data(targets), dx.data))
        arguments = value_loss.KINDS[kind], *arrays, scale, delta, part, x.images
        self._run_lanes(value_loss.value_loss, blocks * bands, *arguments)
        self._run(value_loss.mean_value_loss, 1, part, bands, np.float64(x.images * values), mean, totals)
