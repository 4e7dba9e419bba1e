"""Activations, softmax and dropout. All but softmax take arrays of any shape."""

from typing import Any

import numpy as np

from gpucnn.arguments import integer, number, seed
from gpucnn.backends.elementwise import ELEMENTWISE
from gpucnn.functional.arrays import Name, backend_for, backward, built, channeled, expect, floats, forward
from gpucnn.layers import Dropout, Softmax

__all__ = ["dropout", "dropout_backward", "gelu", "gelu_backward", "leaky_relu", "leaky_relu_backward", "relu"]
__all__ += ["relu_backward", "sigmoid", "sigmoid_backward", "silu", "silu_backward", "softmax", "softmax_backward"]
__all__ += ["tanh", "tanh_backward"]


def relu(x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """x where it is positive, else +0; an array of any shape."""
    return _value("relu", x, backend, math)


def relu_backward(dy, x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """dx of `relu`: dy where x is positive, else +0. dy has x's shape."""
    return _gradient("relu", dy, x, backend, math)


def tanh(x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """The hyperbolic tangent of an array of any shape."""
    return _value("tanh", x, backend, math)


def tanh_backward(dy, x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """dx of `tanh`: dy * (1 - tanh(x)**2). dy has x's shape."""
    return _gradient("tanh", dy, x, backend, math)


def sigmoid(x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """1 / (1 + exp(-x)) of an array of any shape."""
    return _value("sigmoid", x, backend, math)


def sigmoid_backward(dy, x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """dx of `sigmoid`: dy * y * (1 - y), y being sigmoid(x). dy has x's shape."""
    return _gradient("sigmoid", dy, x, backend, math)


def leaky_relu(x, *, negative_slope: float = 0.01, backend: Name = None, math: Name = None) -> np.ndarray:
    """x where it is positive, else negative_slope * x; an array of any shape."""
    return _value("leaky_relu", x, backend, math, number("negative_slope", negative_slope))


def leaky_relu_backward(dy, x, *, negative_slope: float = 0.01, backend: Name = None, math: Name = None) -> np.ndarray:
    """dx of `leaky_relu` with the same slope: dy where x is positive, else negative_slope * dy. dy has x's shape."""
    return _gradient("leaky_relu", dy, x, backend, math, number("negative_slope", negative_slope))


def gelu(x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """x * Phi(x) of an array of any shape, Phi the normal distribution's cdf (not the approximation by tanh)."""
    return _value("gelu", x, backend, math)


def gelu_backward(dy, x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """dx of `gelu`: dy * (Phi(x) + x * phi(x)), phi the normal density. dy has x's shape."""
    return _gradient("gelu", dy, x, backend, math)


def silu(x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """x / (1 + exp(-x)) of an array of any shape."""
    return _value("silu", x, backend, math)


def silu_backward(dy, x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """dx of `silu`: dy * s * (1 + x * (1 - s)), s the sigmoid of x. dy has x's shape."""
    return _gradient("silu", dy, x, backend, math)


def softmax(x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """exp(x) / sum(exp(x)) along the channels, axis 1, of x (N, C) or (N, C, *spatial)."""
    (x,) = channeled(x=x)
    return forward(built(Softmax(), x), backend, math, x)


def softmax_backward(dy, x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """dx of `softmax`: (dy - sum(dy * y)) * y, y being softmax(x) and the sum along the channels. dy has x's shape."""
    dy, x = channeled(dy=dy, x=x)
    expect("dy", dy, x.shape, "the shape of x")
    return backward(built(Softmax(), x), backend, math, dy, x)[0]


def dropout(x, rate=0.5, *, seed=0, step=0, layer=0, backend=None, math=None) -> np.ndarray:
    """x with each value zeroed with probability rate, the others times 1 / (1 - rate); an array of any shape.

    Value i in row-major order is dropped where Philox's uniform number at (seed, i, step, layer) is below rate (rule 10
    of the contract): like the Dropout layer of that number in that training step of a model with that seed.
    """
    return _dropped("x", x, rate, seed, step, layer, backend, math)


def dropout_backward(dy, rate=0.5, *, seed=0, step=0, layer=0, backend=None, math=None) -> np.ndarray:
    """dx of `dropout` with the same settings: dropout of dy."""
    return _dropped("dy", dy, rate, seed, step, layer, backend, math)


def _dropped(name: str, x: Any, rate: Any, key: Any, step: Any, layer: Any, backend: Name, math: Name) -> np.ndarray:
    (x,) = floats(**{name: x})
    dropping = Dropout(rate)
    dropping.mode.training, dropping.mode.seed = True, seed(key)
    dropping.number, step = integer("layer", layer, 0, 2**16 - 1), integer("step", step, 0, 2**32 - 1)
    engine = backend_for(x, backend, math)
    dropping.mode.step = engine.array(np.array([step], np.uint32))
    return engine.unpack(dropping(engine.pack(_columns(x)))[0]).reshape(x.shape)


def _value(operation: str, x: Any, backend: Name, math: Name, *settings: float) -> np.ndarray:
    (x,) = floats(x=x)
    engine = backend_for(x, backend, math)
    return engine.unpack(engine.elementwise(operation, engine.pack(_columns(x)), *settings)).reshape(x.shape)


def _gradient(operation: str, dy: Any, x: Any, backend: Name, math: Name, *settings: float) -> np.ndarray:
    dy, x = floats(dy=dy, x=x)
    expect("dy", dy, x.shape, "the shape of x")
    engine = backend_for(x, backend, math)
    saved = engine.pack(_columns(x))
    if ELEMENTWISE[operation].saved == "y":
        saved = engine.elementwise(operation, saved, *settings)
    dx = engine.elementwise_gradient(operation, engine.pack(_columns(dy)), saved, *settings)
    return engine.unpack(dx).reshape(x.shape)


def _columns(x: np.ndarray) -> np.ndarray:
    """Any shape as (N, C), for operations on single values."""
    return x.reshape(x.shape[0] if x.ndim else 1, -1)
