"""Losses of label maps as launches of kernels/cuda/map_loss.cu."""

import math

import numpy as np

from gpucnn.backends import shares
from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import HALVES, LANES, ceil_div, i32, line_levels
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import positions_per_band


class CudaMapLoss(CudaBase):
    """See the protocol and LaneBackend for what each method does."""

    def label_map_weights(self, labels: Batch, weights: Array) -> Array:
        weight = self._empty((2,), np.float64)
        self._sum_over_maps("label_map_weights", labels, self._data(labels), weights, weight)
        return weight

    def _map_cross_entropy(self, logits, labels, weights, share, keep, dz, mean, totals) -> None:
        weight = self.label_map_weights(labels, weights)
        inputs = self._data(logits), self._data(labels), weights, share, keep, weight
        self._sum_over_maps("map_cross_entropy", labels, *inputs, dz.data, mean, totals, i32(logits.channels))

    def _sum_over_maps(self, kernel: str, labels: Batch, *arguments) -> None:
        """A kernel that sums two numbers over images and positions."""
        blocks, positions, band = len(labels.data), math.prod(labels.spatial), positions_per_band(labels.spatial)
        bands = ceil_div(positions, band)
        grid = 1, min(ceil_div(blocks * bands, 8), 8 * self.launcher.processors)
        sizes = i32(labels.images), i32(blocks), i32(positions), i32(band)
        sums = self._empty((2, blocks * HALVES, bands), np.float64), self._counters_of(1)
        self._run("map_loss.cu", kernel, grid, (LANES, 8), *arguments, *sizes, *sums)

    def _dice(self, p, labels, smooth, dp, mean, totals) -> None:
        blocks, classes = len(dp.data), p.channels
        terms, part = self._empty((blocks, classes, LANES), np.float64), self._empty((blocks * HALVES,), np.float64)
        inputs = self._data(p), self._data(labels), smooth, np.float64(shares.whole(p) * classes)
        positions = math.prod(p.spatial)
        sizes, kernel = (i32(p.images), i32(classes), i32(positions)), f"dice<{line_levels(positions)}>"
        self._run("map_loss.cu", kernel, (blocks * classes,), (LANES, 8), *inputs, dp.data, terms, *sizes)
        sizes = i32(classes), i32(p.images), i32(blocks)
        self._run("map_loss.cu", "dice_mean", (1,), (LANES, 8), terms, mean, totals, part, *sizes)
