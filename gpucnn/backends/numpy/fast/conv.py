"""Convolutions and dense layers as matrix products.

No loop runs over pixels; loops run over the taps of a kernel and over chunks of images.
"""

import math
from collections.abc import Iterator

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.numpy.fast.norm import all_but_channels
from gpucnn.backends.numpy.pool import gather
from gpucnn.backends.numpy.windows import padded, taps
from gpucnn.backends.protocol import Array
from gpucnn.geometry import Window

CHUNK = 1 << 20  # values of a convolution's unfolded images at a time: 4 MiB of float32 stay in the cache


class FastConv(NumpyBase):
    """Part of NumpyFast; see the protocol for what each method does."""

    def conv(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int = 1, relu: bool = False
    ) -> Batch:
        y = np.empty((x.images, w.shape[0], *window.output), self.dtype)
        filters = w.reshape(groups, w.shape[0] // groups, -1)  # (G, O/G, C/G * K)
        for images, columns in _unfold(x.data[..., 0], window, groups):
            maps = filters @ columns  # (G, O/G, n * P)
            y[images] = maps.reshape(w.shape[0], -1, *window.output).swapaxes(0, 1)
        return self._finish(y, bias, relu)

    def conv_input_gradient(self, dy: Batch, w: Array, window: Window, groups: int = 1) -> Batch:
        channels = w.shape[1] * groups
        dx = np.empty((dy.images, channels, *window.input), self.dtype)
        filters = w.reshape(groups, w.shape[0] // groups, -1).swapaxes(1, 2)  # (G, C/G * K, O/G)
        for images in _chunks(dy.images, channels, window):
            columns = filters @ _by_channel(dy.data[images, ..., 0], groups)  # (G, C/G * K, n * P)
            columns = columns.reshape(channels, -1, images.stop - images.start, *window.output)  # (C, K, n, *P)
            products = columns.swapaxes(0, 1).swapaxes(1, 2)  # (K, n, C, *P): each returns to its own pixel
            dx[images] = gather(window, products[0], products.__getitem__)
        return self.batch(dx)

    def conv_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        total = np.zeros((groups, out.shape[0] // groups, out[0].size), self.dtype)
        for images, columns in _unfold(x.data[..., 0], window, groups):
            total += _by_channel(dy.data[images, ..., 0], groups) @ columns.swapaxes(1, 2)
        out[...] = total.reshape(out.shape)

    def bias_gradient(self, dy: Batch, out: Array) -> None:
        out[...] = dy.data.sum(all_but_channels(dy), dtype=np.float64)

    def dense(self, x: Batch, w: Array, bias: Array | None, relu: bool = False) -> Batch:
        return self._finish(x.data[..., 0] @ w.T, bias, relu)

    def dense_input_gradient(self, dy: Batch, w: Array) -> Batch:
        return self.batch(dy.data[..., 0] @ w)

    def dense_weight_gradient(self, dy: Batch, x: Batch, out: Array) -> None:
        np.matmul(dy.data[..., 0].T, x.data[..., 0], out=out)

    def _finish(self, y: Array, bias: Array | None, relu: bool) -> Batch:
        """Bias and ReLU of a convolution's or dense layer's y (N, O, *P), in place."""
        if bias is not None:
            y += bias.reshape(-1, *(1 for _ in y.shape[2:]))
        if relu:
            np.maximum(y, 0, out=y)
        return self.batch(y)


def _chunks(images: int, channels: int, window: Window) -> Iterator[slice]:
    """Slices of images whose unfolded values are about CHUNK."""
    size = channels * math.prod(window.kernel + window.output)
    step = max(1, CHUNK // size)
    for start in range(0, images, step):
        yield slice(start, min(images, start + step))


def _by_channel(images: Array, groups: int) -> Array:
    """(n, C, *P) to (G, C/G, n * P), for one matrix product per group over all images."""
    return images.swapaxes(0, 1).reshape(groups, images.shape[1] // groups, -1)


def _unfold(images: Array, window: Window, groups: int) -> Iterator[tuple[slice, Array]]:
    """Chunks of images (N, C, *I), each with the pixels that each filter tap reads: (G, C/G * K, n * P)."""
    channels, kernel = images.shape[1], math.prod(window.kernel)
    for chunk in _chunks(images.shape[0], channels, window):
        field = padded(images[chunk], window).swapaxes(0, 1)  # (C, n, *F)
        columns = np.empty((channels, kernel, field.shape[1], *window.output), images.dtype)
        for k, tap in enumerate(taps(window)):
            columns[:, k] = field[tap]
        yield chunk, columns.reshape(groups, channels // groups * kernel, -1)
