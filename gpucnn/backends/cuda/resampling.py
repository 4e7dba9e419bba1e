"""Maps along one spatial axis, launched from kernels/cuda/resampling.cu."""

import math

import numpy as np

from gpucnn.axis_maps import AxisMap, as_arrays
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array

WARPS = 8  # of resampling.cu


class CudaResampling:
    """`axis_map` of the protocol, for CudaBackend."""

    def _tables(self, table: AxisMap) -> list[Array]:
        """first, position, weight and start on the device."""
        arrays = zip(("first", "position", "weight", "start"), as_arrays(table))
        return [self._constant((name, table), lambda array=array: array) for name, array in arrays]

    def axis_map(self, x: Batch, axis: int, table: AxisMap) -> Batch:
        blocks, channels, *_, lanes = x.data.shape
        before, after = x.spatial[:axis], x.spatial[axis + 1 :]
        y = self._empty((blocks, channels, *before, table.output, *after, lanes))
        pixels = y.size // lanes
        sizes = np.int32(table.input), np.int32(table.output), np.int32(math.prod(after)), np.int64(pixels)
        grid = (-(-pixels // WARPS),)
        given = self._data(x), y, *self._tables(table)
        self._run("resampling.cu", "axis_map", grid, (lanes, WARPS), *given, *sizes)
        return x.like(y)
