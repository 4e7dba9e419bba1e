"""Losses of label maps on the readable GPU backend."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba_cuda.base import NumbaCudaBase
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import positions_per_band
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba_cuda import map_loss
from gpucnn.kernels.numba_cuda.compiler import LANES


class NumbaCudaMapLoss(NumbaCudaBase):
    """See the protocol and LaneBackend for what each method does."""

    def label_map_weights(self, labels: Batch, weights: Array) -> Array:
        count, bands, sizes = self._over_maps(labels)
        weight = self._empty((2,), np.float64)
        self._run_lanes(map_loss.label_map_weights, count, self._pixels(labels), weights, *sizes)
        self._run(map_loss.sums_of, 1, sizes[0], bands, weight)
        return weight

    def _map_cross_entropy(self, logits, labels, weights, share, keep, dz, mean, totals) -> None:
        weight = self.label_map_weights(labels, weights)
        count, bands, sizes = self._over_maps(labels)
        inputs = self._pixels(logits), self._pixels(labels), weights, share, keep, weight
        self._run_lanes(map_loss.map_cross_entropy, count, *inputs, self._pixels(dz), *sizes)
        self._run(map_loss.mean_map_loss, 1, sizes[0], bands, weight, mean, totals)

    def _over_maps(self, labels: Batch) -> tuple[int, int, tuple[Array, int, int]]:
        """(number of partial sums, bands of a map, (memory for the partial sums of two numbers, images, band))."""
        band = positions_per_band(labels.spatial)
        bands = -(-math.prod(labels.spatial) // band)
        return len(labels.data) * bands, bands, (self._part(labels, bands, 2, np.float64), labels.images, band)

    def _dice(self, p, labels, smooth, dp, mean, totals) -> None:
        values, where, gradient = self._pixels(p), self._pixels(labels), self._pixels(dp)
        lines, bands = len(values) * p.channels * LANES, -(-values.shape[2] // BAND)
        parts = [self._empty((bands, lines), np.float64) for _ in range(3)]
        terms, on, off = self._empty((lines,), np.float64), self._empty((lines,)), self._empty((lines,))
        self._run(map_loss.dice_band_sums, bands * lines, values, where, *parts, p.images)
        count = np.float64(p.images * p.channels)
        self._run(map_loss.dice_of_lines, lines, *parts, smooth, count, terms, on, off)
        self._run(map_loss.dice_gradient, gradient.size, where, on, off, gradient, p.images)
        own = self._empty((p.images, 1), np.float64)
        self._run(map_loss.dice_mean, 1, terms, p.channels, own, np.float64(p.images), mean, totals)
