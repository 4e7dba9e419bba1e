"""Maps along one spatial axis, launched from kernels/cuda/resampling.cu."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array
from gpucnn.resampling import AxisTaps, as_arrays

WARPS = 8  # of resampling.cu


class CudaResampling:
    """`resample_axis` of the protocol, for CudaBackend."""

    def _tables(self, table: AxisTaps) -> list[Array]:
        """first, position, weight and start on the device."""
        arrays = zip(("first", "position", "weight", "start"), as_arrays(table))
        return [self._constant((name, table), lambda array=array: array) for name, array in arrays]

    def resample_axis(self, x: Batch, axis: int, table: AxisTaps) -> Batch:
        blocks, channels, *_, lanes = x.data.shape
        before, after = x.spatial[:axis], x.spatial[axis + 1 :]
        y = self._empty((blocks, channels, *before, table.output, *after, lanes))
        pixels = y.size // lanes
        sizes = np.int32(table.input), np.int32(table.output), np.int32(math.prod(after)), np.int64(pixels)
        grid = (-(-pixels // WARPS),)
        given = self._data(x), y, *self._tables(table)
        self._run("resampling.cu", "resample_axis", grid, (lanes, WARPS), *given, *sizes)
        return x.like(y)
