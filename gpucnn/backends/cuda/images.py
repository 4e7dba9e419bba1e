"""Images and labels into lanes and back, as launches of kernels/cuda/images.cu and augmentation.cu."""

import math

import numpy as np

from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import LANES, ceil_div, grid_of_blocks, i32, i64
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import three


class CudaImages(CudaBase):
    """See the protocol and LaneBackend for what each method does."""

    def unpack(self, batch: Batch) -> np.ndarray:
        return self.host(self.rows(batch))

    def rows(self, batch: Batch) -> Array:
        data = self._data(batch)
        values = math.prod(data.shape[1:-1])
        images = self._empty(batch.shape)
        sizes = i32(batch.images), i32(values)
        grid = grid_of_blocks(ceil_div(values, LANES), len(data))
        self._run("images.cu", "unpack", grid, (LANES, 8), data, images, *sizes)
        return images

    def load_batch(self, images, labels, indices, count: int, augmentation=NO_AUGMENTATION, *, seed=0, step=None):
        y = self._empty((self._blocks(count), self.lanes), np.int32)
        self._at_hand.labels = labels, y
        try:
            return self.load_images(images, indices, count, augmentation, seed=seed, step=step), y
        finally:
            self._at_hand.labels = None, None

    def _load_shifted(self, images, indices, y: Batch, shift: int, offset, seed, step) -> None:
        drawn = i32(y.images), i32(shift), i32(len(y.spatial) if shift else 0), i64(offset), seed, step
        arguments = images, indices, y.data, *self._at_hand.labels, *drawn, i32(y.channels), *_three(y.spatial)
        self._load("images.cu", "load_images", y, *arguments)

    def _load_augmented(self, images, indices, y: Batch, augmentation: Augmentation, offset, seed, step) -> None:
        mean = self._constant(("mean", augmentation, y.channels), lambda: augmentation.constants(y.channels)[0])
        scale = self._constant(("scale", augmentation, y.channels), lambda: augmentation.constants(y.channels)[1])
        chosen = augmentation.shift, augmentation.crop is not None, augmentation.flip, augmentation.cutout
        drawn = *map(i32, (y.images, *chosen, len(y.spatial))), i64(offset), seed, step
        sizes = i32(y.channels), *_three(y.spatial), *_three(images.shape[2:])
        arguments = images, indices, y.data, *self._at_hand.labels, *drawn, mean, scale, *sizes
        self._load("augmentation.cu", "load_augmented", y, *arguments)

    def _load(self, file: str, kernel: str, y: Batch, *arguments) -> None:
        grid = grid_of_blocks(ceil_div(y.channels * math.prod(y.spatial), LANES), len(y.data))
        self._run(file, kernel, grid, (LANES, 8), *arguments)

    def _load_labels(self, labels, indices, y: Array, count: int) -> None:
        arguments = labels, indices, y, i32(count), i32(y.size)
        self._run("images.cu", "load_labels", (ceil_div(y.size, 256),), (256,), *arguments, overlap=(y,))


def _three(sizes) -> tuple[np.int32, ...]:
    return tuple(map(i32, three(sizes, 1)))
