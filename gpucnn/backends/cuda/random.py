"""Dropout as a launch of kernels/cuda/random.cu."""

import math

from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import ceil_div, i64, u32


class CudaRandom(CudaBase):
    """See LaneBackend for what each method does."""

    def _dropout(self, x: Batch, y: Batch, rate, scale, offset, seed, step, layer: int) -> None:
        size, values = y.data.size, math.prod(y.data.shape[1:-1])
        draw = rate, scale, i64(offset), seed, step, u32(layer), i64(values), i64(size)
        self._run("random.cu", "dropout", (ceil_div(size, 256),), (256,), self._data(x), y.data, *draw)
