"""A convolution whose filters are taken from the training images: it whitens their patches."""

import math
from functools import partial
from typing import ClassVar

import numpy as np

from gpucnn.arguments import integer, number
from gpucnn.arithmetic import tree
from gpucnn.backends.batch import Batch
from gpucnn.geometry import Field, conv_multiply_adds, window
from gpucnn.layers.base import Backward, Layer, Parameter, Shape, Statistic
from gpucnn.layers.counterparts import Graph, TorchModule, onnx_window
from gpucnn.layers.settings import image_shape

IMAGES = 1000  # that `learned` looks at, at most


class Whitening2d(Layer):
    """Cross-correlation of (N, C, H, W) with 2 * C * K * K filters of KxK that whiten its patches, and a trained bias.

    A filter is an eigenvector of the patches' second moments over the root of its eigenvalue + `eps`, so that the
    outputs are uncorrelated and, for a small eps, of mean square 1; each comes with both signs, by descending
    eigenvalue. The filters are not trained: `Trainer.fit` sets them from the training images (`Model.learn`) if they
    are all zero, as they are at first. `weight` is a statistic (O, C, K, K), `bias` (O,).
    """

    recordable = local = True
    _checks: ClassVar = {"eps": partial(number, above=0)}

    def __init__(self, kernel_size: int = 2, *, eps: float = 5e-4):
        self.kernel_size, self.eps = integer("kernel_size", kernel_size), eps

    def build(self, shape: Shape) -> Shape:
        channels, size = image_shape(shape)
        self.window = window(size, self.kernel_size)
        filters = 2 * channels * self.kernel_size**2
        self.weight = Statistic((filters, channels, *self.window.kernel))
        self.bias = Parameter((filters,))
        return (filters, *self.window.output)

    def learned(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The filters by name, from images (n, C, H, W); the same on every machine."""
        size = self.kernel_size
        patches = np.lib.stride_tricks.sliding_window_view(images.astype(np.float64), (size, size), (2, 3))
        values = np.moveaxis(patches, (1, 4, 5), (0, 1, 2)).reshape(images.shape[1] * size * size, -1)
        count = len(values)
        moments = np.empty((count, count))
        for i in range(count):
            moments[i, : i + 1] = tree(values[: i + 1] * values[i], 1) / values.shape[1]
            moments[: i + 1, i] = moments[i, : i + 1]
        eigenvalues, vectors = eigen(moments)
        order = np.argsort(-eigenvalues, kind="stable")
        half = vectors.T[order] / np.sqrt(eigenvalues[order] + self.eps)[:, None]
        return {self.weight.name: np.concatenate([half, -half]).reshape(self.weight.shape).astype(np.float32)}

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        return x.backend.conv(x, self.weight.value, self.bias.value, self.window), self.gradients

    def gradients(self, dy: Batch, x: Batch | None = None) -> Batch | None:
        if self._trainable:
            dy.backend.bias_gradient(dy, self.bias.grad)
        return dy.backend.conv_input_gradient(dy, self.weight.value, self.window) if self.input_gradient else None

    def multiply_adds(self) -> int:
        return conv_multiply_adds(self.input_shape[0], self.output_shape[0], self.window)

    def receptive_field(self, field: Field, image: Shape) -> Field:
        return field.after(self.window)

    def filter_weights(self, state: dict[str, np.ndarray]) -> np.ndarray:
        return state[self.weight.name]

    def onnx(self, graph: Graph, x: str) -> str:
        return graph.node("Conv", x, graph.tensor(self.weight), graph.tensor(self.bias), **onnx_window(self.window))

    def pytorch(self) -> list[TorchModule]:
        sizes = {"in_channels": self.input_shape[0], "out_channels": self.output_shape[0]}
        arguments = {**sizes, "kernel_size": self.window.kernel}
        return [TorchModule("Conv2d", arguments, {"weight": self.weight, "bias": self.bias})]


def eigen(matrix: np.ndarray, sweeps: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """(eigenvalues (n,), eigenvectors as columns (n, n)) of a symmetric float64 matrix, by Jacobi's cyclic rotations.

    Additions, multiplications, divisions and roots alone, in a fixed order, so every machine finds the same bits, which
    LAPACK does not promise (Golub and Van Loan, Matrix Computations, section 8.5).
    """
    a, vectors = matrix.copy(), np.eye(len(matrix))
    for _ in range(sweeps):
        if not np.any(np.triu(a, 1)):
            break
        for p in range(len(a) - 1):
            for q in range(p + 1, len(a)):
                if abs(a[p, q]) <= 1e-300 + 2.0**-60 * math.sqrt(abs(a[p, p] * a[q, q])):
                    a[p, q] = a[q, p] = 0
                    continue
                theta = (a[q, q] - a[p, p]) / (2 * a[p, q])
                t = math.copysign(1, theta) / (abs(theta) + math.sqrt(theta * theta + 1))
                c = 1 / math.sqrt(t * t + 1)
                s = t * c
                for rows in (a, a.T, vectors.T):  # a = J' a J, vectors = vectors J
                    rows[p], rows[q] = c * rows[p] - s * rows[q], s * rows[p] + c * rows[q]
    return np.diag(a).copy(), vectors
