"""What the two NumPy backends share: memory, images and labels.

One image per block (`lanes` is 1), so a batch's data is (N, C, *spatial, 1) and blocks need no padding.
"""

from collections.abc import Callable

import numpy as np

from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.images import load_images
from gpucnn.backends.protocol import Array, Backend


class NumpyBase(Backend):
    """See the protocol for what each method does."""

    name = "numpy"
    device = "CPU"
    lanes = 1
    xp = np

    def __init__(self, *, threads: int = 1, dtype=np.float32):
        self.dtype = np.dtype(dtype)
        self.threads = threads

    def batch(self, values: np.ndarray) -> Batch:
        """(N, C, *spatial), contiguous or not, as a Batch."""
        return Batch(values[..., None], values.shape[0], self)

    def rectified(self, y: Batch, relu: bool) -> Batch:
        """y, or its ReLU if `relu`."""
        return self.elementwise("relu", y) if relu else y

    # ---- memory ------------------------------------------------------------------------------------------------------

    def zeros(self, shape: tuple[int, ...], dtype=None) -> Array:
        return np.zeros(shape, self.dtype if dtype is None else dtype)

    def array(self, host: np.ndarray) -> Array:
        return np.array(host)

    def assign(self, array: Array, host: np.ndarray) -> None:
        array[...] = host

    def host(self, array: Array) -> np.ndarray:
        return np.array(array)

    def pack(self, images: np.ndarray) -> Batch:
        return self.batch(np.array(self._packable(images), order="C"))

    def unpack(self, batch: Batch) -> np.ndarray:
        return np.array(batch.data[..., 0], order="C")

    def pack_labels(self, labels: np.ndarray) -> Array:
        return np.array(labels, np.int32)[:, None]

    def load_images(
        self,
        images: Array,
        indices: Array,
        count: int,
        augmentation: Augmentation = NO_AUGMENTATION,
        *,
        seed: int = 0,
        step: Array | None = None,
    ) -> Batch:
        return self.batch(load_images(images, indices[:count], augmentation, seed, step))

    def load_labels(self, labels: Array, indices: Array, count: int) -> Array:
        return labels[indices[:count]].astype(np.int32)[:, None]

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        step()
        return step

    def synchronize(self) -> None:
        pass

    def watch(self, status: Array, step: Array, loss: Array, w: Array) -> None:
        if status[0] == -1 and not (np.isfinite(loss).all() and np.isfinite(w).all()):
            status[0] = step[0]

    def clip_value(self, g: Array, limit: float) -> None:
        limit = self.dtype.type(limit)
        g[...] = np.where(g < -limit, -limit, np.where(g > limit, limit, g))
