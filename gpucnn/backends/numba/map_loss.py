"""Losses of label maps on the CPU backend."""

import numpy as np

from gpucnn.backends import shares
from gpucnn.backends.batch import Batch
from gpucnn.backends.numba.base import NumbaBase
from gpucnn.backends.numba.layout import flat
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import positions_per_band
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba import map_loss, sums
from gpucnn.kernels.numba.simd import LANES


class NumbaMapLoss(NumbaBase):
    """See the protocol and LaneBackend for what each method does."""

    def label_map_weights(self, labels: Batch, weights: Array) -> Array:
        where, sizes, scratch = self._labels(labels)
        weight = self._empty((2,), np.float64)
        self._run(map_loss.label_map_weights, where, weights, *sizes, weight, *scratch)
        return weight

    def _map_cross_entropy(self, logits, labels, weights, share, keep, dz, mean, totals) -> None:
        weight = self.label_map_weights(labels, weights)
        where, sizes, scratch = self._labels(labels)
        inputs = flat(self._data(logits)), where, weights, share, keep, weight
        self._run(map_loss.map_cross_entropy, *inputs, flat(dz.data), *sizes, mean, totals, *scratch)

    def _labels(self, labels: Batch) -> tuple[Array, tuple[int, int], tuple[Array, Array]]:
        """(labels, (images, positions a band), memory for two trees)."""
        where, band = flat(self._data(labels))[:, 0], positions_per_band(labels.spatial)
        blocks, bands = len(where), -(-where.shape[1] // (band * LANES))
        slots = self._empty((2, sums.levels(max(bands, blocks))), np.float64)
        return where, (labels.images, band), (self._empty((2, blocks, bands), np.float64), slots)

    def _dice(self, p, labels, smooth, dp, mean, totals) -> None:
        values, where = flat(self._data(p)), flat(self._data(labels))[:, 0]
        blocks, classes, size = values.shape
        terms = self._empty((blocks, classes, LANES), np.float64)
        slots = self._empty((sums.levels(blocks),), np.float64)
        levels = sums.levels(-(-size // (BAND * LANES)))
        scratch = self._empty((blocks, classes, 2, levels, LANES), np.float64)
        # The kernel takes one number for the images that are here and for those that the mean is over.
        images = shares.whole(p)
        if images != p.images:
            where = self._without_padding(where, p.images)
        outputs = flat(dp.data), images, float(smooth), mean, totals
        self._run(map_loss.dice, values, where, *outputs, terms, scratch, slots)

    def _without_padding(self, labels: Array, images: int) -> Array:
        """A copy with 0, which is ignored and has the loss 0, where no image is."""
        kept = np.zeros(labels.shape, labels.dtype)
        lanes = images - (len(labels) - 1) * LANES

        def copy() -> None:
            kept[:-1] = labels[:-1]
            kept[-1].reshape(-1, LANES)[:, :lanes] = labels[-1].reshape(-1, LANES)[:, :lanes]

        self.between(copy)
        return kept
