"""Fully connected layers, and flattening."""

import math
from typing import Any, ClassVar

from gpucnn.arguments import integer, truth
from gpucnn.backends.batch import Batch
from gpucnn.errors import ShapeError
from gpucnn.geometry import Field, dense_multiply_adds
from gpucnn.initializers import check_initializer
from gpucnn.layers.activation import check_activation, finish, onnx_activation, torch_activation
from gpucnn.layers.base import Backward, Layer, Parameter, Shape
from gpucnn.layers.conv import CONVOLUTIONS
from gpucnn.layers.counterparts import Graph, TorchModule, onnx_node, torch_module


class Dense(Layer):
    """Fully connected: (N, in) to (N, units).

    `activation` is None, "relu" (fused into the kernel), "tanh", "sigmoid", "leaky_relu", "gelu" or "silu". `weight`
    is (units, in), `bias` (units,) or None.
    """

    recordable = True
    _checks: ClassVar = {"activation": check_activation}

    def __init__(
        self, units: int, *, bias: bool = True, activation: str | None = None, initializer: str | float = "he"
    ):
        self.units = integer("units", units)
        self.use_bias = truth("bias", bias)
        self.activation = activation
        self.initializer = check_initializer(initializer)

    def build(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ShapeError(f"needs flat values of shape (C,), not {tuple(shape)}; put Flatten() before it")
        self.weight = Parameter((self.units, shape[0]), self.initializer, shape[0], self.units)
        self.bias = Parameter((self.units,)) if self.use_bias else None
        return (self.units,)

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        backend, w, b = x.backend, self.weight, self.bias
        rectified = self.activation == "relu"
        y = backend.dense(x, w.value, b and b.value, relu=rectified)
        if rectified:
            return y, lambda dy: self._gradients(dy, x, y)
        y, activation_backward = finish(y, self.activation)

        return y, lambda dy: self._gradients(activation_backward(dy), x)

    def gradients(self, dy: Batch, x: Batch) -> Batch | None:
        if self.activation:
            return super().gradients(dy, x)
        self.check(x)
        return self._gradients(dy, x)

    def _gradients(self, dy: Batch, x: Batch, y: Batch | None = None) -> Batch | None:
        """From dy before the activation, or with the layer's output y, which is ReLU's, after it."""
        backend, w, b = x.backend, self.weight, self.bias
        if self._trainable:
            return backend.dense_gradients(dy, y, x, w.value, w.grad, b and b.grad, self.input_gradient)
        if not self.input_gradient:
            return None
        dy = dy if y is None else backend.elementwise_gradient("relu", dy, y)
        return backend.dense_input_gradient(dy, w.value)

    def multiply_adds(self) -> int:
        return dense_multiply_adds(self.input_shape[0], self.units)

    def receptive_field(self, field: Field, image: Shape) -> Field:
        return Field.whole(image)

    def sliding(self, size: Shape) -> Layer:
        """The convolution with the same weights in the same order, for a map of `size` before Flatten."""
        if len(size) not in CONVOLUTIONS:
            raise ShapeError(f"a map with {len(size)} spatial axes has no convolution; expected 1 to 3")
        settings: dict[str, Any] = {"activation": self.activation, "initializer": self.initializer}
        return CONVOLUTIONS[len(size)](self.units, size, bias=self.use_bias, **settings)

    def onnx(self, graph: Graph, x: str) -> str:
        parts = (graph.tensor(part) for _, part in self.parameters())
        return onnx_activation(graph, graph.node("Gemm", x, *parts, transB=1), self.activation)

    def pytorch(self) -> list[TorchModule]:
        out, inputs = self.weight.shape
        arguments = {"in_features": inputs, "out_features": out, "bias": self.bias is not None}
        return [TorchModule("Linear", arguments, dict(self.parameters())), *torch_activation(self.activation)]


class Flatten(Layer):
    """(N, C, *spatial) to (N, C * prod(spatial)), row-major."""

    recordable = True
    onnx, pytorch = onnx_node("Flatten", axis=1), torch_module("Flatten")

    def build(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        shape = x.shape[1:]
        return x.reshape(math.prod(shape)), lambda dy: dy.reshape(*shape)

    def receptive_field(self, field: Field, image: Shape) -> Field:
        return field
