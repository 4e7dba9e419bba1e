"""What the two NumPy backends share: memory, and the operations that multiply and add nothing that rounds differently.

One image a block (`lanes` is 1), so a batch's data is (N, C, *spatial, 1) and no image only fills up a block.
"""

import math
from collections.abc import Callable

import numpy as np

from gpucnn.arithmetic import DROPOUT, uniform, words
from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.channels import NumpyChannels
from gpucnn.backends.numpy.images import load_images
from gpucnn.backends.numpy.resampling import NumpyResampling
from gpucnn.backends.protocol import Array, Backend
from gpucnn.errors import DTypeError
from gpucnn.geometry import Window, pool_counts


def place(x: np.ndarray, offsets: tuple[int, ...], sizes: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    """x (N, C, *I) in a field of zeros (N, C, *sizes): field[offset + i * step] = x[i]; what falls outside is cut off.

    Zero padding, cropping, and the zeros between the gradients of a stride are all this.
    """
    field = np.zeros((*x.shape[:2], *sizes), x.dtype)
    source, target = [slice(None)] * 2, [slice(None)] * 2
    for size, offset, room, step in zip(x.shape[2:], offsets, sizes, steps, strict=True):
        first = max(0, -(offset // step))  # the smallest i with offset + i * step >= 0
        stop = max(first, min(size, -((offset - room) // step)))  # the smallest i with offset + i * step >= room
        source.append(slice(first, stop))
        target.append(slice(offset + first * step, offset + stop * step, step))
    field[tuple(target)] = x[tuple(source)]
    return field


def field_sizes(window: Window) -> tuple[int, ...]:
    """*F: how many pixels of an axis the windows see, padding included and what no window reaches left out."""
    return tuple(
        (p - 1) * s + (k - 1) * d + 1
        for p, s, k, d in zip(window.output, window.stride, window.kernel, window.dilation, strict=True)
    )


def padded(x: np.ndarray, window: Window) -> np.ndarray:
    """x (N, C, *I) with zeros where the windows reach outside it: (N, C, *F), see field_sizes."""
    return place(x, tuple(before for before, _ in window.padding), field_sizes(window), (1,) * len(window.input))


def unpadded(field: np.ndarray, window: Window) -> np.ndarray:
    """The images' pixels (N, C, *I) of a field (N, C, *F); +0 for pixels that no window reaches."""
    return place(field, tuple(-before for before, _ in window.padding), window.input, (1,) * len(window.input))


def taps(window: Window) -> list[tuple[slice, ...]]:
    """For each kernel position, row-major, the slices of a field (N, C, *F) that the outputs (N, C, *P) see there."""
    return [
        (
            slice(None),
            slice(None),
            *(
                slice(r * d, r * d + (p - 1) * s + 1, s)
                for r, d, p, s in zip(position, window.dilation, window.output, window.stride, strict=True)
            ),
        )
        for position in np.ndindex(window.kernel)
    ]


class NumpyBase(NumpyChannels, NumpyResampling, Backend):
    """See the protocol for what each method does; comments here tell only how."""

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
        if images.dtype != self.dtype:
            raise DTypeError(
                f"images are {images.dtype}, but numpy's {self.math} math here computes in {self.dtype}: "
                f"convert them with images.astype('{self.dtype}')"
            )
        return self.batch(np.array(images, order="C"))

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

    # ---- elementwise -------------------------------------------------------------------------------------------------

    def elementwise(self, name: str, x: Batch, *settings: float) -> Batch:
        return getattr(self, name)(x, *settings)

    def elementwise_gradient(self, name: str, dy: Batch, saved: Batch, *settings: float) -> Batch:
        return getattr(self, f"{name}_gradient")(dy, saved, *settings)

    def relu(self, x: Batch) -> Batch:
        return x.like(np.where(x.data > 0, x.data, self.dtype.type(0)))

    def relu_gradient(self, dy: Batch, y: Batch) -> Batch:
        return dy.like(np.where(y.data > 0, dy.data, self.dtype.type(0)))

    def add(self, a: Batch, b: Batch, relu: bool = False) -> Batch:
        total = a.like(a.data + b.data)
        return self.relu(total) if relu else total

    def dropout(self, x: Batch, rate: float, seed: int, step: Array, layer: int) -> Batch:
        index = np.arange(x.data.size, dtype=np.uint64).reshape(x.data.shape)  # one lane: data lies in logical order
        u = uniform(words(seed, index, int(step[0]), DROPOUT, layer))
        scale = self.dtype.type(1.0 / (1.0 - rate))
        return x.like(np.where(u < np.float32(rate), self.dtype.type(0), x.data * scale))

    # ---- pooling: comparisons and plain sums, the same in both maths -------------------------------------------------

    def max_pool(self, x: Batch, window: Window) -> tuple[Batch, Array]:
        """`where` is the row-major kernel position of each maximum, (N, C, *P) int32."""
        values = x.data[..., 0]
        field = padded(values, window)
        inside = padded(np.ones((1, 1, *window.input), bool), window)
        y = np.zeros((*values.shape[:2], *window.output), self.dtype)
        where = np.full(y.shape, -1, np.int32)
        for k, tap in enumerate(taps(window)):
            # The first tap inside the image is taken whatever it is (NaN, -inf), so `where` points into the image.
            wins = inside[tap] & ((where < 0) | (field[tap] > y))
            np.copyto(y, field[tap], where=wins)
            where[wins] = k
        return self.batch(y), where

    def max_pool_gradient(self, dy: Batch, where: Array, window: Window) -> Batch:
        values = dy.data[..., 0]
        return self._gather(window, values, lambda k: np.where(where == k, values, self.dtype.type(0)))

    def avg_pool(self, x: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        field = padded(x.data[..., 0], window)
        total = np.zeros((*field.shape[:2], *window.output), self.dtype)
        for tap in taps(window):
            total += field[tap]  # from +0, row-major; padding adds +0
        return self.batch(total / pool_counts(window, count_include_pad).astype(self.dtype))

    def avg_pool_gradient(self, dy: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        share = dy.data[..., 0] / pool_counts(window, count_include_pad).astype(self.dtype)
        return self._gather(window, share, lambda k: share)

    def _gather(self, window: Window, dy: np.ndarray, contribution: Callable[[int], np.ndarray]) -> Batch:
        """Each pixel adds, from +0 and in row-major order of the outputs that hold it, what they contribute to it.

        The kernel runs backwards: of two outputs that hold a pixel, the earlier one holds it at the later position.
        """
        field = np.zeros((*dy.shape[:2], *field_sizes(window)), self.dtype)
        for k, tap in reversed(list(enumerate(taps(window)))):
            field[tap] += contribution(k)
        return self.batch(unpadded(field, window))

    def global_avg_pool_gradient(self, dy: Batch, spatial: tuple[int, ...]) -> Batch:
        share = dy.data[..., 0] / self.dtype.type(math.prod(spatial))  # (N, C)
        share = share.reshape(*share.shape, *(1,) * len(spatial))
        return self.batch(np.array(np.broadcast_to(share, (*share.shape[:2], *spatial))))
