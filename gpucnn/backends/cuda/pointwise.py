"""Activations, losses and gradient clipping of the CUDA backend."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array

LANES = 32
_i32, _i64, _f32 = np.int32, np.int64, np.float32
_BAND, _SQUARES = 64, 1024  # values that a sum of losses, and one of squares, takes before the tree
_KINDS = {
    "mean_squared": "MeanSquared",
    "mean_absolute": "MeanAbsolute",
    "huber": "Huber",
    "binary_cross_entropy": "BinaryCrossEntropy",
}


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


class CudaPointwise:
    """See the protocol for what each method does; comments here tell only how."""

    def leaky_relu(self, x: Batch, slope: float) -> Batch:
        return self._map("leaky_relu", x, options=(_f32(slope),), file="activation.cu")

    def leaky_relu_gradient(self, dy: Batch, x: Batch, slope: float) -> Batch:
        return self._map("leaky_relu_gradient", dy, x, options=(_f32(slope),), file="activation.cu")

    def gelu(self, x: Batch) -> Batch:
        return self._map("gelu_forward", x, file="activation.cu")

    def gelu_gradient(self, dy: Batch, x: Batch) -> Batch:
        return self._map("gelu_gradient", dy, x, file="activation.cu")

    def silu(self, x: Batch) -> Batch:
        return self._map("silu_forward", x, file="activation.cu")

    def silu_gradient(self, dy: Batch, x: Batch) -> Batch:
        return self._map("silu_gradient", dy, x, file="activation.cu")

    def softmax_gradient(self, dy: Batch, y: Batch) -> Batch:
        dx, positions = self._like(y), math.prod(y.spatial)
        units = y.data.shape[0] * positions
        given = self._data(dy), self._data(y), dx.data, _i32(y.channels), _i32(positions), _i32(units)
        self._run("activation.cu", "softmax_gradient", (_ceil(units, 8),), (LANES, 8), *given)
        return dx

    def weighted_cross_entropy(
        self, logits: Batch, labels: Array, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        blocks = logits.data.shape[0]
        dz, mean, weight = self._like(logits), self._empty((1,)), self._empty((1,), np.float64)
        part = self._empty((2, blocks * 2), np.float64)
        sizes = _i32(logits.images), _i32(blocks)
        self._run("loss.cu", "label_weights", (1,), (LANES, 4), labels, weights, weight, part, *sizes)
        shares = _f32(smoothing / logits.channels), _f32(1 - smoothing)
        given = self._data(logits), labels, weights, *shares, weight, dz.data, mean, totals, part
        sizes = self._counters_of(1, "alone"), *sizes, _i32(logits.channels)
        self._run("loss.cu", "weighted_cross_entropy", (_ceil(blocks, 4),), (LANES, 4), *given, *sizes)
        return mean, dz

    def value_loss(
        self, kind: str, x: Batch, targets: Batch, delta: float = 1.0, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        dx, mean = self._like(x), self._empty((1,))
        blocks, values = x.data.shape[0], math.prod(x.shape[1:])
        bands = _ceil(values, _BAND)
        part = self._empty((blocks * 2, bands), np.float64)
        scale = _f32((2 if kind == "mean_squared" else 1) / (x.images * values))
        numbers = _i32(x.images), _i32(blocks), _i32(values), scale, _f32(delta)
        given = self._data(x), self._data(targets), dx.data, mean, totals, *numbers, part
        grid = 1, min(_ceil(blocks * bands, 8), 8 * self.launcher.processors)
        expression = f"value_loss<{_KINDS[kind]}>"
        self._run("value_loss.cu", expression, grid, (LANES, 8), *given, self._counters_of(1, "alone"))
        return mean, dx

    def clip_value(self, g: Array, limit: float) -> None:
        self._run("clip.cu", "clip_value", (_ceil(g.size, 256),), (256,), g, _f32(limit), _i64(g.size))

    def clip_norm(self, g: Array, limit: float) -> None:
        blocks = _ceil(g.size, _SQUARES)
        part, scale = self._empty((blocks,), np.float64), self._empty((1,))
        numbers = np.float64(_f32(limit)), _i64(g.size), _i32(blocks)
        grid = (_ceil(blocks, 16),)
        self._run("clip.cu", "norm_scale", grid, (LANES, 8), g, scale, *numbers, part, self._counters_of(1, "alone"))
        self._run("clip.cu", "scale_all", (_ceil(g.size, 256),), (256,), g, scale, _i64(g.size))
