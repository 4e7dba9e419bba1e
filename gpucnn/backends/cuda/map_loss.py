"""Losses of label maps as launches of kernels/cuda/map_loss.cu."""

import math

import numpy as np

from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import HALVES, LANES, ceil_div, i32
from gpucnn.backends.spatial import positions_per_band


class CudaMapLoss(CudaBase):
    """See the protocol and LaneBackend for what each method does."""

    def _map_cross_entropy(self, logits, labels, weights, share, keep, dz, mean, totals) -> None:
        blocks, positions, band = len(dz.data), math.prod(logits.spatial), positions_per_band(logits.spatial)
        bands, where, weight = ceil_div(positions, band), self._data(labels), self._empty((2,), np.float64)
        sizes = i32(logits.images), i32(blocks), i32(positions), i32(band)
        grid = 1, min(ceil_div(blocks * bands, 8), 8 * self.launcher.processors)
        part, counters = self._empty((2, blocks * HALVES, bands), np.float64), self._counters_of(1)
        sums = *sizes, part, counters
        self._run("map_loss.cu", "label_map_weights", grid, (LANES, 8), where, weights, weight, *sums)
        inputs = self._data(logits), where, weights, share, keep, weight
        outputs = dz.data, mean, totals, i32(logits.channels)
        self._run("map_loss.cu", "map_cross_entropy", grid, (LANES, 8), *inputs, *outputs, *sums)

    def _dice(self, p, labels, smooth, dp, mean, totals) -> None:
        blocks, classes = len(dp.data), p.channels
        terms, part = self._empty((blocks, classes, LANES), np.float64), self._empty((blocks * HALVES,), np.float64)
        inputs = self._data(p), self._data(labels), smooth, np.float64(p.images * classes)
        sizes = i32(p.images), i32(classes), i32(math.prod(p.spatial))
        self._run("map_loss.cu", "dice", (blocks * classes,), (LANES, 8), *inputs, dp.data, terms, *sizes)
        sizes = i32(classes), i32(p.images), i32(blocks)
        self._run("map_loss.cu", "dice_mean", (1,), (LANES, 8), terms, mean, totals, part, *sizes)
