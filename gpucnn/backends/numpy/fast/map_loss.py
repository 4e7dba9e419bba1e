"""Losses of label maps."""

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.numpy.map_labels import classes_of
from gpucnn.backends.protocol import Array


class FastMapLoss(NumpyBase):
    """Part of NumpyFast; see the protocol for what each method does."""

    def map_cross_entropy(
        self, logits: Batch, labels: Batch, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        z, classes = logits.data[..., 0], logits.channels
        target, labeled, hot = classes_of(labels, classes)
        shifted = z - z.max(1, keepdims=True)
        powers = np.exp(shifted)
        sums = powers.sum(1, keepdims=True)
        q = weights.reshape(-1, *(1,) * (z.ndim - 2)) * (smoothing / classes + hot * (1 - smoothing)) * labeled[:, None]
        q = q.astype(self.dtype)
        total = (q * (np.log(sums) - shifted)).sum(dtype=np.float64)
        weight = weights[target[labeled]].sum(dtype=np.float64)
        if totals is not None:
            totals += total, np.count_nonzero(z.argmax(1) == target), weight, np.count_nonzero(labeled)
        gradient = (powers / sums * q.sum(1, keepdims=True) - q) * self.dtype.type(1 / weight if weight else 0)
        return np.array([total / weight if weight else 0], self.dtype), self.batch(gradient)

    def dice(self, p: Batch, labels: Batch, smooth: float, totals: Array | None = None) -> tuple[Array, Batch]:
        values, (images, classes) = p.data[..., 0], p.shape[:2]
        _, labeled, hot = classes_of(labels, classes)
        axes, labeled = tuple(range(2, values.ndim)), labeled[:, None]
        overlap, mass = ((values * kept).sum(axes, np.float64, keepdims=True) for kept in (hot, labeled))
        below = mass + hot.sum(axes, keepdims=True) + smooth
        ratio = (2 * overlap + smooth) / below
        total = (1 - ratio).sum() / classes
        if totals is not None:
            totals += total
        dp = (ratio - 2 * hot) / (below * images * classes) * labeled
        return np.array([total / images], self.dtype), self.batch(dp.astype(self.dtype))
