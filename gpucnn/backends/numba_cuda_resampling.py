"""Maps along one spatial axis on the readable GPU backend."""

import math

import numpy as np

from gpucnn.axis_maps import AxisMap, as_arrays
from gpucnn.backends.batch import Batch
from gpucnn.kernels.numba_cuda import resampling
from gpucnn.kernels.numba_cuda.compiler import LANES


class NumbaCudaResampling:
    """`axis_map` of the protocol, for NumbaCudaBackend."""

    def axis_map(self, x: Batch, axis: int, table: AxisMap) -> Batch:
        before, after = x.spatial[:axis], x.spatial[axis + 1 :]
        y = x.like(self._empty((*x.data.shape[:2], *before, table.output, *after, LANES)))
        # A map without any taps still hands over an array that is not empty.
        tables = (self.array(array if array.size else np.zeros(1, array.dtype)) for array in as_arrays(table))
        sizes = table.input, table.output, math.prod(after) * LANES
        self._run(resampling.axis_map, y.data.size, self._flat(x), self._flat(y), *tables, *sizes)
        return y
