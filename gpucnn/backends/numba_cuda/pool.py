"""Pooling on the readable GPU backend."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba_cuda.base import NumbaCudaBase
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import positions_per_band, window3d
from gpucnn.geometry import Window, pool_counts
from gpucnn.kernels.numba_cuda import norm, pool
from gpucnn.kernels.numba_cuda.compiler import LANES


class NumbaCudaPool(NumbaCudaBase):
    """See the protocol for what each method does."""

    def max_pool(self, x: Batch, window: Window) -> tuple[Batch, Array]:
        y = self._maps(x, x.channels, window.output)
        where = self._empty(self._deep(y).shape, np.int32)
        self._run(pool.max_pool, y.data.size, self._deep(x), self._deep(y), where, *_geometry(window))
        return y, where

    def max_pool_gradient(self, dy: Batch, where: Array, window: Window) -> Batch:
        dx = self._maps(dy, dy.channels, window.input)
        self._run(pool.max_pool_gradient, dx.data.size, self._deep(dy), where, self._deep(dx), *_geometry(window))
        return dx

    def avg_pool(self, x: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        y = self._maps(x, x.channels, window.output)
        counts = self._counts(window, count_include_pad)
        self._run(pool.avg_pool, y.data.size, self._deep(x), self._deep(y), counts, *_geometry(window))
        return y

    def avg_pool_gradient(self, dy: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        dx = self._maps(dy, dy.channels, window.input)
        counts = self._counts(window, count_include_pad)
        self._run(pool.avg_pool_gradient, dx.data.size, self._deep(dy), self._deep(dx), counts, *_geometry(window))
        return dx

    def _counts(self, window: Window, count_include_pad: bool) -> Array:
        counts = pool_counts(window, count_include_pad)
        return self.array(counts.reshape(window3d(window).output).astype(np.float32))

    def global_avg_pool(self, x: Batch) -> Batch:
        y = self._maps(x, x.channels, ())
        positions, band = math.prod(x.spatial), positions_per_band(x.spatial)
        part = self._empty((-(-positions // band), y.data.size), np.float64)
        self._run(norm.map_sums, part.size, self._data(x).reshape(-1, positions, LANES), part, band)
        self._run(norm.global_avg_pool, y.data.size, part, self._flat(y), np.float64(positions))
        return y

    def global_avg_pool_gradient(self, dy: Batch, spatial: tuple[int, ...]) -> Batch:
        dx, positions = self._maps(dy, dy.channels, spatial), math.prod(spatial)
        maps = self._data(dy).reshape(-1, LANES), dx.data.reshape(-1, positions, LANES)
        self._run(norm.global_avg_pool_gradient, dx.data.size, *maps, np.float32(positions))
        return dx


def _geometry(window: Window) -> tuple:
    sizes = window3d(window)
    return sizes.kernel, sizes.stride, sizes.dilation, sizes.before
