"""Checks of what a layer is given when it is made."""

import math
import operator

import numpy as np

from gpucnn.errors import ConfigurationError, ShapeError


def positive(name: str, value) -> int:
    """`value` as a Python int if it is an integer of 1 or more; raises ConfigurationError otherwise."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ConfigurationError(f"{name} is {value!r}; give a positive integer")
    return number


def finite(name: str, value) -> float:
    """`value` as a float if it is a finite number; raises ConfigurationError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not math.isfinite(value):
        raise ConfigurationError(f"{name} is {value!r}; give a finite number")
    return float(value)


def image_shape(shape: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    """(C, (H, W)) of a 2-D layer's input; raises ShapeError for another rank."""
    if len(shape) != 3:
        raise ShapeError(f"needs images of shape (C, H, W), not {tuple(shape)}")
    return shape[0], tuple(shape[1:])
