"""Activations, as layers and as the last thing that another layer does."""

from collections.abc import Callable

from gpucnn.arguments import number, one_of
from gpucnn.backends.batch import Batch
from gpucnn.backends.elementwise import ELEMENTWISE
from gpucnn.layers.base import Backward, Layer

ACTIVATIONS = tuple(ELEMENTWISE)
SLOPE = 0.01  # of leaky ReLU below 0, unless given
# What an activation that is given by its name takes.
_SETTINGS = {"leaky_relu": (SLOPE,)}


def check_activation(name: str | None) -> str | None:
    """`name` itself if it is None or known; raises ConfigurationError otherwise."""
    return one_of("activation", name, ACTIVATIONS, optional=True)


def activate(name: str, x: Batch, *settings: float) -> tuple[Batch, Callable[[Batch], Batch]]:
    """(the activation's value, its backward)."""
    y = x.backend.elementwise(name, x, *settings)
    saved = y if ELEMENTWISE[name].saved == "y" else x
    return y, lambda dy: x.backend.elementwise_gradient(name, dy, saved, *settings)


def finish(y: Batch, activation: str | None) -> tuple[Batch, Callable[[Batch], Batch]]:
    """(y after the activation, the activation's backward). The operation that made y has applied "relu" already."""
    if activation is None:
        return y, lambda dy: dy
    if activation == "relu":
        return y, lambda dy: y.backend.elementwise_gradient("relu", dy, y)
    return activate(activation, y, *_SETTINGS.get(activation, ()))


class Activation(Layer):
    """Base of the layers that apply one operation of ELEMENTWISE to each value."""

    recordable = True
    operation: str
    settings: tuple[float, ...] = ()

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return activate(self.operation, x, *self.settings)


class ReLU(Activation):
    """x > 0 ? x : 0."""

    operation = "relu"


class Tanh(Activation):
    """The hyperbolic tangent."""

    operation = "tanh"


class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    operation = "sigmoid"


class LeakyReLU(Activation):
    """x where it is positive, else negative_slope * x (Maas, Hannun and Ng 2013)."""

    operation = "leaky_relu"

    def __init__(self, negative_slope: float = SLOPE):
        self.negative_slope = number("negative_slope", negative_slope)

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.negative_slope,)


class GELU(Activation):
    """x * Phi(x), Phi the normal distribution's cdf: exact, not the approximation by tanh (Hendrycks and Gimpel
    2016).
    """

    operation = "gelu"


class SiLU(Activation):
    """x / (1 + exp(-x)), also called swish (Elfwing, Uchibe and Doya 2018)."""

    operation = "silu"


class Softmax(Layer):
    """exp(x) / sum(exp(x)) along the channels, at each position of a map.

    Not for the end of a classifier that is trained: softmax cross-entropy takes logits and computes it itself.
    """

    recordable = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        y = x.backend.softmax(x)
        return y, lambda dy: x.backend.softmax_gradient(dy, y)
