"""What to normalise with: mean and standard deviation of each channel of the training images (contract, rule 10)."""

import math

import numpy as np

from gpucnn.arithmetic import tree
from gpucnn.data.mapped import Mapped
from gpucnn.errors import DataError


def channel_statistics(images: np.ndarray | Mapped) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) of each channel of images (N, C, *spatial), float32 values as Python floats.

    In float64 and in one fixed order of additions, so that every machine finds the same. Raises DataError for a channel
    that is the same everywhere, or almost.
    """
    mapped = images if isinstance(images, Mapped) else Mapped(images)
    count = len(images) * math.prod(images.shape[2:])

    def total(term) -> np.ndarray:
        """(C,), the tree over positions, then over images: parts are powers of two, so theirs are whole branches."""
        sums = []
        for _, part in mapped.parts():
            x = term(part.reshape(*part.shape[:2], -1).astype(np.float64))  # (n, C, positions)
            sums.append(tree(tree(x, -1), 0))
        return tree(np.stack(sums), 0)

    mean = total(lambda x: x) / count
    variance = total(lambda x: (x - mean[:, None]) ** 2) / count
    deviation = np.sqrt(variance).astype(np.float32)
    with np.errstate(divide="ignore", over="ignore"):
        flat = np.flatnonzero(np.isinf(1 / deviation))  # which images are multiplied by
    if flat.size:
        raise DataError(
            f"channel {flat[0]} is the same in all training images, or almost, and cannot be normalized: its standard "
            f"deviation is {deviation[flat[0]]:g}"
        )
    return tuple(map(float, mean.astype(np.float32))), tuple(map(float, deviation))
