"""Softmax, cross-entropy and losses of values: rule 8."""

import numpy as np

from gpucnn.arithmetic import exp, exp64, fma, log, log64, total64
from gpucnn.backends import shares
from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.protocol import Array

ZERO = np.float32(0)


class ExactLoss(NumpyBase):
    """Part of NumpyExact; see the protocol for what each method does."""

    def softmax(self, x: Batch) -> Batch:
        return self.batch(soft(x.data[..., 0])[0])

    def softmax_gradient(self, dy: Batch, y: Batch) -> Batch:
        total = np.zeros_like(dy.data[:, 0])
        for c in range(dy.channels):
            total = fma(dy.data[:, c], y.data[:, c], total)
        return dy.like((dy.data - total[:, None]) * y.data)

    def softmax_cross_entropy(self, logits: Batch, labels: Array, totals: Array | None = None) -> tuple[Array, Batch]:
        z = logits.data[..., 0]  # (N, classes)
        p, shifted, sums, first = soft(z)
        target = labels[:, 0]
        losses = log(sums) - np.take_along_axis(shifted, target[:, None], 1)[:, 0]
        total = total64(losses[:, None])[0]
        if totals is not None:
            totals += total, np.count_nonzero(first == target)
        hot = (np.arange(z.shape[1]) == target[:, None]).astype(np.float32)
        scale = np.float32(1 / shares.whole(logits))
        return np.array([total / len(z)], np.float32), self.batch((p - hot) * scale)

    def weighted_cross_entropy(
        self, logits: Batch, labels: Array, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        z, target = logits.data[..., 0], labels[:, 0]  # (N, classes), (N,)
        p, shifted, sums, first = soft(z)
        share, keep = np.float32(smoothing / z.shape[1]), np.float32(1 - smoothing)
        q = np.tile(share * weights, (len(z), 1))  # (N, classes)
        hot = np.arange(len(z)), target
        q[hot] = fma(keep, weights[target], q[hot])
        q_sum, losses, log_sums = np.zeros(len(z), np.float32), np.zeros(len(z), np.float32), log(sums)
        for c in range(z.shape[1]):
            q_sum += q[:, c]
            losses = fma(q[:, c], log_sums - shifted[:, c], losses)
        total, weight = total64(losses[:, None])[0], self.label_weights(labels, weights, len(z))[0]
        if totals is not None:
            totals += total, np.count_nonzero(first == target), weight
        gradient = fma(p, q_sum[:, None], -q) * np.float32(1 / weight)
        return np.array([total / weight], np.float32), self.batch(gradient)

    def label_weights(self, labels: Array, weights: Array, images: int) -> Array:
        return total64(weights[labels])

    @np.errstate(over="ignore", invalid="ignore")  # a training that diverges is told so in a sentence
    def value_loss(
        self, kind: str, x: Batch, targets: Batch, delta: float = 1.0, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        values = shares.whole(x) * (x.data.size // x.images)
        v, t, scale = x.data, targets.data, np.float32(1 / values)
        d, limit = v - t, np.float32(delta)
        if kind == "mean_squared":
            terms, dx = d.astype(np.float64) * d, d * np.float32(2 / values)
        elif kind == "mean_absolute":
            terms, dx = np.abs(d).astype(np.float64), np.where(d > 0, scale, np.where(d < 0, -scale, ZERO))
        elif kind == "huber":
            a, far = np.abs(d).astype(np.float64), np.float64(limit)
            terms = np.where(a <= far, 0.5 * (a * a), far * (a - 0.5 * far))
            dx = np.where(d < -limit, -limit, np.where(d > limit, limit, d)) * scale
        else:  # binary cross-entropy
            v, t = v.astype(np.float64), t.astype(np.float64)
            e = exp64(-np.abs(v))
            terms = (np.where(v > 0, v, 0.0) - v * t) + log64(1.0 + e)
            dx = (np.where(v > 0, 1.0, e) / (1.0 + e) - t).astype(np.float32) * scale
        total = total64(terms.reshape(x.images, 1, -1))[0]  # an image's values as positions of a line
        if totals is not None:
            totals += total
        return np.array([total / x.data.size], np.float32), x.like(dx)


def soft(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of z (N, classes, ...): softmax, z - max, and as (N, ...) the sums of exponentials and the first largest."""
    largest, first = z[:, 0].copy(), np.zeros_like(z[:, 0], np.int64)
    for c in range(1, z.shape[1]):
        wins = z[:, c] > largest
        largest[wins], first[wins] = z[:, c][wins], c
    with np.errstate(over="ignore", invalid="ignore"):  # a training that diverges is told so in a sentence
        shifted = z - largest[:, None]
    powers = exp(shifted)
    sums = np.zeros_like(largest)
    for c in range(z.shape[1]):
        sums += powers[:, c]
    return powers / sums[:, None], shifted, sums, first
