"""Activations, as layers and as the last thing that another layer does."""

from collections.abc import Callable

from gpucnn.backends.batch import Batch
from gpucnn.errors import ConfigurationError
from gpucnn.layers.base import Backward, Layer
from gpucnn.layers.counterparts import Graph, TorchModule, onnx_node, torch_module
from gpucnn.layers.settings import finite

ACTIVATIONS = ("relu", "tanh", "sigmoid", "leaky_relu", "gelu", "silu")
SLOPE = 0.01  # of leaky ReLU below 0, unless given


def check_activation(name: str | None) -> str | None:
    """`name` itself if it is None or known; raises ConfigurationError otherwise."""
    if name is not None and name not in ACTIVATIONS:
        raise ConfigurationError(f"no activation {name!r}; use one of {', '.join(ACTIVATIONS)}, or None")
    return name


def finish(y: Batch, activation: str | None) -> tuple[Batch, Callable[[Batch], Batch]]:
    """(y after the activation, the activation's backward). The operation that made y has applied "relu" already."""
    backend = y.backend
    if activation == "relu":
        return y, lambda dy: backend.relu_gradient(dy, y)
    if activation == "tanh":
        z = backend.tanh(y)
        return z, lambda dy: backend.tanh_gradient(dy, z)
    if activation == "sigmoid":
        z = backend.sigmoid(y)
        return z, lambda dy: backend.sigmoid_gradient(dy, z)
    if activation == "leaky_relu":
        return leaky(y, SLOPE)
    if activation == "gelu":
        return backend.gelu(y), lambda dy: backend.gelu_gradient(dy, y)
    if activation == "silu":
        return backend.silu(y), lambda dy: backend.silu_gradient(dy, y)
    return y, lambda dy: dy


def leaky(x: Batch, slope: float) -> tuple[Batch, Callable[[Batch], Batch]]:
    """(leaky ReLU of x, its backward)."""
    backend = x.backend
    return backend.leaky_relu(x, slope), lambda dy: backend.leaky_relu_gradient(dy, x, slope)


class ReLU(Layer):
    """x > 0 ? x : 0."""

    recordable = local = elementwise = True
    onnx, pytorch = onnx_node("Relu"), torch_module("ReLU")

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return finish(x.backend.relu(x), "relu")


class Tanh(Layer):
    """The hyperbolic tangent."""

    recordable = local = elementwise = True
    onnx, pytorch = onnx_node("Tanh"), torch_module("Tanh")

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return finish(x, "tanh")


class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    recordable = local = elementwise = True
    onnx, pytorch = onnx_node("Sigmoid"), torch_module("Sigmoid")

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return finish(x, "sigmoid")


class LeakyReLU(Layer):
    """x where it is positive, else negative_slope * x (Maas, Hannun and Ng 2013)."""

    recordable = local = elementwise = True

    def __init__(self, negative_slope: float = SLOPE):
        self.negative_slope = finite("negative_slope", negative_slope)

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return leaky(x, self.negative_slope)

    def onnx(self, graph: Graph, x: str) -> str:
        return graph.node("LeakyRelu", x, alpha=self.negative_slope)

    def pytorch(self) -> list[TorchModule]:
        return [TorchModule("LeakyReLU", {"negative_slope": self.negative_slope})]


class GELU(Layer):
    """x * Phi(x), Phi the normal distribution's cdf: exact, not the approximation by tanh (Hendrycks and Gimpel
    2016).
    """

    recordable = local = elementwise = True
    onnx, pytorch = onnx_node("Gelu"), torch_module("GELU")

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return finish(x, "gelu")


class SiLU(Layer):
    """x / (1 + exp(-x)), also called swish (Elfwing, Uchibe and Doya 2018)."""

    recordable = local = elementwise = True
    pytorch = torch_module("SiLU")

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return finish(x, "silu")

    def onnx(self, graph: Graph, x: str) -> str:
        return graph.node("Mul", x, graph.node("Sigmoid", x))


class Softmax(Layer):
    """exp(x) / sum(exp(x)) along the channels, at each position of a map.

    Not for the end of a classifier that is trained: softmax cross-entropy takes logits and computes it itself.
    """

    recordable = local = True
    onnx, pytorch = onnx_node("Softmax", axis=1), torch_module("Softmax", dim=1)

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        y = x.backend.softmax(x)
        return y, lambda dy: x.backend.softmax_gradient(dy, y)


_LAYERS = {"relu": ReLU, "tanh": Tanh, "sigmoid": Sigmoid, "leaky_relu": LeakyReLU, "gelu": GELU, "silu": SiLU}


def onnx_activation(graph: Graph, x: str, name: str | None) -> str:
    """Add the nodes of the activation that is the last thing a layer does; returns the name of its output."""
    return x if name is None else _LAYERS[name]().onnx(graph, x)


def torch_activation(name: str | None) -> list[TorchModule]:
    """The module of the activation that is the last thing a layer does. Nothing else uses its input."""
    if name is None:
        return []
    return [TorchModule("ReLU", {"inplace": True})] if name == "relu" else _LAYERS[name]().pytorch()
