"""Group norm and layer norm as launches of kernels/cuda/group_norm.cu."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import HALVES, LANES, ceil_div, i32, i64, line_levels
from gpucnn.backends.spatial import positions_per_band

_FILE = "group_norm.cu"
_LINE_THREADS = 32, 8


class CudaGroupNorm(CudaBase):
    """See LaneBackend for what each method does."""

    def _group_norm_statistics(self, x: Batch, mean: Batch, var: Batch) -> None:
        length = x.channels // mean.channels * math.prod(x.spatial)
        arguments = self._data(x), mean.data, var.data, i32(length)
        kernel = f"group_norm_statistics<{line_levels(length)}>"
        self._run(_FILE, kernel, (len(x.data) * mean.channels,), _LINE_THREADS, *arguments)

    def _group_norm(self, x, mean, var, gamma, beta, eps, y: Batch, relu: bool) -> None:
        size = y.data.size
        arguments = self._data(x), self._data(mean), self._data(var), gamma, beta, eps, y.data
        sizes = i32(x.channels), *_channels_and_positions(x, mean), i32(relu), i64(size)
        self._run(_FILE, "group_norm", (ceil_div(size, 256),), (256,), *arguments, *sizes)

    def _group_norm_gradient(self, dy, x, mean, var, gamma, eps, out_gamma, out_beta, dx: Batch) -> None:
        groups, (channels, positions) = mean.channels, _channels_and_positions(x, mean)
        gradient, values, center = self._data(dy), self._data(x), self._data(mean)
        blocks, size = x.data.shape[0], dx.data.size
        a, b, inv = (self._empty((blocks, groups, LANES)) for _ in range(3))
        arguments = gradient, values, center, self._data(var), gamma, eps, a, b, inv, i32(groups), channels, positions
        kernel = f"group_norm_means<{line_levels(int(channels * positions))}>"
        self._run(_FILE, kernel, (blocks * groups,), _LINE_THREADS, *arguments)
        arrays = gradient, values, center, inv, gamma, a, b, dx.data
        sizes = i32(x.channels), channels, positions, i64(size)
        self._run(_FILE, "group_norm_gradient", (ceil_div(size, 256),), (256,), *arrays, *sizes)
        if gamma is not None:
            band = positions_per_band(x.spatial)
            bands = ceil_div(int(positions), band)
            part = self._empty((x.channels, 2, blocks * HALVES, bands), np.float64)
            # As for batch norm: one warp per band for few channels, several bands per warp if channels fill the GPU.
            parts = min(ceil_div(blocks * bands, 8), ceil_div(8 * self.launcher.processors, x.channels))
            parameters = gradient, values, center, inv, out_gamma, out_beta, i32(groups), channels
            shape = i32(x.images), i32(blocks), positions, i32(band), part, self._counters_of(x.channels)
            kernel = "group_norm_parameter_gradients"
            self._run(_FILE, kernel, (x.channels, parts), (LANES, 8), *parameters, *shape)


def _channels_and_positions(x: Batch, mean: Batch) -> tuple[np.int32, np.int32]:
    """(channels per group, positions per map)."""
    return i32(x.channels // mean.channels), i32(math.prod(x.spatial))
