"""Activations, losses and gradient clipping of the Numba backend."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array
from gpucnn.kernels.numba import activation, clip, loss, sums
from gpucnn.kernels.numba.simd import LANES
from gpucnn.kernels.numba.value_loss import BAND, value_loss


class NumbaPointwise:
    """See the protocol for what each method does; comments here tell only how."""

    def leaky_relu(self, x: Batch, slope: float) -> Batch:
        return self._map(activation.leaky_relu, x, options=(np.float32(slope),))

    def leaky_relu_gradient(self, dy: Batch, x: Batch, slope: float) -> Batch:
        return self._map(activation.leaky_relu_gradient, dy, x, options=(np.float32(slope),))

    def gelu(self, x: Batch) -> Batch:
        return self._map(activation.gelu, x)

    def gelu_gradient(self, dy: Batch, x: Batch) -> Batch:
        return self._map(activation.gelu_gradient, dy, x)

    def silu(self, x: Batch) -> Batch:
        return self._map(activation.silu, x)

    def silu_gradient(self, dy: Batch, x: Batch) -> Batch:
        return self._map(activation.silu_gradient, dy, x)

    def softmax_gradient(self, dy: Batch, y: Batch) -> Batch:
        dx = self._like(y)
        shape = (*y.data.shape[:2], -1)
        given = self._data(dy).reshape(shape), self._data(y).reshape(shape)
        self._run(activation.softmax_gradient, *given, dx.data.reshape(shape))
        return dx

    def weighted_cross_entropy(
        self, logits: Batch, labels: Array, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        blocks = logits.data.shape[0]
        dz, mean = self._like(logits), self._empty((1,))
        totals = np.zeros(3) if totals is None else totals
        part, slots = self._empty((2, blocks), np.float64), self._empty((2, sums.levels(blocks)), np.float64)
        shares = np.float32(smoothing / logits.channels), np.float32(1 - smoothing)
        given = self._data(logits), labels, weights, *shares, dz.data, logits.images
        self._run(loss.weighted_cross_entropy, *given, mean, totals, part, slots)
        return mean, dz

    def value_loss(
        self, kind: str, x: Batch, targets: Batch, delta: float = 1.0, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        blocks, values = x.data.shape[0], math.prod(x.shape[1:])
        dx, mean = self._like(x), self._empty((1,))
        totals = np.zeros(1) if totals is None else totals
        levels = sums.levels(max(-(-values // BAND), blocks))
        part, slots = self._empty((blocks,), np.float64), self._empty((blocks + 1, levels), np.float64)
        scale = np.float32((2 if kind == "mean_squared" else 1) / (x.images * values))
        flat = (a.reshape(blocks, -1) for a in (self._data(x), self._data(targets), dx.data))
        self._run(value_loss[kind], *flat, x.images, values, scale, np.float32(delta), mean, totals, part, slots)
        return mean, dx

    def clip_value(self, g: Array, limit: float) -> None:
        self._run(clip.clip_value, g, np.float32(limit))

    def clip_norm(self, g: Array, limit: float) -> None:
        blocks = -(-g.size // (BAND * LANES))
        part, slots = self._empty((blocks,), np.float64), self._empty((sums.levels(blocks),), np.float64)
        scale = self._empty((1,))
        self._run(clip.norm_parts, g, part)
        self._run(clip.norm_scale, part, slots, float(np.float32(limit)), scale)
        self._run(clip.scale_all, g, scale)
