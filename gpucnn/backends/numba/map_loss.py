"""Losses of label maps on the CPU backend."""

import numpy as np

from gpucnn.backends.numba.base import NumbaBase
from gpucnn.backends.numba.layout import flat
from gpucnn.backends.spatial import positions_per_band
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba import map_loss, sums
from gpucnn.kernels.numba.simd import LANES


class NumbaMapLoss(NumbaBase):
    """See the protocol and LaneBackend for what each method does."""

    def _map_cross_entropy(self, logits, labels, weights, share, keep, dz, mean, totals) -> None:
        z, where = flat(self._data(logits)), flat(self._data(labels))[:, 0]
        band = positions_per_band(logits.spatial)
        bands = -(-z.shape[2] // (band * LANES))
        weight = self._empty((2,), np.float64)
        slots = self._empty((2, sums.levels(max(bands, len(z)))), np.float64)
        sizes = logits.images, band
        part = self._empty((2, len(z), bands), np.float64)
        self._run(map_loss.label_map_weights, where, weights, *sizes, weight, part, slots)
        part = self._empty((2, len(z), bands), np.float64)
        inputs = z, where, weights, share, keep, weight
        self._run(map_loss.map_cross_entropy, *inputs, flat(dz.data), *sizes, mean, totals, part, slots)

    def _dice(self, p, labels, smooth, dp, mean, totals) -> None:
        values, where = flat(self._data(p)), flat(self._data(labels))[:, 0]
        blocks, classes, size = values.shape
        terms = self._empty((blocks, classes, LANES), np.float64)
        slots = self._empty((sums.levels(blocks),), np.float64)
        levels = sums.levels(-(-size // (BAND * LANES)))
        scratch = self._empty((blocks, classes, 2, levels, LANES), np.float64)
        outputs = flat(dp.data), p.images, float(smooth), mean, totals
        self._run(map_loss.dice, values, where, *outputs, terms, scratch, slots)
