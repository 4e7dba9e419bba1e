"""Sums over a batch in the order that every backend follows: kernels/CONTRACT.md, rules 3 and 4.

Arrays hold no padding images, so nothing has to be masked: a missing image is +0, and carrying an odd tail up the tree
equals adding +0.
"""

import math

import numpy as np

BLOCK = 16  # images per block in the contract, whatever a backend's number of lanes
BAND = 64  # minimum positions per band, except the last one


def tree(x: np.ndarray, axis: int) -> np.ndarray:
    """The sum along `axis` by adjacent pairs, then pairs of pairs, an odd tail carried up. The type is kept.

    tree([a, b, c, d, e]) = ((a + b) + (c + d)) + e
    """
    x = np.moveaxis(x, axis, 0)
    while len(x) > 1:
        pairs = x[:-1:2] + x[1::2]
        x = np.concatenate([pairs, x[-1:]]) if len(x) % 2 else pairs
    return x[0]


def bands(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """[(start, stop), ...] of the bands over the flattened positions of an image of these spatial sizes (rule 3a).

    A band is ceil(64 / row length) whole rows, a row being the last axis and rows running over all axes before it; in
    one dimension it is 64 positions; without spatial axes there is one position, hence one band.
    """
    count = math.prod(sizes)
    length = BAND if len(sizes) == 1 else 1 if not sizes else -(-BAND // sizes[-1]) * sizes[-1]
    return [(start, min(start + length, count)) for start in range(0, count, length)]


def in_bands(x: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """(..., *sizes) as (position in the band, ..., band): the order of level (a). A short band ends in +0."""
    lead = x.shape[: x.ndim - len(sizes)]
    cuts = bands(sizes)
    length = cuts[0][1]
    filled = np.zeros((*lead, len(cuts) * length), x.dtype)
    filled[..., : cuts[-1][1]] = x.reshape(*lead, -1)
    return np.ascontiguousarray(np.moveaxis(filled.reshape(*lead, len(cuts), length), -1, 0))


def over_batch(partial: np.ndarray) -> np.ndarray:
    """Levels (b), (c), (d): partial (N, ..., band) to (...), trees over a block's images, the bands, the blocks."""
    blocks = [tree(tree(partial[start : start + BLOCK], 0), -1) for start in range(0, len(partial), BLOCK)]
    return tree(np.stack(blocks), 0)


def over_bands64(x: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Level (a) in float64: x (..., *sizes) to (..., band), sequential from +0 within a band."""
    steps = in_bands(x.astype(np.float64, copy=False), sizes)
    total = np.zeros(steps.shape[1:])
    for values in steps:
        total += values
    return total


def total64(x: np.ndarray) -> np.ndarray:
    """Rule 4: the float64 sum of x (N, C, *positions) over images and positions, (C,), not yet rounded to float32."""
    return over_batch(over_bands64(x, x.shape[2:]))


def image_sums64(x: np.ndarray) -> np.ndarray:
    """The float64 sums of x (N, C, *positions) within each image, (N, C): level (a), then the tree over the bands."""
    return tree(over_bands64(x, x.shape[2:]), -1)


def rounded(value64) -> np.ndarray:
    """A float64 statistic as float32: rounded once, and -0 turned into +0."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(value64, np.float64).astype(np.float32) + np.float32(0)
