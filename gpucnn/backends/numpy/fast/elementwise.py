"""Elementwise operations, for float32 and float64."""

import math
from collections.abc import Callable

import numpy as np

from gpucnn.arithmetic.elementary import normal_cdf64


def sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))  # at most 1: no overflow on either side
    return np.where(x >= 0, x.dtype.type(1), small) / (1 + small)


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """Phi(x) by the contract's polynomials: NumPy has no erf."""
    return normal_cdf64(x)[1].astype(x.dtype)


def normal_density(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * np.square(np.clip(x, -16, 16))) * (1 / math.sqrt(2 * math.pi))


def silu_slope(x: np.ndarray) -> np.ndarray:
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


VALUES: dict[str, Callable[..., np.ndarray]] = {
    "relu": lambda x: np.where(x > 0, x, 0),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x + 0),
    "gelu": lambda x: x * normal_cdf(x),
    "silu": lambda x: x * sigmoid(x),
}

GRADIENTS: dict[str, Callable[..., np.ndarray]] = {
    "relu": lambda dy, y: np.where(y > 0, dy, 0),
    "tanh": lambda dy, y: dy * (1 - y * y),
    "sigmoid": lambda dy, y: dy * (y * (1 - y)),
    "leaky_relu": lambda dy, x, slope: np.where(x > 0, dy, slope * dy),
    "gelu": lambda dy, x: dy * (normal_cdf(x) + x * normal_density(x)),
    "silu": lambda dy, x: dy * silu_slope(x),
}
