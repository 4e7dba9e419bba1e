"""Convolution."""

import math

from gpucnn.backends.batch import Batch
from gpucnn.errors import ShapeError
from gpucnn.geometry import Window, window
from gpucnn.initializers import check_initializer
from gpucnn.layers.activation import check_activation, finish
from gpucnn.layers.base import Backward, Layer, Parameter, Shape
from gpucnn.layers.settings import image_shape, positive


class Conv2d(Layer):
    """Cross-correlation of (N, C, H, W) with `out_channels` filters: (N, O, P, Q).

    `kernel_size`, `stride` and `dilation` are one integer or one per axis; `padding` is "valid", "same", an integer,
    one per axis, or (before, after) per axis (sizes: gpucnn.geometry). `groups` splits input and output channels into
    so many independent convolutions. `activation` is None, "relu" (fused into the kernel), "tanh", "sigmoid",
    "leaky_relu", "gelu" or "silu".
    `weight` is (O, C/groups, R, S), `bias` (O,) or None.
    """

    capturable = True

    def __init__(
        self, out_channels: int, kernel_size, *, stride=1, padding=0, dilation=1, groups: int = 1, bias: bool = True,
        activation: str | None = None, initializer: str | float = "he"
    ):  # fmt: skip
        self.out_channels = positive("out_channels", out_channels)
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.groups = positive("groups", groups)
        self.use_bias = bool(bias)
        self.activation = check_activation(activation)
        self.initializer = check_initializer(initializer)

    def build(self, shape: Shape) -> Shape:
        channels, size = image_shape(shape)
        out, groups = self.out_channels, self.groups
        if channels % groups or out % groups:
            raise ShapeError(f"{groups} groups do not divide {channels} input channels and {out} output channels")
        self.window = window(size, self.kernel_size, stride=self.stride, padding=self.padding, dilation=self.dilation)
        kernel = self.window.kernel
        taps = math.prod(kernel)
        fans = channels // groups * taps, out // groups * taps
        self.weight = Parameter((out, channels // groups, *kernel), self.initializer, *fans)
        self.bias = Parameter((out,)) if self.use_bias else None
        return (out, *self.window.output)

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        b = self.bias
        y = x.backend.conv(x, self.weight.value, b and b.value, self.window, self.groups, self.activation == "relu")
        y, activation_backward = finish(y, self.activation)

        def backward(dy: Batch) -> Batch | None:
            dy = activation_backward(dy)
            if b:
                x.backend.bias_gradient(dy, b.grad)
            return self._gradients(dy, x)

        return y, backward

    def with_max_pool(self, x: Batch, pool: Window) -> tuple[Batch, Backward]:
        """This layer, its activation being ReLU, and a max pooling after it, as one operation of the backend."""
        self.check(x)
        backend, b = x.backend, self.bias
        y, where = backend.conv_max_pool(x, self.weight.value, b and b.value, self.window, self.groups, pool)

        def backward(dy: Batch) -> Batch | None:
            return self._gradients(backend.conv_max_pool_gradient(dy, y, where, pool, b and b.grad), x)

        return y, backward

    def _gradients(self, dy: Batch, x: Batch) -> Batch | None:
        """The weights' gradients from dy before the activation; returns dx."""
        backend, w = x.backend, self.weight
        backend.conv_weight_gradient(dy, x, self.window, self.groups, w.grad)
        if self.input_gradient:
            return backend.conv_input_gradient(dy, w.value, self.window, self.groups)
