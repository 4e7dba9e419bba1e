"""What batch norm and group norm share, in exact and fast math."""

import numpy as np

from gpucnn.backends.batch import Batch


def per_channel(values: np.ndarray | None, x: Batch, default: int = 0) -> np.ndarray:
    """(C,) so that it broadcasts along x.data (N, C, *spatial, 1); `default` if it is None."""
    if values is None:
        return x.data.dtype.type(default)
    return values.reshape(-1, *(1,) * (x.data.ndim - 2))


def per_group(values: Batch, x: Batch) -> np.ndarray:
    """(N, groups) so that it broadcasts along x.data (N, C, *spatial, 1)."""
    channels = np.repeat(values.data, x.channels // values.channels, axis=1)  # (N, C, 1)
    return channels.reshape(*channels.shape[:2], *(1,) * (x.data.ndim - 2))


def lines(data: np.ndarray, groups: int) -> np.ndarray:
    """(N, C, *spatial, 1) as (N, groups, values of a group)."""
    return data.reshape(len(data), groups, -1)


def inverse_deviation(var: np.ndarray, eps: float) -> np.ndarray:
    """1 / sqrt(var + eps), each step rounded to var's type."""
    one = var.dtype.type(1)
    return one / np.sqrt(var + var.dtype.type(eps))


def normalized(x: Batch, mean: np.ndarray, var: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """(xhat, inv): (x - mean) * inv with inv = 1 / sqrt(var + eps); mean and var broadcast along x.data."""
    inv = inverse_deviation(var, eps)
    return (x.data - mean) * inv, inv
