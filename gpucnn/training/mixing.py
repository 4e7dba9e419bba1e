"""Augmentation of whole batches: mix-up and random erasing (kernels/CONTRACT.md, rule 10).

The few numbers that change from step to step are drawn on the host and written to device arrays, which a recorded step
reads.
"""

import math
from typing import Any

import numpy as np

from gpucnn import arithmetic
from gpucnn.arguments import number
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Backend
from gpucnn.errors import ConfigurationError
from gpucnn.recordable import Recordable

# Of the rectangle that random erasing blanks: its area as a part of the image's, and its height by its width.
_AREA, _ASPECT = (0.02, 0.33), (0.3, 1 / 0.3)


class MixUp(Recordable):
    """Each image becomes share * itself + (1 - share) * another of the batch, and so does its loss.

    Zhang, Cisse, Dauphin and Lopez-Paz 2018. `share` is drawn for each step from Beta(alpha, alpha) and is the larger
    of the two parts. The loss and accuracy that training reports are those of the image with the larger share.
    """

    recordable = True

    def __init__(self, alpha: float):
        self.alpha = number("mixup", alpha, above=0, most=1)

    def place(self, backend: Backend, channels: int, batch_size: int) -> None:
        """Allocate for images and outputs of at most so many channels."""
        self._shares = backend.zeros((channels,)), backend.zeros((channels,))
        self._zeros, self._ones = backend.zeros((channels,)), backend.array(np.ones(channels, backend.dtype))
        self.partners = backend.zeros((batch_size,), np.int64)

    def draw(self, backend: Backend, seed: int, step: int, indices: np.ndarray, batch_size: int) -> None:
        """The partners and the share of step `step`, for a batch of the images at `indices`."""
        order = np.argsort(_draws(seed, len(indices), step), kind="stable")
        padded = np.zeros(batch_size, np.int64)
        padded[: len(indices)] = indices[order]
        backend.assign(self.partners, padded)
        share = draw_share(self.alpha, seed, step)
        for array, part in zip(self._shares, (share, 1 - share), strict=True):
            backend.assign(array, np.full(array.shape, part, backend.dtype))

    def __call__(self, first: Batch, second: Batch) -> Batch:
        """share * first + (1 - share) * second."""
        backend, zeros, ones = first.backend, self._zeros[: first.channels], self._ones[: first.channels]
        # Batch norm of mean 0 and variance 1 is fma(share, x, +0).
        parts = (
            backend.batch_norm(x, zeros, ones, share[: first.channels], zeros, 0.0)
            for x, share in zip((first, second), self._shares, strict=True)
        )
        return backend.add(*parts)


class Erasing(Recordable):
    """In each image, with probability `rate`, a rectangle of random place, size and shape becomes 0.

    Zhong et al. 2020, with the logarithm of the aspect uniform. Its area is 2 to 33% of the image, its height 0.3 to
    3.3 times its width, before both sides are rounded and cut off at the image's: of an image much wider than high it
    is smaller. With `normalize` 0 is each channel's mean.
    """

    recordable = True

    def __init__(self, rate: float):
        self.rate = number("erase", rate, above=0, most=1)

    def place(self, backend: Backend, batch_size: int, spatial: tuple[int, ...]) -> None:
        """Allocate for images of this size."""
        if len(spatial) != 2:
            raise ConfigurationError(f"erase needs images (C, H, W); these have {len(spatial)} spatial axes")
        self._spatial = spatial
        self._mask = backend.zeros((batch_size, 1, *spatial))
        self._all = backend.array(np.arange(batch_size, dtype=np.int64))

    def draw(self, backend: Backend, seed: int, step: int, count: int, batch_size: int) -> None:
        """The rectangles of step `step`, for `count` images."""
        mask = np.ones((batch_size, 1, *self._spatial), backend.dtype)
        for image, box in enumerate(draw_boxes(self.rate, seed, step, count, self._spatial)):
            if box is not None:
                top, left, height, width = box
                mask[image, 0, top : top + height, left : left + width] = 0
        backend.assign(self._mask, mask)

    def __call__(self, x: Batch, first: int = 0) -> Batch:
        """x with 0 in the rectangles; its images are those of the batch from number `first` on."""
        backend = x.backend
        mask = backend.load_images(self._mask, self._all[first:], x.images)
        if x.channels > 1:
            mask = backend.concatenate([mask] * x.channels)
        return backend.elementwise_gradient("relu", x, mask)  # mask > 0 ? x : +0


def draw_share(alpha: float, seed: int, step: int) -> np.float32:
    """The larger part of a draw from Beta(alpha, alpha), by Johnk's method: of uniform u and v with
    u**(1 / alpha) + v**(1 / alpha) <= 1, the share is the first of these by their sum.
    """
    for attempt in range(1000):  # each succeeds with a probability of at least 1/2
        index = np.arange(2 * attempt, 2 * attempt + 2, dtype=np.uint64)
        words = arithmetic.words(seed, index, step, arithmetic.MIX, 1).astype(np.float64)
        u, v = arithmetic.log64((words + 1) * 2.0**-32) / alpha
        if arithmetic.exp64(np.array([u, v])).sum() <= 1:
            share = 1 / (1 + float(arithmetic.exp64(np.array([v - u]))[0]))
            return np.float32(max(share, 1 - share))
    raise AssertionError("no draw from the beta distribution in 1000 attempts")


def draw_boxes(
    rate: float, seed: int, step: int, count: int, spatial: tuple[int, ...]
) -> list[tuple[int, int, int, int] | None]:
    """(top, left, height, width) of each image's rectangle, None where nothing is erased."""
    words = arithmetic.words(seed, np.arange(count * 5, dtype=np.uint64), step, arithmetic.ERASE)
    u = ((words >> np.uint32(8)).astype(np.float64) * 2.0**-24).reshape(count, 5)
    low, high = (float(arithmetic.log64(np.array([a]))[0]) for a in _ASPECT)
    aspects = arithmetic.exp64(low + u[:, 2] * (high - low))
    boxes: list[tuple[int, int, int, int] | None] = []
    for (first, part, _, y, x), aspect in zip(u, aspects, strict=True):
        area = (_AREA[0] + part * (_AREA[1] - _AREA[0])) * math.prod(spatial)
        sides = math.sqrt(area * aspect), math.sqrt(area / aspect)
        height, width = (min(max(int(side + 0.5), 1), size) for side, size in zip(sides, spatial, strict=True))
        place = int(y * (spatial[0] - height + 1)), int(x * (spatial[1] - width + 1))
        boxes.append((*place, height, width) if first < rate else None)
    return boxes


def _draws(seed: int, count: int, step: int) -> np.ndarray:
    return arithmetic.draws64(seed, np.arange(count, dtype=np.uint64), step, arithmetic.MIX)


def make(mixup: float, erase: float) -> tuple[Any, Any]:
    """(MixUp or None, Erasing or None) of the Trainer's settings, in which 0 is none."""
    return MixUp(mixup) if mixup else None, Erasing(erase) if erase else None
