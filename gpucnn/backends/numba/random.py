"""Dropout on the CPU backend."""

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba.base import NumbaBase
from gpucnn.kernels.numba import random
from gpucnn.kernels.numba.simd import LANES


class NumbaRandom(NumbaBase):
    """See LaneBackend for what each method does."""

    def _dropout(self, x: Batch, y: Batch, *draw) -> None:
        shape = len(y.data), -1, LANES
        self._run(random.dropout, self._data(x).reshape(shape), y.data.reshape(shape), *draw)
