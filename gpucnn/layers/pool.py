"""Pooling: the maximum or mean over windows, or over the whole map."""

from gpucnn.backends.batch import Batch
from gpucnn.geometry import pool_window
from gpucnn.layers.base import Backward, Layer, Shape
from gpucnn.layers.settings import image_shape


class _Pool2d(Layer):
    capturable = True

    def __init__(self, size, *, stride=None, padding=0):
        self.size, self.stride, self.padding = size, stride, padding

    def build(self, shape: Shape) -> Shape:
        channels, size = image_shape(shape)
        self.window = pool_window(size, self.size, stride=self.stride, padding=self.padding)
        return (channels, *self.window.output)


class MaxPool2d(_Pool2d):
    """The largest value of each window of (N, C, H, W); padding never wins. `stride` is `size` unless given."""

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        y, where = x.backend.max_pool(x, self.window)
        return y, lambda dy: x.backend.max_pool_gradient(dy, where, self.window)


class AvgPool2d(_Pool2d):
    """The mean of each window of (N, C, H, W); `count_include_pad` counts padding as zeros, as PyTorch does.

    `stride` is `size` unless given.
    """

    def __init__(self, size, *, stride=None, padding=0, count_include_pad: bool = True):
        super().__init__(size, stride=stride, padding=padding)
        self.count_include_pad = bool(count_include_pad)

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        y = x.backend.avg_pool(x, self.window, self.count_include_pad)
        return y, lambda dy: x.backend.avg_pool_gradient(dy, self.window, self.count_include_pad)


class GlobalAvgPool2d(Layer):
    """The mean of each map: (N, C, H, W) to (N, C)."""

    capturable = True

    def build(self, shape: Shape) -> Shape:
        return (image_shape(shape)[0],)

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        return x.backend.global_avg_pool(x), lambda dy: x.backend.global_avg_pool_gradient(dy, x.spatial)
