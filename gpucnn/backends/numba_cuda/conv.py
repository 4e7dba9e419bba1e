"""Convolution on the readable GPU backend."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba_cuda.base import NumbaCudaBase
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import positions_per_band, three, window3d
from gpucnn.geometry import Window
from gpucnn.kernels.numba_cuda import conv, sums


class NumbaCudaConv(NumbaCudaBase):
    """See the protocol for what each method does."""

    def conv(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int = 1, relu: bool = False
    ) -> Batch:
        y = self._maps(x, len(w), window.output)
        bias = self.zeros((len(w),)) if bias is None else bias
        arguments = self._deep(x), _deep_weights(w), bias, self._deep(y)
        self._run(conv.conv, y.data.size, *arguments, *_steps(window), groups, relu)
        return y

    def conv_input_gradient(self, dy: Batch, w: Array, window: Window, groups: int = 1) -> Batch:
        dx = self._maps(dy, w.shape[1] * groups, window.input)
        arguments = self._deep(dy), _deep_weights(w), self._deep(dx)
        self._run(conv.conv_input_gradient, dx.data.size, *arguments, *_steps(window), groups)
        return dx

    def conv_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        shape = _deep_weights(out).shape
        stride, dilation, before = _steps(window)
        gradient, values = self._deep(dy), self._deep(x)
        if math.prod(window.output) == 1:
            part, bands = self._part(dy, 1, out.size, np.float32), 1
            sizes = dy.images, groups, shape, dilation, before
            self._run(conv.conv_point_weight_gradient, part.size, gradient, values, part, *sizes)
        else:
            band = positions_per_band(window.output)
            bands = -(-math.prod(window.output) // band)
            part = self._part(dy, bands, out.size, np.float32)
            arguments = gradient, values, part, dy.images, groups, band, shape, stride, dilation, before
            self._run_lanes(conv.conv_weight_gradient, dy.data.shape[0] * bands * out.size, *arguments)
        self._run(sums.weight_total, out.size, part, out.reshape(-1), bands)


def _deep_weights(w: Array) -> Array:
    """(O, C/groups, *K) with three kernel axes."""
    return w.reshape(*w.shape[:2], *three(w.shape[2:], 1))


def _steps(window: Window) -> tuple[tuple, tuple, tuple]:
    """Stride, dilation and the padding before, along three axes."""
    sizes = window3d(window)
    return sizes.stride, sizes.dilation, sizes.before
