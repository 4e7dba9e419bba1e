"""Activations, losses and gradient clipping of the two NumPy backends: what both share, then the exact and the fast."""

import numpy as np

from gpucnn.arithmetic import (
    BLOCK,
    exp,
    exp64,
    fma,
    gelu,
    gelu_slope,
    log,
    log64,
    silu,
    silu_slope,
    total64,
    tree,
)
from gpucnn.arithmetic.elementary import normal_cdf64
from gpucnn.arithmetic.sums import BAND
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array

ZERO, ONE = np.float32(0), np.float32(1)


class NumpyPointwise:
    """What multiplies and adds nothing that rounds differently."""

    def leaky_relu(self, x: Batch, slope: float) -> Batch:
        return x.like(np.where(x.data > 0, x.data, self.dtype.type(slope) * x.data + self.dtype.type(0)))

    def leaky_relu_gradient(self, dy: Batch, x: Batch, slope: float) -> Batch:
        return dy.like(np.where(x.data > 0, dy.data, self.dtype.type(slope) * dy.data))

    def clip_value(self, g: Array, limit: float) -> None:
        limit = self.dtype.type(limit)
        g[...] = np.where(g < -limit, -limit, np.where(g > limit, limit, g))


class NumpyExactPointwise(NumpyPointwise):
    """Contract rules 6 to 9, to the bit."""

    def gelu(self, x: Batch) -> Batch:
        return x.like(gelu(x.data))

    def gelu_gradient(self, dy: Batch, x: Batch) -> Batch:
        return dy.like(dy.data * gelu_slope(x.data))

    def silu(self, x: Batch) -> Batch:
        return x.like(silu(x.data))

    def silu_gradient(self, dy: Batch, x: Batch) -> Batch:
        return dy.like(dy.data * silu_slope(x.data))

    def softmax_gradient(self, dy: Batch, y: Batch) -> Batch:
        total = np.zeros_like(dy.data[:, 0])
        for c in range(dy.channels):
            total = fma(dy.data[:, c], y.data[:, c], total)
        return dy.like((dy.data - total[:, None]) * y.data)

    def weighted_cross_entropy(
        self, logits: Batch, labels: Array, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        z, target = logits.data[..., 0], labels[:, 0]
        p, shifted, sums, first = soft(z)
        # What an image asks of each class: its share of the smoothing, and the rest where it belongs.
        asked = np.repeat((np.float32(smoothing / z.shape[1]) * weights)[None], len(z), 0)
        rows = np.arange(len(z))
        asked[rows, target] = fma(np.float32(1 - smoothing), weights[target], asked[rows, target])
        together, losses, of_log = np.zeros(len(z), np.float32), np.zeros(len(z), np.float32), log(sums)
        for c in range(z.shape[1]):
            together = together + asked[:, c]
            losses = fma(asked[:, c], of_log - shifted[:, c], losses)
        total, weight = total64(losses[:, None])[0], total64(weights[target][:, None])[0]
        if totals is not None:
            totals += total, np.count_nonzero(first == target), weight
        gradient = fma(p, together[:, None], -asked) * np.float32(1 / weight)
        return np.array([total / weight], np.float32), self.batch(gradient)

    def value_loss(
        self, kind: str, x: Batch, targets: Batch, delta: float = 1.0, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        v, t, scale = x.data, targets.data, np.float32(1 / x.data.size)
        d, limit = v - t, np.float32(delta)
        if kind == "mean_squared":
            terms, dx = d.astype(np.float64) * d, d * np.float32(2 / x.data.size)
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

    def clip_norm(self, g: Array, limit: float) -> None:
        size, limit = BAND * BLOCK, np.float64(np.float32(limit))
        squares = np.zeros(-(-g.size // size) * size)
        squares[: g.size] = g.astype(np.float64) * g  # exact
        total = np.zeros((squares.size // size, BLOCK))
        for row in squares.reshape(-1, BAND, BLOCK).swapaxes(0, 1):
            total += row
        norm = np.sqrt(tree(tree(total, 1), 0))
        if norm > limit:
            g *= np.float32(limit / norm)


class NumpyFastPointwise(NumpyPointwise):
    """In float32 or float64, in whatever order NumPy likes."""

    def gelu(self, x: Batch) -> Batch:
        return x.like(x.data * self._cdf(x.data))

    def gelu_gradient(self, dy: Batch, x: Batch) -> Batch:
        v = x.data
        density = np.exp(-0.5 * np.square(np.clip(v, -16, 16))) * self.dtype.type(1 / np.sqrt(2 * np.pi))
        return dy.like(dy.data * (self._cdf(v) + v * density))

    def _cdf(self, x: Array) -> Array:
        """The normal distribution's, by the contract's polynomials: NumPy has no erf."""
        return normal_cdf64(x)[1].astype(self.dtype)

    def silu(self, x: Batch) -> Batch:
        return x.like(x.data * self.sigmoid(x).data)

    def silu_gradient(self, dy: Batch, x: Batch) -> Batch:
        s = self.sigmoid(x).data
        return dy.like(dy.data * (s * (1 + x.data * (1 - s))))

    def softmax_gradient(self, dy: Batch, y: Batch) -> Batch:
        return dy.like((dy.data - (dy.data * y.data).sum(1, keepdims=True)) * y.data)

    def weighted_cross_entropy(
        self, logits: Batch, labels: Array, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        z, target, rows = logits.data[..., 0], labels[:, 0], np.arange(logits.images)
        shifted = z - z.max(1, keepdims=True)
        powers = np.exp(shifted)
        sums = powers.sum(1, keepdims=True)
        asked = np.repeat((weights * self.dtype.type(smoothing / z.shape[1]))[None], len(z), 0)
        asked[rows, target] += weights[target] * self.dtype.type(1 - smoothing)
        total = (asked * (np.log(sums) - shifted)).sum(dtype=np.float64)
        weight = weights[target].sum(dtype=np.float64)
        if totals is not None:
            totals += total, np.count_nonzero(z.argmax(1) == target), weight
        gradient = (powers / sums * asked.sum(1, keepdims=True) - asked) * self.dtype.type(1 / weight)
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
            dx = self.sigmoid(x).data - t
        total = terms.sum(dtype=np.float64)
        if totals is not None:
            totals += total
        return np.array([total / v.size], self.dtype), x.like(dx * self.dtype.type(1 / v.size))

    def clip_norm(self, g: Array, limit: float) -> None:
        norm = np.sqrt(np.square(g, dtype=np.float64).sum())
        if norm > limit:
            g *= self.dtype.type(limit / norm)


def soft(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of z (N, classes, ...): softmax, z - max, and as (N, ...) the sums of exponentials and the first largest."""
    largest, first = z[:, 0].copy(), np.zeros_like(z[:, 0], np.int64)
    for c in range(1, z.shape[1]):
        wins = z[:, c] > largest
        largest[wins], first[wins] = z[:, c][wins], c
    shifted = z - largest[:, None]
    powers = exp(shifted)
    sums = np.zeros_like(largest)
    for c in range(z.shape[1]):
        sums += powers[:, c]
    return powers / sums[:, None], shifted, sums, first
