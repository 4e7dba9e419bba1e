"""Activations, losses and gradient clipping of the Numba-CUDA backend,
which imports this once it knows itself usable.
"""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array
from gpucnn.kernels.numba_cuda import activation, clip, loss, value_loss
from gpucnn.kernels.numba_cuda.compiler import BLOCK, LANES


class NumbaCudaPointwise:
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
        given = map(self._pixels, (dy, y, dx))
        self._run(activation.softmax_gradient, y.data.size // y.channels, *given)
        return dx

    def weighted_cross_entropy(
        self, logits: Batch, labels: Array, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        dz, mean, count = self._like(logits), self._empty((1,)), logits.images
        own, weight = self._empty((count, 1), np.float64), self._empty((1,), np.float64)
        losses, hits = self._empty((count, 1), np.float64), self._empty((count,), np.float64)
        totals = self.zeros((3,), np.float64) if totals is None else totals
        self._run(loss.label_weights, 1, labels, weights, own, weight)
        shares = np.float32(smoothing / logits.channels), np.float32(1 - smoothing)
        given = self._data(logits), labels, weights, *shares, weight, dz.data, losses, hits
        self._run(loss.weighted_cross_entropy, labels.size, *given)
        self._run(loss.weighted_mean_loss, 1, losses, hits, weight, mean, totals)
        return mean, dz

    def value_loss(
        self, kind: str, x: Batch, targets: Batch, delta: float = 1.0, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        dx, mean = self._like(x), self._empty((1,))
        values, blocks = math.prod(x.shape[1:]), x.data.shape[0]
        bands, count = -(-values // value_loss.BAND), x.images * values
        totals = self.zeros((1,), np.float64) if totals is None else totals
        part = self._part(x, bands, 1, np.float64)
        flat = (a.reshape(blocks, values, LANES) for a in (self._data(x), self._data(targets), dx.data))
        scale = np.float32((2 if kind == "mean_squared" else 1) / count)
        given = value_loss.KINDS[kind], *flat, scale, np.float32(delta), part, x.images
        self._run_lanes(value_loss.value_loss, blocks * bands, *given)
        self._run(value_loss.mean_value_loss, 1, part, bands, np.float64(count), mean, totals)
        return mean, dx

    def clip_value(self, g: Array, limit: float) -> None:
        self._run(clip.clip_value, g.size, g, np.float32(limit))

    def clip_norm(self, g: Array, limit: float) -> None:
        blocks = -(-g.size // (clip.ROWS * BLOCK))
        part, scale = self._empty((blocks, 1), np.float64), self._empty((1,))
        self._run_lanes(clip.square_parts, -(-blocks * BLOCK // LANES), g, part)
        self._run(clip.norm_scale, 1, part, np.float64(np.float32(limit)), scale)
        self._run(clip.scale_all, g.size, g, scale)
