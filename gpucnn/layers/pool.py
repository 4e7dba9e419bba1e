"""Pooling over one, two or three spatial axes: the maximum or mean over windows, equal parts, or the whole map.

One implementation for any number of axes; each named class fixes the number and refuses other inputs.
"""

from dataclasses import replace

from gpucnn import arguments
from gpucnn.arguments import each_axis, truth
from gpucnn.backends.batch import Batch
from gpucnn.geometry import PADDING_WORDS, Field, Padding, PerAxis, Window, pool_window
from gpucnn.layers.base import Backward, Layer, Shape
from gpucnn.layers.counterparts import Graph, TorchModule, onnx_window, torch_window
from gpucnn.layers.resampling import onnx_resample
from gpucnn.layers.settings import image_shape
from gpucnn.resampling import adaptive_average, adaptive_field, adaptive_maximum, adaptive_sizes


class Pool(Layer):
    """`size`, `stride` (default: `size`): one integer or one per axis; `padding` as in a convolution, at most half
    of `size`. `ceil_mode` keeps a last window that reaches past the image (PyTorch's rule); `strict` refuses a stride
    that leaves pixels over."""

    axes: int | None = None  # None: as many as the images have

    def __init__(self, size, *, stride=None, padding=0, ceil_mode: bool = False, strict: bool = False):
        self.size = each_axis("size", size, self.axes)
        self.stride = None if stride is None else each_axis("stride", stride, self.axes)
        self.padding = arguments.padding(padding, self.axes, PADDING_WORDS)
        self.ceil_mode, self.strict = truth("ceil_mode", ceil_mode), truth("strict", strict)

    def build(self, shape: Shape) -> Shape:
        channels, size = image_shape(shape, self.axes)
        self.axes = len(size)
        settings = {"stride": self.stride, "padding": self.padding, "strict": self.strict, "ceil": self.ceil_mode}
        self.window = pool_window(size, self.size, **settings)
        return (channels, *self.window.output)

    def receptive_field(self, field: Field, image: Shape) -> Field:
        return field.after(self.window)

    def _reaching(self) -> Window:
        """The window, padded as far as its last position reaches: ONNX rounds sizes up by other rules."""
        sizes = zip(self.window.input, self.window.kernel, self.window.stride, self.window.output, strict=True)
        ends = [(o - 1) * s + k - i for i, k, s, o in sizes]
        pads = ((before, max(0, end - before)) for (before, _), end in zip(self.window.padding, ends, strict=True))
        return replace(self.window, padding=tuple(pads))

    def _torch_settings(self) -> dict:
        return {**torch_window(self, self.window), "ceil_mode": self.ceil_mode}


class MaxPool(Pool):
    """The largest value of each window; padding never wins."""

    recordable = local = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        y, where = x.backend.max_pool(x, self.window)
        return y, lambda dy: x.backend.max_pool_gradient(dy, where, self.window)

    def onnx(self, graph: Graph, x: str) -> str:
        return graph.node("MaxPool", x, **onnx_window(self._reaching()))

    def pytorch(self) -> list[TorchModule]:
        return [TorchModule(f"MaxPool{self.axes}d", self._torch_settings())]


class AvgPool(Pool):
    """The mean of each window; `count_include_pad` counts padding as zeros, as PyTorch does."""

    recordable = local = True

    def __init__(
        self,
        size: PerAxis,
        *,
        stride: PerAxis | None = None,
        padding: Padding = 0,
        count_include_pad: bool = True,
        ceil_mode: bool = False,
        strict: bool = False,
    ):
        super().__init__(size, stride=stride, padding=padding, ceil_mode=ceil_mode, strict=strict)
        self.count_include_pad = truth("count_include_pad", count_include_pad)

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        return x.backend.avg_pool(x, self.window, self.count_include_pad), self.gradients

    def gradients(self, dy: Batch, x: Batch | None = None) -> Batch:
        return dy.backend.avg_pool_gradient(dy, self.window, self.count_include_pad)

    def onnx(self, graph: Graph, x: str) -> str:
        window, counted = self._reaching(), self.count_include_pad
        kept = [min(pads, reached) for pads, reached in zip(self.window.padding, window.padding, strict=True)]
        if counted and kept != list(window.padding):
            # What lies beyond the padding never counts, so the padding becomes a part of the image.
            before, after = zip(*kept, strict=True)
            x = graph.node("Pad", x, graph.constant("pads", [0, 0, *before, 0, 0, *after]))
            beyond = ((0, reach - pad) for (_, reach), pad in zip(window.padding, after, strict=True))
            window, counted = replace(window, padding=tuple(beyond)), False
        return graph.node("AveragePool", x, **onnx_window(window), count_include_pad=int(counted))

    def pytorch(self) -> list[TorchModule]:
        settings = {**self._torch_settings(), "count_include_pad": self.count_include_pad}
        return [TorchModule(f"AvgPool{self.axes}d", settings)]


