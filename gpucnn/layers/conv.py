"""Convolution over one, two or three spatial axes: one implementation, a class for each number of axes."""

import math
from typing import ClassVar

import numpy as np

from gpucnn import arguments
from gpucnn.arguments import each_axis, integer, truth
from gpucnn.backends.batch import Batch
from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.geometry import PADDING_WORDS, Field, Padding, PerAxis, Window, conv_multiply_adds, window
from gpucnn.initializers import check_initializer
from gpucnn.layers.activation import check_activation, finish, onnx_activation, torch_activation
from gpucnn.layers.base import Backward, Layer, Parameter, Shape
from gpucnn.layers.counterparts import Graph, TorchModule, onnx_window, torch_window
from gpucnn.layers.own import label
from gpucnn.layers.resampling import onnx_resample
from gpucnn.layers.settings import image_shape
from gpucnn.resampling import Taps, check_padding_mode, padding_taps, unpadded_window


class Convolution(Layer):
    """Cross-correlation of (N, C, *I) with `out_channels` filters: (N, O, *P). Conv1d, Conv2d and Conv3d only
    take images of so many axes.

    `kernel_size`, `stride` and `dilation` are one integer or one per axis; `padding` is "valid", "same", an integer,
    one per axis, or (before, after) per axis (sizes: gpucnn.geometry). `strict` refuses a stride that leaves pixels
    over. `padding_mode` fills the padding: "zeros", "constant" (`padding_value` everywhere), "reflect"
    (the image mirrored at its edge pixels), "replicate" (the edge pixels repeated), "circular" (the opposite edge).
    `groups` splits input and output channels into so many independent convolutions; with one per input channel it is
    depthwise. `activation` is None, "relu" (fused into the kernel), "tanh", "sigmoid", "leaky_relu", "gelu" or "silu".
    `weight` is (O, C/groups, *K), `bias` (O,) or None.
    """

    recordable = local = True
    axes: int | None = None  # None: as many as the images have
    _checks: ClassVar = {"activation": check_activation}

    def __init__(
        self,
        out_channels: int,
        kernel_size: PerAxis,
        *more: object,
        stride: PerAxis = 1,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        padding_value: float = 0.0,
        strict: bool = False,
        activation: str | None = None,
        initializer: str | float = "he",
    ):
        if more:
            meant = f"{type(self).__name__}({arguments.shown(kernel_size)}, {arguments.shown(more[0])})"
            written = f"{type(self).__name__}({', '.join(map(arguments.shown, (out_channels, kernel_size, *more)))})"
            raise ConfigurationError(
                f"{written}: input channels are those of the images: write {meant}; stride and all others are named"
            )
        self.out_channels = integer("out_channels", out_channels)
        self.kernel_size = each_axis("kernel_size", kernel_size, self.axes)
        self.stride = each_axis("stride", stride, self.axes)
        self.padding = arguments.padding(padding, self.axes, PADDING_WORDS)
        self.dilation = each_axis("dilation", dilation, self.axes)
        self.groups = integer("groups", groups)
        self.use_bias = truth("bias", bias)
        self.padding_mode, self.padding_value = check_padding_mode(padding_mode, padding_value)
        self.strict = truth("strict", strict)
        self.activation = activation
        self.initializer = check_initializer(initializer)

    def build(self, shape: Shape) -> Shape:
        channels, size = image_shape(shape, self.axes)
        self.axes = len(size)
        out, groups = self.out_channels, self.groups
        if channels % groups or out % groups:
            raise ShapeError(f"{groups} groups do not divide {channels} input channels and {out} output channels")
        settings = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "strict": self.strict}
        self.window = window(size, self.kernel_size, **settings)
        # The kernels pad with zeros themselves; any other padding is added first.
        self._inner: Window = self.window
        self._taps: Taps = ()
        if self.padding_mode != "zeros":
            self._taps = padding_taps(size, self.window.padding, self.padding_mode, self.padding_value)
            self._inner = unpadded_window(self.window)
        kernel = self.window.kernel
        taps = math.prod(kernel)
        fans = channels // groups * taps, out // groups * taps
        self.weight = Parameter((out, channels // groups, *kernel), self.initializer, *fans)
        self.bias = Parameter((out,)) if self.use_bias else None
        return (out, *self.window.output)

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        backend, b = x.backend, self.bias
        x = backend.resample(x, self._taps)
        y = backend.conv(x, self.weight.value, b and b.value, self._inner, self.groups, self.activation == "relu")
        y, activation_backward = finish(y, self.activation)

        def backward(dy: Batch, plus: Batch | None = None) -> Batch | None:
            dy = activation_backward(dy)
            if b and self._trainable:
                backend.bias_gradient(dy, b.grad)
            return self._gradients(dy, x, plus)

        return y, backward

    def gradients(self, dy: Batch, x: Batch) -> Batch | None:
        if self.activation:
            return super().gradients(dy, x)
        self.check(x)
        if self.bias and self._trainable:
            x.backend.bias_gradient(dy, self.bias.grad)
        return self._gradients(dy, x.backend.resample(x, self._taps))

    def with_max_pool(self, x: Batch, pool: Window) -> tuple[Batch, Backward]:
        """This layer, whose activation is ReLU, and the max pooling after it, as one operation of the backend."""
        self.check(x)
        backend, b = x.backend, self.bias
        x = backend.resample(x, self._taps)
        y, where = backend.conv_max_pool(x, self.weight.value, b and b.value, self._inner, self.groups, pool)

        def backward(dy: Batch) -> Batch | None:
            out_bias = b.grad if b and self._trainable else None
            return self._gradients(backend.conv_max_pool_gradient(dy, y, where, pool, out_bias), x)

        return y, backward

    def _gradients(self, dy: Batch, x: Batch, plus: Batch | None = None) -> Batch | None:
        """Writes the weights' gradients from dy before the activation and the padded x; returns dx, to which `plus`
        is added.
        """
        backend, w = x.backend, self.weight
        if self._trainable:
            backend.conv_weight_gradient(dy, x, self._inner, self.groups, w.grad)
        if not self.input_gradient:
            return None
        if plus is not None and not self._taps:
            return backend.conv_input_gradient_add(dy, w.value, self._inner, self.groups, plus)
        dx = backend.conv_input_gradient(dy, w.value, self._inner, self.groups)
        dx = backend.resample_gradient(dx, self._taps)
        return dx if plus is None else backend.add(dx, plus)

    def multiply_adds(self) -> int:
        return conv_multiply_adds(self.input_shape[0], self.out_channels, self.window, groups=self.groups)

    def receptive_field(self, field: Field, image: Shape) -> Field:
        return field.after(self.window)

    def filter_weights(self, state: dict[str, np.ndarray]) -> np.ndarray:
        return state[self.weight.name]

    def onnx(self, graph: Graph, x: str) -> str:
        parts = [graph.tensor(part) for _, part in self.parameters()]
        x = onnx_resample(graph, x, self._taps)  # padding other than zeros
        settings = {**onnx_window(self._inner), "dilations": self._inner.dilation, "group": self.groups}
        return onnx_activation(graph, graph.node("Conv", x, *parts, **settings), self.activation)

    def pytorch(self) -> list[TorchModule]:
        if self.padding_mode == "constant":
            raise ConfigurationError(f"{label(self)} pads with a constant other than 0, which PyTorch's does not")
        arguments = {
            "in_channels": self.input_shape[0],
            "out_channels": self.out_channels,
            **torch_window(self, self.window),
            "dilation": self.window.dilation,
            "groups": self.groups,
            "bias": self.bias is not None,
            "padding_mode": self.padding_mode,
        }
        module = TorchModule(f"Conv{self.axes}d", arguments, dict(self.parameters()))
        return [module, *torch_activation(self.activation)]


class Conv1d(Convolution):
    """Cross-correlation of (N, C, W); settings as in Convolution."""

    axes = 1


class Conv2d(Convolution):
    """Cross-correlation of (N, C, H, W); settings as in Convolution."""

    axes = 2


class Conv3d(Convolution):
    """Cross-correlation of (N, C, D, H, W); settings as in Convolution."""

    axes = 3


CONVOLUTIONS = {1: Conv1d, 2: Conv2d, 3: Conv3d}
