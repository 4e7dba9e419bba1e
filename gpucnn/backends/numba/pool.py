"""Pooling on the CPU backend."""

import functools
import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba.base import NumbaBase
from gpucnn.backends.numba.layout import deep, flat, is_side_by_side
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import positions_per_band, window3d
from gpucnn.errors import ShapeError
from gpucnn.geometry import Window, pool_counts
from gpucnn.kernels.numba import norm, pool, sums
from gpucnn.kernels.numba.simd import LANES

# The number of a tap is a float32.
_MOST_TAPS = 2**24


class NumbaPool(NumbaBase):
    """See the protocol for what each method does."""

    def max_pool(self, x: Batch, window: Window) -> tuple[Batch, Array]:
        y = self._maps(x, x.channels, window.output)
        where = self._empty(y.data.shape)
        arguments = deep(self._data(x)), deep(y.data), deep(where)
        if is_side_by_side(window) and self._try((pool.max_pool_side_by_side_of(*window3d(window).kernel), *arguments)):
            return y, where
        self._run(pool.max_pool, *arguments, *_geometry(window))
        return y, where

    def max_pool_gradient(self, dy: Batch, where: Array, window: Window) -> Batch:
        if math.prod(window.kernel) > _MOST_TAPS:
            raise ShapeError(
                f"the gradient of max pooling tells up to {_MOST_TAPS:,} pixels of a window apart on this backend, and "
                f"windows of {window.kernel} have {math.prod(window.kernel):,}; pool in two steps, or use numpy"
            )
        dx = self._maps(dy, dy.channels, window.input)
        arguments = deep(self._data(dy)), deep(where), deep(dx.data)
        if is_side_by_side(window) and self._try(
            (pool.max_pool_gradient_side_by_side_of(*window3d(window).kernel), *arguments)
        ):
            return dx
        apart = all(s >= d * (k - 1) + 1 for s, d, k in zip(window.stride, window.dilation, window.kernel, strict=True))
        if apart:
            self._run(pool.max_pool_gradient_apart, *arguments, *_geometry(window))
        else:
            self._run(pool.max_pool_gradient, *arguments, window3d(window).kernel, *_holders(window))
        return dx

    def avg_pool(self, x: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        y = self._maps(x, x.channels, window.output)
        counts = _counts(window, count_include_pad)
        self._run(pool.avg_pool, deep(self._data(x)), deep(y.data), counts, *_geometry(window))
        return y

    def avg_pool_gradient(self, dy: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        dx = self._maps(dy, dy.channels, window.input)
        counts = _counts(window, count_include_pad)
        self._run(pool.avg_pool_gradient, deep(self._data(dy)), deep(dx.data), counts, *_holders(window))
        return dx

    def global_avg_pool(self, x: Batch) -> Batch:
        y, band = self._maps(x, x.channels, ()), positions_per_band(x.spatial)
        bands = -(-math.prod(x.spatial) // band)
        slots = self._empty((*x.data.shape[:2], sums.levels(bands), LANES), np.float64)
        self._run(norm.global_avg_pool, flat(self._data(x)), y.data, band, slots)
        return y

    def global_avg_pool_gradient(self, dy: Batch, spatial: tuple[int, ...]) -> Batch:
        dx = self._maps(dy, dy.channels, spatial)
        self._run(norm.global_avg_pool_gradient, self._data(dy), flat(dx.data), np.float32(math.prod(spatial)))
        return dx


def _geometry(window: Window) -> tuple:
    c = window3d(window)
    return c.kernel, c.stride, c.dilation, c.before


@functools.cache
def _holders(window: Window) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Which outputs hold a pixel, axis by axis, as the kernel max_pool_gradient takes them."""
    found, of = [], window3d(window)
    for size, outputs, taps, stride, dilation, before in zip(
        of.input, of.output, of.kernel, of.stride, of.dilation, of.before, strict=True
    ):
        seen = np.add.outer(np.arange(outputs) * stride - before, np.arange(taps) * dilation)
        inside = np.argwhere((seen >= 0) & (seen < size))
        pixels = seen[tuple(inside.T)]
        order = np.argsort(pixels, kind="stable")
        starts = np.searchsorted(pixels[order], np.arange(size + 1))
        found.append((starts.astype(np.int64), inside[order].astype(np.int64)))
    return tuple(found)


@functools.lru_cache(32)  # a number for each pixel
def _counts(window: Window, count_include_pad: bool) -> np.ndarray:
    counts = pool_counts(window, count_include_pad)
    return counts.reshape(window3d(window).output).astype(np.float32)
