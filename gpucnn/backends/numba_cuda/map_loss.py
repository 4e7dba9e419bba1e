"""Losses of label maps on the readable GPU backend."""

import math

import numpy as np

from gpucnn.backends.numba_cuda.base import NumbaCudaBase
from gpucnn.backends.spatial import positions_per_band
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba_cuda import map_loss
from gpucnn.kernels.numba_cuda.compiler import LANES


class NumbaCudaMapLoss(NumbaCudaBase):
    """See the protocol and LaneBackend for what each method does."""

    def _map_cross_entropy(self, logits, labels, weights, share, keep, dz, mean, totals) -> None:
        band = positions_per_band(logits.spatial)
        bands, where = -(-math.prod(logits.spatial) // band), self._pixels(labels)
        part, weight = self._part(logits, bands, 2, np.float64), self._empty((2,), np.float64)
        sizes, count = (part, logits.images, band), len(logits.data) * bands
        self._run_lanes(map_loss.label_map_weights, count, where, weights, *sizes)
        self._run(map_loss.sums_of, 1, part, bands, weight)
        inputs = self._pixels(logits), where, weights, share, keep, weight
        self._run_lanes(map_loss.map_cross_entropy, count, *inputs, self._pixels(dz), *sizes)
        self._run(map_loss.mean_map_loss, 1, part, bands, weight, mean, totals)

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
