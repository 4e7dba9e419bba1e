"""Images and labels into lanes and back, on the CPU backend."""

import math

import numpy as np

from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.numba.base import NumbaBase
from gpucnn.backends.numba.layout import deep
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import three
from gpucnn.kernels.numba import augmentation as augmentation_kernels
from gpucnn.kernels.numba import images as kernels
from gpucnn.kernels.numba.simd import LANES


class NumbaImages(NumbaBase):
    """See the protocol and LaneBackend for what each method does."""

    def _source(self, images: Array) -> Array:
        return np.ascontiguousarray(images)

    def unpack(self, batch: Batch) -> np.ndarray:
        if batch.images == 1:  # which takes less time than the call of a kernel
            return np.array(batch.data[..., 0], np.float32, order="C")
        result = np.empty((batch.images, batch.channels, math.prod(batch.spatial)), np.float32)
        data = self._data(batch)
        self._run(kernels.unpack, data.reshape(*data.shape[:2], -1, LANES), result)
        return result.reshape(batch.shape)

    def _load(self, images, indices, y: Batch, normalization: tuple[np.ndarray, np.ndarray]) -> None:
        """Load images that stay where they are; normalization, of each value, may be empty."""
        blocks, values = len(y.data), math.prod(images.shape[1:])
        source, target = np.ascontiguousarray(images).reshape(-1, values), y.data.reshape(blocks, values, LANES)
        rows = self._empty((self.threads, LANES, kernels.CHUNK))
        self._run(kernels.load_images, source, indices, target, y.images, *normalization, rows)

    def _load_shifted(self, images, indices, y: Batch, shift: int, offset, seed, step) -> None:
        if shift == 0:
            self._load(images, indices, y, (np.zeros(0, np.float32),) * 2)
            return
        source, axes = _three_axes(images), images.ndim - 2
        moves = self.zeros((len(y.data) * LANES, 3), np.int64)
        rows = self._empty((self.threads, LANES, -(-source.shape[-1] // LANES) * LANES))
        drawn = y.images, shift, axes, offset, seed, _step(step)
        self._run(kernels.load_shifted, source, indices, deep(y.data), *drawn, moves, rows)

    def _load_augmented(self, images, indices, y: Batch, augmentation: Augmentation, offset, seed, step) -> None:
        if y.shape[1:] == images.shape[1:] and (step is None or augmentation.only_normalizes):
            positions = math.prod(images.shape[2:])
            mean, scale = (np.repeat(numbers, positions) for numbers in augmentation.constants(y.channels))
            self._load(images, indices, y, (mean, scale))
            return
        plan = self._empty((len(y.data) * LANES, 10), np.int64)
        rows = self._empty((self.threads, LANES, -(-y.data.shape[-2] // LANES) * LANES))
        chosen = augmentation.shift, augmentation.crop is not None, augmentation.flip, augmentation.cutout
        drawn = images.ndim - 2, step is not None, offset, seed, _step(step), *augmentation.constants(y.channels)
        arrays = _three_axes(images), indices, deep(y.data), y.images
        self._run(augmentation_kernels.load_augmented, *arrays, *chosen, *drawn, plan, rows)

    def _load_labels(self, labels, indices, y: Array, count: int) -> None:
        self._run(kernels.load_labels, labels, indices, y, count)


def _three_axes(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images).reshape(*images.shape[:2], *three(images.shape[2:], 1))


def _step(step: np.ndarray | None) -> np.ndarray:
    return np.zeros(1, np.uint32) if step is None else step
