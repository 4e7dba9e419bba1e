"""Elementwise operations: rules 6 and 7. What is not written out here is in gpucnn/arithmetic/elementary.py."""

from collections.abc import Callable

import numpy as np

from gpucnn.arithmetic import fma, gelu, gelu_slope, sigmoid, silu, silu_slope, tanh

ZERO, ONE = np.float32(0), np.float32(1)

VALUES: dict[str, Callable[..., np.ndarray]] = {
    "relu": lambda x: np.where(x > 0, x, ZERO),
    "tanh": tanh,
    "sigmoid": sigmoid,
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x + ZERO),
    "gelu": gelu,
    "silu": silu,
}

GRADIENTS: dict[str, Callable[..., np.ndarray]] = {
    "relu": lambda dy, y: np.where(y > 0, dy, ZERO),
    "tanh": lambda dy, y: dy * fma(-y, y, ONE),
    "sigmoid": lambda dy, y: dy * (y * (ONE - y)),
    "leaky_relu": lambda dy, x, slope: np.where(x > 0, dy, slope * dy),
    "gelu": lambda dy, x: dy * gelu_slope(x),
    "silu": lambda dy, x: dy * silu_slope(x),
}
