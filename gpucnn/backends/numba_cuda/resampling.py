"""Maps along one spatial axis on the readable GPU backend."""

import math

from gpucnn.backends.batch import Batch
from gpucnn.kernels.numba_cuda import resampling
from gpucnn.kernels.numba_cuda.compiler import LANES
from gpucnn.resampling import AxisTaps, as_arrays


class NumbaCudaResampling:
    """`resample_axis` of the protocol, for NumbaCudaBackend."""

    def resample_axis(self, x: Batch, axis: int, table: AxisTaps) -> Batch:
        before, after = x.spatial[:axis], x.spatial[axis + 1 :]
        y = x.like(self._empty((*x.data.shape[:2], *before, table.output, *after, LANES)))
        tables = map(self.array, as_arrays(table))
        sizes = table.input, table.output, math.prod(after) * LANES
        self._run(resampling.resample_axis, y.data.size, self._flat(x), self._flat(y), *tables, *sizes)
        return y
