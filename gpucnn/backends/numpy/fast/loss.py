"""Softmax, cross-entropy and losses of values."""

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.numpy.fast.elementwise import sigmoid
from gpucnn.backends.protocol import Array


class FastLoss(NumpyBase):
    """Part of NumpyFast; see the protocol for what each method does."""

    def softmax(self, x: Batch) -> Batch:
        powers = np.exp(x.data - x.data.max(1, keepdims=True))
        powers /= powers.sum(1, keepdims=True)
        return x.like(powers)

    def softmax_gradient(self, dy: Batch, y: Batch) -> Batch:
        return dy.like((dy.data - (dy.data * y.data).sum(1, keepdims=True)) * y.data)

    def softmax_cross_entropy(self, logits: Batch, labels: Array, totals: Array | None = None) -> tuple[Array, Batch]:
        z, target, rows = logits.data[..., 0], labels[:, 0], np.arange(logits.images)
        shifted = z - z.max(1, keepdims=True)
        gradient = np.exp(shifted)
        sums = gradient.sum(1)
        losses = np.log(sums) - shifted[rows, target]
        total = losses.sum(dtype=np.float64)
        gradient /= sums[:, None]
        gradient[rows, target] -= 1
        gradient *= self.dtype.type(1 / logits.images)
        if totals is not None:
            totals += (total, np.count_nonzero(z.argmax(1) == target))
        return np.array([total / logits.images], self.dtype), self.batch(gradient)

    def weighted_cross_entropy(
        self, logits: Batch, labels: Array, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        z, target, rows = logits.data[..., 0], labels[:, 0], np.arange(logits.images)
        shifted = z - z.max(1, keepdims=True)
        powers = np.exp(shifted)
        sums = powers.sum(1, keepdims=True)
        q = np.tile(weights * self.dtype.type(smoothing / z.shape[1]), (len(z), 1))
        q[rows, target] += weights[target] * self.dtype.type(1 - smoothing)
        total = (q * (np.log(sums) - shifted)).sum(dtype=np.float64)
        weight = weights[target].sum(dtype=np.float64)
        if totals is not None:
            totals += total, np.count_nonzero(z.argmax(1) == target), weight
        gradient = (powers / sums * q.sum(1, keepdims=True) - q) * self.dtype.type(1 / weight)
        return np.array([total / weight], self.dtype), self.batch(gradient)

    def value_loss(
        self, kind: str, x: Batch, targets: Batch, delta: float = 1.0, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        v, t, delta = x.data, targets.data, self.dtype.type(delta)
        d = v - t
        if kind == "mean_squared":
            terms, dx = np.square(d), 2 * d
        elif kind == "mean_absolute":
            terms, dx = np.abs(d), np.sign(d)
        elif kind == "huber":
            a = np.abs(d)
            terms, dx = np.where(a <= delta, d * d / 2, delta * (a - delta / 2)), np.clip(d, -delta, delta)
        else:  # binary cross-entropy
            terms = np.maximum(v, 0) - v * t + np.log1p(np.exp(-np.abs(v)))
            dx = sigmoid(v) - t
        total = terms.sum(dtype=np.float64)
        if totals is not None:
            totals += total
        return np.array([total / v.size], self.dtype), x.like(dx * self.dtype.type(1 / v.size))
