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


_AXES = {1: "(C, W)", 2: "(C, H, W)", 3: "(C, D, H, W)"}


def image_shape(shape: tuple[int, ...], axes: int | None = 2) -> tuple[int, tuple[int, ...]]:
    """(C, the spatial sizes) of a layer's input; raises ShapeError for other than `axes` spatial axes (None: 1 to
    3).
    """
    if len(shape) - 1 not in (_AXES if axes is None else [axes]):
        wanted = ", ".join(_AXES.values()) if axes is None else _AXES[axes]
        raise ShapeError(f"needs images of shape {wanted}, not {tuple(shape)}")
    return shape[0], tuple(shape[1:])


def truth(name: str, value) -> bool:
    """`value` if it is True or False; raises ConfigurationError otherwise."""
    if not isinstance(value, (bool, np.bool_)):
        raise ConfigurationError(f"{name} is {value!r}; give True or False")
    return bool(value)
