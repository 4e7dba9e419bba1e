"""Transposed convolution: a convolution run backwards, which enlarges maps."""

import math
from typing import ClassVar

import numpy as np

from gpucnn import arguments
from gpucnn.arguments import each_axis, integer, truth
from gpucnn.backends.batch import Batch
from gpucnn.errors import ShapeError
from gpucnn.geometry import Padding, PerAxis, conv_transpose_multiply_adds, transposed_field, transposed_window
from gpucnn.initializers import check_initializer
from gpucnn.layers.activation import check_activation, finish, onnx_activation, torch_activation
from gpucnn.layers.base import Backward, Layer, Parameter, Shape
from gpucnn.layers.counterparts import Graph, TorchModule, onnx_window, torch_window
from gpucnn.layers.settings import image_shape


class TransposedConvolution(Layer):
    """Transposed convolution over one to three spatial axes; settings as in ConvTranspose2d.

    ConvTranspose1d, 2d and 3d only take images of so many axes.
    """

    recordable = True
    axes: int | None = None  # None: as many as the images have
    _checks: ClassVar = {"activation": check_activation}

    def __init__(
        self,
        out_channels: int,
        kernel_size: PerAxis,
        *,
        stride: PerAxis = 1,
        padding: Padding = 0,
        output_padding: PerAxis = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        bias: bool = True,
        activation: str | None = None,
        initializer: str | float = "he",
    ):
        self.out_channels = integer("out_channels", out_channels)
        self.kernel_size = each_axis("kernel_size", kernel_size, self.axes)
        self.stride = each_axis("stride", stride, self.axes)
        self.padding = arguments.padding(padding, self.axes)
        self.dilation = each_axis("dilation", dilation, self.axes)
        self.output_padding = each_axis("output_padding", output_padding, self.axes, least=0)
        self.groups = integer("groups", groups)
        self.use_bias = truth("bias", bias)
        self.activation = activation
        self.initializer = check_initializer(initializer)

    def build(self, shape: Shape) -> Shape:
        channels, size = image_shape(shape, self.axes)
        self.axes = len(size)
        out, groups = self.out_channels, self.groups
        if channels % groups or out % groups:
            raise ShapeError(f"{groups} groups do not divide {channels} input channels and {out} output channels")
        # Not called `window`, which is how a layer's output sees its input: this one is run backwards.
        self.backwards = transposed_window(
            size,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
        )
        self.reach, self.step = transposed_field(self.backwards)
        kernel = self.backwards.kernel
        taps = math.prod(kernel)
        # Every stride-th tap along each axis contributes to a value.
        fan_in = -(-channels // groups * taps // math.prod(self.backwards.stride))
        self.weight = Parameter((channels, out // groups, *kernel), self.initializer, fan_in, out // groups * taps)
        self.bias = Parameter((out,)) if self.use_bias else None
        return (out, *self.backwards.input)

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        backend, w, b, window, groups = x.backend, self.weight, self.bias, self.backwards, self.groups
        y = backend.conv_input_gradient(x, w.value, window, groups)
        rectified = self.activation == "relu"
        if b:
            y = backend.add_bias(y, b.value, relu=rectified)
        elif rectified:
            y = backend.elementwise("relu", y)
        y, activation_backward = finish(y, self.activation)

        return y, lambda dy: self._gradients(activation_backward(dy), x)

    def gradients(self, dy: Batch, x: Batch) -> Batch | None:
        if self.activation:
            return super().gradients(dy, x)
        self.check(x)
        return self._gradients(dy, x)

    def _gradients(self, dy: Batch, x: Batch) -> Batch | None:
        """From dy before the activation."""
        backend, w, window = x.backend, self.weight, self.backwards
        if self.bias and self._trainable:
            backend.bias_gradient(dy, self.bias.grad)
        if self._trainable:  # x takes the place of the window's output, dy that of its input
            backend.conv_weight_gradient(x, dy, window, self.groups, w.grad)
        return backend.conv(dy, w.value, None, window, self.groups) if self.input_gradient else None

    def multiply_adds(self) -> int:
        sizes = self.input_shape[0], self.out_channels, self.backwards
        return conv_transpose_multiply_adds(*sizes, groups=self.groups)

    def filter_weights(self, state: dict[str, np.ndarray]) -> np.ndarray:
        weights, groups = state[self.weight.name], self.groups
        channels, out, *kernel = weights.shape
        weights = weights.reshape(groups, channels // groups, out, *kernel).swapaxes(1, 2)
        return weights.reshape(groups * out, channels // groups, *kernel)

    def onnx(self, graph: Graph, x: str) -> str:
        window = self.backwards  # its input is the layer's output
        extra = [
            size - ((i - 1) * s - before - after + d * (k - 1) + 1)
            for size, i, s, (before, after), d, k in zip(
                window.input, window.output, window.stride, window.padding, window.dilation, window.kernel, strict=True
            )
        ]
        parts = [graph.tensor(part) for _, part in self.parameters()]
        settings = {"dilations": window.dilation, "group": self.groups, "output_padding": extra}
        y = graph.node("ConvTranspose", x, *parts, **onnx_window(window), **settings)
        return onnx_activation(graph, y, self.activation)

    def pytorch(self) -> list[TorchModule]:
        arguments = {
            "in_channels": self.input_shape[0],
            "out_channels": self.out_channels,
            **torch_window(self, self.backwards, "cuts off"),
            "output_padding": self.output_padding,
            "groups": self.groups,
            "bias": self.bias is not None,
            "dilation": self.backwards.dilation,
        }
        module = TorchModule(f"ConvTranspose{self.axes}d", arguments, dict(self.parameters()))
        return [module, *torch_activation(self.activation)]


class ConvTranspose1d(TransposedConvolution):
    """Transposed convolution of (N, C, W) to (N, out_channels, W'): see ConvTranspose2d."""

    axes = 1


class ConvTranspose2d(TransposedConvolution):
    """Transposed convolution of (N, C, H, W) to (N, out_channels, H', W'): each value spreads over a patch of the
    output.

    It is the gradient of a convolution with respect to its input, with that convolution's weights: a value at (i, j)
    adds weight[c, o, r, s] times itself to the output pixel (i * stride + r * dilation - before, ...), and overlapping
    patches add up. Sizes: O = (I - 1) * stride - before - after + dilation * (K - 1) + output_padding + 1.

    Arguments as in Conv2d (PyTorch's names): `kernel_size`, `stride`, `dilation` and `output_padding` are one integer
    or one per axis; `padding`, cut off the output, is one integer, one per axis, or (before, after) per axis.
    `output_padding` is less than stride or dilation. `groups` splits input and output channels into so many independent
    convolutions. `activation` is None, "relu" (fused with the bias) or another activation's name. `weight` is
    (C, out_channels/groups, R, S), `bias` (out_channels,) or None. A named initializer takes as fan_in the number of
    values that feed one output, C/groups * R * S / prod(stride).
    """

    axes = 2


class ConvTranspose3d(TransposedConvolution):
    """Transposed convolution of (N, C, D, H, W) to (N, out_channels, D', H', W'): see ConvTranspose2d."""

    axes = 3