class GlobalPool(Layer):
    """One value per map."""

    axes: int | None = None  # None: as many as the images have

    def build(self, shape: Shape) -> Shape:
        channels, size = image_shape(shape, self.axes)
        self.axes = len(size)
        self._whole = pool_window(size, size)
        return (channels,)


class GlobalAvgPool(GlobalPool):
    """The mean of each map."""

    recordable = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        return x.backend.global_avg_pool(x), self.gradients

    def gradients(self, dy: Batch, x: Batch | None = None) -> Batch:
        return dy.backend.global_avg_pool_gradient(dy, self.input_shape[1:])

    def sliding(self, size: Shape) -> Layer:
        return {1: AvgPool1d, 2: AvgPool2d, 3: AvgPool3d}[len(size)](size, stride=1)

    def onnx(self, graph: Graph, x: str) -> str:
        return graph.node("Flatten", graph.node("GlobalAveragePool", x), axis=1)

    def pytorch(self) -> list[TorchModule]:
        return [TorchModule(f"AdaptiveAvgPool{self.axes}d", {"output_size": 1}), TorchModule("Flatten")]


class GlobalMaxPool(GlobalPool):
    """The largest value of each map; its gradient goes to the first largest pixel."""

    recordable = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        y, where = x.backend.max_pool(x, self._whole)
        ones = (1,) * len(x.spatial)

        def backward(dy: Batch) -> Batch:
            return x.backend.max_pool_gradient(dy.reshape(dy.channels, *ones), where, self._whole)

        return y.reshape(y.channels), backward

    def sliding(self, size: Shape) -> Layer:
        return {1: MaxPool1d, 2: MaxPool2d, 3: MaxPool3d}[len(size)](size, stride=1)

    def onnx(self, graph: Graph, x: str) -> str:
        return graph.node("Flatten", graph.node("GlobalMaxPool", x), axis=1)

    def pytorch(self) -> list[TorchModule]:
        return [TorchModule(f"AdaptiveMaxPool{self.axes}d", {"output_size": 1}), TorchModule("Flatten")]


class AdaptivePool(Layer):
    """Windows that divide each axis into `output_size` parts, one integer or one per axis: window p of O over I pixels
    goes from floor(p * I / O) to ceil((p + 1) * I / O), so neighbors may share a pixel (PyTorch's rule)."""

    axes: int | None = None  # None: as many as the images have

    def __init__(self, output_size: PerAxis):
        self.output_size = each_axis("output_size", output_size, self.axes)

    def build(self, shape: Shape) -> Shape:
        channels, size = image_shape(shape, self.axes)
        self.axes = len(size)
        self._output = adaptive_sizes(size, self.output_size)
        self.reach, self.step = adaptive_field(size, self._output)
        return (channels, *self._output)


class AdaptiveAvgPool(AdaptivePool):
    """The mean of each window."""

    recordable = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        return x.backend.adaptive_avg_pool(x, self._output), self.gradients

    def gradients(self, dy: Batch, x: Batch | None = None) -> Batch:
        return dy.backend.adaptive_avg_pool_gradient(dy, self.input_shape[1:])

    def onnx(self, graph: Graph, x: str) -> str:
        taps, window = adaptive_average(self.input_shape[1:], self._output)
        if window is None:
            return onnx_resample(graph, x, taps)
        return graph.node("AveragePool", x, kernel_shape=window.kernel, strides=window.stride)

    def pytorch(self) -> list[TorchModule]:
        return [TorchModule(f"AdaptiveAvgPool{self.axes}d", {"output_size": self._output})]


