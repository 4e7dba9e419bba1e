"""Maps along one spatial axis on the CPU backend."""

import math

from gpucnn.backends.batch import Batch
from gpucnn.kernels.numba import resampling
from gpucnn.kernels.numba.simd import LANES
from gpucnn.resampling import AxisTaps, as_arrays


class NumbaResampling:
    """`resample_axis` of the protocol, for NumbaBackend."""

    def resample_axis(self, x: Batch, axis: int, table: AxisTaps) -> Batch:
        before, after = x.spatial[:axis], x.spatial[axis + 1 :]
        y = self._empty((*x.data.shape[:2], *before, table.output, *after, LANES))
        # (block, C, *before) as one axis, the mapped one, (*after, lane) as one
        outer, inner = math.prod(y.shape[:2]) * math.prod(before), math.prod(after) * LANES
        given = self._data(x).reshape(outer, table.input, inner), y.reshape(outer, table.output, inner)
        self._run(resampling.resample_axis, *given, *as_arrays(table))
        return x.like(y)
