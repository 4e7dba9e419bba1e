"""Dropout on the readable GPU backend."""

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba_cuda.base import NumbaCudaBase
from gpucnn.kernels.numba_cuda import random
from gpucnn.kernels.numba_cuda.compiler import LANES


class NumbaCudaRandom(NumbaCudaBase):
    """See LaneBackend for what each method does."""

    def _dropout(self, x: Batch, y: Batch, *draw) -> None:
        shape = len(y.data), -1, LANES
        self._run(random.dropout, y.data.size, self._data(x).reshape(shape), y.data.reshape(shape), *draw)
