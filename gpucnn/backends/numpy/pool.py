"""Pooling: comparisons and plain sums, the same in both maths (rule 7)."""

import math
from collections.abc import Callable

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.numpy.windows import field_sizes, padded, taps, unpadded
from gpucnn.backends.protocol import Array
from gpucnn.geometry import Window, pool_counts


class NumpyPool(NumpyBase):
    """Part of NumpyBase; see the protocol for what each method does."""

    def max_pool(self, x: Batch, window: Window) -> tuple[Batch, Array]:
        """`where` is the row-major kernel position of each maximum, (N, C, *P) int32."""
        values = x.data[..., 0]
        field = padded(values, window)
        inside = padded(np.ones((1, 1, *window.input), bool), window)
        y = np.zeros((*values.shape[:2], *window.output), self.dtype)
        where = np.full(y.shape, -1, np.int32)
        for k, tap in enumerate(taps(window)):
            # The first tap inside the image is always taken (even NaN, -inf), so `where` points into the image.
            wins = inside[tap] & ((where < 0) | (field[tap] > y))
            np.copyto(y, field[tap], where=wins)
            where[wins] = k
        return self.batch(y), where

    def max_pool_gradient(self, dy: Batch, where: Array, window: Window) -> Batch:
        values = dy.data[..., 0]
        return self.batch(gather(window, values, lambda k: np.where(where == k, values, self.dtype.type(0))))

    def avg_pool(self, x: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        field = padded(x.data[..., 0], window)
        total = np.zeros((*field.shape[:2], *window.output), self.dtype)
        for tap in taps(window):
            total += field[tap]  # from +0, row-major; padding adds +0
        return self.batch(total / pool_counts(window, count_include_pad).astype(self.dtype))

    def avg_pool_gradient(self, dy: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        share = dy.data[..., 0] / pool_counts(window, count_include_pad).astype(self.dtype)
        return self.batch(gather(window, share, lambda k: share))

    def global_avg_pool_gradient(self, dy: Batch, spatial: tuple[int, ...]) -> Batch:
        share = dy.data[..., 0] / self.dtype.type(math.prod(spatial))  # (N, C)
        share = share.reshape(*share.shape, *(1,) * len(spatial))
        return self.batch(np.array(np.broadcast_to(share, (*share.shape[:2], *spatial))))


def gather(window: Window, dy: np.ndarray, contribution: Callable[[int], np.ndarray]) -> np.ndarray:
    """Each pixel adds, from +0 and the contributions of the outputs whose windows contain it, in their row-major order.

    dy (N, C, *P) to (N, C, *I); contribution(k), shaped like dy, goes to the pixel at kernel position k. The kernel
    runs backwards: of two outputs whose windows contain a pixel, the earlier has it at the later position.
    """
    field = np.zeros((*dy.shape[:2], *field_sizes(window)), dy.dtype)
    for k, tap in reversed(list(enumerate(taps(window)))):
        field[tap] += contribution(k)
    return unpadded(field, window)
