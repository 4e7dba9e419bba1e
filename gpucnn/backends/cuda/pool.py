"""Pooling as launches of kernels/cuda/pool.cu, and of norm.cu for the means of whole maps."""

import functools
import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.layout import LANES, axes, ceil_div, i32, i64
from gpucnn.backends.cuda.norm import CudaNorm
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import positions_per_band, window3d
from gpucnn.geometry import Window, pool_counts


class CudaPool(CudaNorm):
    """See the protocol for what each method does."""

    def _pool(self, kernel: str, window: Window, results: Batch, *arguments, more: str = "") -> None:
        """A kernel of pool.cu, one warp for each pixel of `results`."""
        sizes = window3d(window)
        geometry = sizes.input, sizes.output, sizes.kernel, sizes.stride, sizes.dilation, sizes.before
        expression = f"{kernel}<Window<{', '.join(map(axes, geometry))}>{more}>"
        pixels = results.data.size // LANES
        self._run("pool.cu", expression, (ceil_div(pixels, 8),), (LANES, 8), *arguments, i64(pixels))

    def max_pool(self, x: Batch, window: Window) -> tuple[Batch, Array]:
        kind, name = tap_type(window)
        y = self._maps(x, x.channels, window.output)
        where = self._empty(y.data.shape, kind)
        self._pool("max_pool", window, y, self._data(x), y.data, where, more=f", {name}")
        return y, where

    def max_pool_gradient(self, dy: Batch, where: Array, window: Window) -> Batch:
        dx, name = self._maps(dy, dy.channels, window.input), tap_type(window)[1]
        self._pool("max_pool_gradient", window, dx, self._data(dy), where, dx.data, more=f", {name}")
        return dx

    def _counts(self, window: Window, count_include_pad: bool) -> Array:
        make = functools.partial(pool_counts, window, count_include_pad)
        return self._constant(("counts", window, count_include_pad), lambda: make().astype(np.float32))

    def avg_pool(self, x: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        y = self._maps(x, x.channels, window.output)
        self._pool("avg_pool", window, y, self._data(x), y.data, self._counts(window, count_include_pad))
        return y

    def avg_pool_gradient(self, dy: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        dx = self._maps(dy, dy.channels, window.input)
        self._pool("avg_pool_gradient", window, dx, self._data(dy), dx.data, self._counts(window, count_include_pad))
        return dx

    def global_avg_pool(self, x: Batch) -> Batch:
        y, maps = self._maps(x, x.channels, ()), x.data.shape[0] * x.channels
        sizes = i32(maps), i32(math.prod(x.spatial)), i32(positions_per_band(x.spatial))
        self._run("norm.cu", "global_avg_pool", (ceil_div(maps, 8),), (LANES, 8), self._data(x), y.data, *sizes)
        return y

    def global_avg_pool_gradient(self, dy: Batch, spatial: tuple[int, ...]) -> Batch:
        dx = self._maps(dy, dy.channels, spatial)
        self._over_maps("global_avg_pool_gradient", dx.data, self._data(dy), dx.data)
        return dx


def tap_type(window: Window) -> tuple[type, str]:
    """The smallest type for a tap's number, in NumPy and in C++."""
    return (np.uint8, "unsigned char") if math.prod(window.kernel) <= 256 else (np.int32, "int")
