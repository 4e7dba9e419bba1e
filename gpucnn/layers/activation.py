"""Activations, as layers and as the last operation of other layers."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from gpucnn.arguments import number, one_of
from gpucnn.backends.batch import Batch
from gpucnn.backends.elementwise import ELEMENTWISE
from gpucnn.layers.base import Backward, Layer
from gpucnn.layers.counterparts import Graph, TorchModule, onnx_node, torch_module

ACTIVATIONS = tuple(ELEMENTWISE)
SLOPE = 0.01  # leaky ReLU's default below 0
# The settings of activations that are chosen by name.
_SETTINGS = {"leaky_relu": (SLOPE,)}


# For Recordable._checks: None or a known name.
check_activation = partial(one_of, choices=ACTIVATIONS, optional=True)


def activate(name: str, x: Batch, *settings: float) -> tuple[Batch, Callable[[Batch], Batch]]:
    """(the activation's value, its backward)."""
    y = x.backend.elementwise(name, x, *settings)
    saved = y if ELEMENTWISE[name].saved == "y" else x
    return y, lambda dy: x.backend.elementwise_gradient(name, dy, saved, *settings)


def finish(y: Batch, activation: str | None) -> tuple[Batch, Callable[[Batch], Batch]]:
    """(y after the activation, the activation's backward). The operation that made y has already applied "relu"."""
    if activation is None:
        return y, lambda dy: dy
    if activation == "relu":
        return y, lambda dy: y.backend.elementwise_gradient("relu", dy, y)
    return activate(activation, y, *_SETTINGS.get(activation, ()))


class Activation(Layer):
    """Base of the layers that apply one operation of ELEMENTWISE."""

    recordable = local = elementwise = True
    operation: str

    @property
    def constants(self) -> tuple[float, ...]:
        """The operation's settings."""
        return ()

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return activate(self.operation, x, *self.constants)


class ReLU(Activation):
    """x > 0 ? x : 0."""

    operation = "relu"
    onnx, pytorch = onnx_node("Relu"), torch_module("ReLU")


class Tanh(Activation):
    """The hyperbolic tangent."""

    operation = "tanh"
    onnx, pytorch = onnx_node("Tanh"), torch_module("Tanh")


class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    operation = "sigmoid"
    onnx, pytorch = onnx_node("Sigmoid"), torch_module("Sigmoid")


class LeakyReLU(Activation):
    """x where it is positive, else negative_slope * x (Maas, Hannun and Ng 2013)."""

    recordable = local = elementwise = True
    operation = "leaky_relu"
    _checks: ClassVar = {"negative_slope": partial(number)}

    def __init__(self, negative_slope: float = SLOPE):
        self.negative_slope = negative_slope

    @property
    def constants(self) -> tuple[float, ...]:
        return (self.negative_slope,)

    def onnx(self, graph: Graph, x: str) -> str:
        return graph.node("LeakyRelu", x, alpha=self.negative_slope)

    def pytorch(self) -> list[TorchModule]:
        return [TorchModule("LeakyReLU", {"negative_slope": self.negative_slope})]


class GELU(Activation):
    """x * Phi(x), Phi the normal distribution's cdf: exact, not the approximation by tanh (Hendrycks and Gimpel
    2016).
    """

    operation = "gelu"
    onnx, pytorch = onnx_node("Gelu"), torch_module("GELU")


class SiLU(Activation):
    """x / (1 + exp(-x)), also called swish (Elfwing, Uchibe and Doya 2018)."""

    operation = "silu"
    pytorch = torch_module("SiLU")

    def onnx(self, graph: Graph, x: str) -> str:
        return graph.node("Mul", x, graph.node("Sigmoid", x))


class Softmax(Layer):
    """exp(x) / sum(exp(x)) along the channels, at each position of a map.

    Not for the end of a classifier in training: softmax cross-entropy takes logits and computes the softmax itself.
    """

    recordable = local = True
    onnx, pytorch = onnx_node("Softmax", axis=1), torch_module("Softmax", dim=1)

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        y = x.backend.softmax(x)
        return y, lambda dy: x.backend.softmax_gradient(dy, y)


_LAYERS: dict[str, Any] = {layer.operation: layer for layer in Activation.__subclasses__()}


def onnx_activation(graph: Graph, x: str, name: str | None) -> str:
    """Add the nodes of a layer's final activation; returns the name of its output."""
    return x if name is None else _LAYERS[name]().onnx(graph, x)


def torch_activation(name: str | None) -> list[TorchModule]:
    """The module of a layer's final activation. Nothing else uses its input."""
    if name is None:
        return []
    return [TorchModule("ReLU", {"inplace": True})] if name == "relu" else _LAYERS[name]().pytorch()