class AdaptiveMaxPool(AdaptivePool):
    """The largest value of each window; its gradient goes to the first largest pixel."""

    recordable = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        y, where = x.backend.adaptive_max_pool(x, self._output)
        return y, lambda dy: x.backend.adaptive_max_pool_gradient(dy, where, x.spatial)

    def onnx(self, graph: Graph, x: str) -> str:
        taps, window = adaptive_maximum(self.input_shape[1:], self._output)
        x = onnx_resample(graph, x, taps)
        return graph.node("MaxPool", x, kernel_shape=window.kernel, strides=window.stride)

    def pytorch(self) -> list[TorchModule]:
        return [TorchModule(f"AdaptiveMaxPool{self.axes}d", {"output_size": self._output})]


class MaxPool1d(MaxPool):
    """The largest value of each window of (N, C, W); padding never wins. Settings as in Pool."""

    axes = 1


class MaxPool2d(MaxPool):
    """The largest value of each window of (N, C, H, W); padding never wins. Settings as in Pool."""

    axes = 2


class MaxPool3d(MaxPool):
    """The largest value of each window of (N, C, D, H, W); padding never wins. Settings as in Pool."""

    axes = 3


class AvgPool1d(AvgPool):
    """The mean of each window of (N, C, W); settings as in Pool, and `count_include_pad`."""

    axes = 1


class AvgPool2d(AvgPool):
    """The mean of each window of (N, C, H, W); settings as in Pool, and `count_include_pad`."""

    axes = 2


class AvgPool3d(AvgPool):
    """The mean of each window of (N, C, D, H, W); settings as in Pool, and `count_include_pad`."""

    axes = 3


class GlobalAvgPool1d(GlobalAvgPool):
    """The mean of each map: (N, C, W) to (N, C)."""

    axes = 1


class GlobalAvgPool2d(GlobalAvgPool):
    """The mean of each map: (N, C, H, W) to (N, C)."""

    axes = 2


class GlobalAvgPool3d(GlobalAvgPool):
    """The mean of each map: (N, C, D, H, W) to (N, C)."""

    axes = 3


class GlobalMaxPool1d(GlobalMaxPool):
    """The largest value of each map: (N, C, W) to (N, C)."""

    axes = 1


class GlobalMaxPool2d(GlobalMaxPool):
    """The largest value of each map: (N, C, H, W) to (N, C)."""

    axes = 2


class GlobalMaxPool3d(GlobalMaxPool):
    """The largest value of each map: (N, C, D, H, W) to (N, C)."""

    axes = 3


class AdaptiveAvgPool1d(AdaptiveAvgPool):
    """The means of (N, C, W)'s windows, `output_size` of them: see AdaptivePool."""

    axes = 1


class AdaptiveAvgPool2d(AdaptiveAvgPool):
    """The means of (N, C, H, W)'s windows, `output_size` of them: see AdaptivePool."""

    axes = 2


class AdaptiveAvgPool3d(AdaptiveAvgPool):
    """The means of (N, C, D, H, W)'s windows, `output_size` of them: see AdaptivePool."""

    axes = 3


class AdaptiveMaxPool1d(AdaptiveMaxPool):
    """The largest values of (N, C, W)'s windows, `output_size` of them: see AdaptivePool."""

    axes = 1


class AdaptiveMaxPool2d(AdaptiveMaxPool):
    """The largest values of (N, C, H, W)'s windows, `output_size` of them: see AdaptivePool."""

    axes = 2


class AdaptiveMaxPool3d(AdaptiveMaxPool):
    """The largest values of (N, C, D, H, W)'s windows, `output_size` of them: see AdaptivePool."""

    axes = 3
