"""Activations, as layers and as the last thing that another layer does."""

from collections.abc import Callable

from gpucnn.backends.batch import Batch
from gpucnn.backends.elementwise import ELEMENTWISE
from gpucnn.errors import ConfigurationError
from gpucnn.layers.base import Backward, Layer
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
    if activation is None:
        return y, lambda dy: dy
    if activation == "relu":
        return y, lambda dy: y.backend.elementwise_gradient("relu", dy, y)
    return apply(activation, y, *(SLOPE,) * (activation == "leaky_relu"))


def apply(name: str, x: Batch, *settings: float) -> tuple[Batch, Callable[[Batch], Batch]]:
    """(y of an operation of gpucnn.backends.elementwise, its backward)."""
    y = x.backend.elementwise(name, x, *settings)
    saved = {"x": x, "y": y}[ELEMENTWISE[name].saved]
    return y, lambda dy: x.backend.elementwise_gradient(name, dy, saved, *settings)


class ReLU(Layer):
    """x > 0 ? x : 0."""

    recordable = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return apply("relu", x)


class Tanh(Layer):
    """The hyperbolic tangent."""

    recordable = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return apply("tanh", x)


class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    recordable = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return apply("sigmoid", x)


class LeakyReLU(Layer):
    """x where it is positive, else negative_slope * x (Maas, Hannun and Ng 2013)."""

    recordable = True

    def __init__(self, negative_slope: float = SLOPE):
        self.negative_slope = finite("negative_slope", negative_slope)

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return apply("leaky_relu", x, self.negative_slope)


class GELU(Layer):
    """x * Phi(x), Phi the normal distribution's cdf: exact, not the approximation by tanh (Hendrycks and Gimpel
    2016).
    """

    recordable = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return apply("gelu", x)


class SiLU(Layer):
    """x / (1 + exp(-x)), also called swish (Elfwing, Uchibe and Doya 2018)."""

    recordable = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return apply("silu", x)


class Softmax(Layer):
    """exp(x) / sum(exp(x)) along the channels, at each position of a map.

    Not for the end of a classifier that is trained: softmax cross-entropy takes logits and computes it itself.
    """

    recordable = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        y = x.backend.softmax(x)
        return y, lambda dy: x.backend.softmax_gradient(dy, y)
