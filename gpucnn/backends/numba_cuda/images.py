"""Images and labels into lanes and back, on the readable GPU backend."""

import math

import numpy as np

from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.numba_cuda.base import NumbaCudaBase
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import three
from gpucnn.kernels.numba_cuda import augmentation as augmentation_kernels
from gpucnn.kernels.numba_cuda import images as kernels
from gpucnn.kernels.numba_cuda.compiler import LANES


class NumbaCudaImages(NumbaCudaBase):
    """See the protocol and LaneBackend for what each method does."""

    def unpack(self, batch: Batch) -> np.ndarray:
        result = self._empty((batch.images, math.prod(batch.shape[1:])))
        self._run(kernels.unpack, result.size, self._data(batch).reshape(len(batch.data), -1, LANES), result)
        return self.host(result).reshape(batch.shape)

    def _load_shifted(self, images, indices, y: Batch, shift: int, offset, seed, step) -> None:
        moves, axes = self.zeros((y.images, 3), np.int64), images.ndim - 2
        if shift:
            self._run(kernels.draw_moves, y.images * axes, moves, shift, axes, offset, seed, step)
        self._run(kernels.load_images, y.data.size, _three_axes(images), indices, self._deep(y), moves)

    def _load_augmented(self, images, indices, y: Batch, augmentation: Augmentation, offset, seed, step) -> None:
        axes = images.ndim - 2
        sizes = three(images.shape[2:], 1), three(y.spatial, 1)
        if step is None:
            middle = [(size - kept) // 2 for size, kept in zip(*sizes, strict=True)]
            plan, cutout = self.array(np.tile(np.array([*middle, 0, 0, 0, 0], np.int64), (y.images, 1))), 0
        else:
            plan, cutout = self._empty((y.images, augmentation_kernels.DRAWS), np.int64), augmentation.cutout
            chosen = augmentation.shift, augmentation.crop is not None, augmentation.flip, cutout, axes
            self._run(augmentation_kernels.draw, plan.size, plan, *sizes, *chosen, offset, seed, step)
        arrays = _three_axes(images), indices, self._deep(y), plan
        constants = map(self.array, augmentation.constants(y.channels))
        self._run(augmentation_kernels.load_augmented, y.data.size, *arrays, cutout, *constants)

    def _load_labels(self, labels, indices, y: Array, count: int) -> None:
        self._run(kernels.load_labels, y.size, labels, indices, y, count)


def _three_axes(images: Array) -> Array:
    return images.reshape(*images.shape[:2], *three(images.shape[2:], 1))
