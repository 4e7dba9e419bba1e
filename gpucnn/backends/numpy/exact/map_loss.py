"""Losses of label maps: rule 8."""

import numpy as np

from gpucnn.arithmetic import fma, image_sums64, log, total64
from gpucnn.backends import shares
from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.numpy.exact.loss import soft
from gpucnn.backends.numpy.map_labels import classes_of
from gpucnn.backends.protocol import Array

ZERO = np.float32(0)


class ExactMapLoss(NumpyBase):
    """Part of NumpyExact; see the protocol for what each method does."""

    def map_cross_entropy(
        self, logits: Batch, labels: Batch, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        z, classes = logits.data[..., 0], logits.channels  # (N, classes, *spatial)
        target, labeled, hot = classes_of(labels, classes)
        p, shifted, sums, first = soft(z)
        share, keep = np.float32(smoothing / classes), np.float32(1 - smoothing)
        w = weights.reshape(-1, *(1,) * (z.ndim - 2))
        q = np.where(hot, fma(keep, w, share * w), share * w)
        q_sum, losses, log_sums = np.zeros_like(sums), np.zeros_like(sums), log(sums)
        for c in range(classes):
            q_sum += q[:, c]
            losses = fma(q[:, c], log_sums - shifted[:, c], losses)
        total = total64(np.where(labeled, losses, ZERO)[:, None])[0]
        weight, number = self.label_map_weights(labels, weights)
        if totals is not None:
            totals += total, np.count_nonzero(first == target), weight, number
        scale = np.float32(1 / weight) if weight else ZERO
        gradient = np.where(labeled[:, None], fma(p, q_sum[:, None], -q) * scale, ZERO)
        return np.array([total / weight if weight else 0], np.float32), self.batch(gradient)

    def label_map_weights(self, labels: Batch, weights: Array) -> Array:
        target, labeled, _ = classes_of(labels, len(weights))
        own = np.where(labeled, weights[target], ZERO)
        return np.array([total64(own[:, None])[0], np.count_nonzero(labeled)])

    def dice(self, p: Batch, labels: Batch, smooth: float, totals: Array | None = None) -> tuple[Array, Batch]:
        values, (images, classes) = p.data[..., 0], p.shape[:2]
        _, labeled, hot = classes_of(labels, classes)

        def sums(kept) -> np.ndarray:
            """(N, classes), the float64 sums over each image's values as a line."""
            return image_sums64(np.where(kept, values, ZERO).reshape(images, classes, -1))

        term = np.float64(np.float32(smooth))
        below = (sums(labeled[:, None]) + hot.reshape(images, classes, -1).sum(-1)) + term
        ratio = (2 * sums(hot) + term) / below
        losses = np.zeros(images)
        for c in range(classes):
            losses += 1 - ratio[:, c]
        total = total64((losses / classes)[:, None])[0]
        if totals is not None:
            totals += total
        below = below * (shares.whole(p) * classes)
        on, off = (
            each.astype(np.float32).reshape(images, classes, *(1,) * (values.ndim - 2))
            for each in ((ratio - 2) / below, ratio / below)
        )
        dp = np.where(hot, on, np.where(labeled[:, None], off, ZERO))
        return np.array([total / images], np.float32), self.batch(dp)
