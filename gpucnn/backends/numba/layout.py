"""Views of batches as the CPU kernels take them, and the pooling that they can fuse."""

import numpy as np

from gpucnn.geometry import Window


def deep(data: np.ndarray) -> np.ndarray:
    """(block, C, *spatial, lane) as a view (block, C, D, H, W, lane)."""
    return data[(slice(None), slice(None), *(None,) * (6 - data.ndim))]


def rows(data: np.ndarray) -> np.ndarray:
    """Like deep, but with one dimension as the axis H, so that a band of rows is a band of 64 positions."""
    return data[:, :, None, :, None] if data.ndim == 4 else deep(data)


def flat(data: np.ndarray) -> np.ndarray:
    """(block, C, *spatial, lane) as (block, C, positions * lanes)."""
    return data.reshape(*data.shape[:2], -1)


def is_side_by_side(pool: Window) -> bool:
    """Whether the windows are two pixels wide at most along each axis, disjoint, without gaps and inside the image."""
    return (
        pool.kernel == pool.stride
        and max(pool.kernel) <= 2
        and all(d == 1 for d in pool.dilation)
        and all(pads == (0, 0) for pads in pool.padding)
        and all(k * p <= i for k, p, i in zip(pool.kernel, pool.output, pool.input, strict=True))
    )
