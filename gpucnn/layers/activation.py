"""Activations, as layers and as the last thing that another layer does."""

from collections.abc import Callable

from gpucnn.backends.batch import Batch
from gpucnn.errors import ConfigurationError
from gpucnn.layers.base import Backward, Layer

ACTIVATIONS = ("relu", "tanh", "sigmoid")


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
    return y, lambda dy: dy


class ReLU(Layer):
    """x > 0 ? x : 0."""

    capturable = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return finish(x.backend.relu(x), "relu")


class Tanh(Layer):
    """The hyperbolic tangent."""

    capturable = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return finish(x, "tanh")


class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    capturable = True

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return finish(x, "sigmoid")
