"""Biases and channels as launches of kernels/cuda/channels.cu."""

import math

from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import HIGHEST, ceil_div, i32, i64
from gpucnn.backends.protocol import Array


class CudaChannels(CudaBase):
    """See the protocol and LaneBackend for what each method does."""

    def add_bias(self, x: Batch, bias: Array, relu: bool = False) -> Batch:
        y = self._like(x)
        maps, quads = x.data.shape[0] * x.channels, _quads(x)
        # A two-dimensional grid: maps along one axis, parts of a map along the other.
        grid = maps, min(ceil_div(quads, 256), HIGHEST)
        sizes = i32(x.channels), i64(quads), i32(relu)
        self._run("channels.cu", "add_bias", grid, (256,), self._data(x), bias, y.data, *sizes)
        return y

    def _copy_channels(self, x: Batch, y: Batch, first_x: int, first_y: int, count: int) -> None:
        """Copies one contiguous range in each block of images."""
        blocks, quads = x.data.shape[0], _quads(x)
        grid = blocks, min(ceil_div(count * quads, 256), HIGHEST)
        places = i64(x.channels * quads), i64(y.channels * quads), i64(first_x * quads), i64(first_y * quads)
        self._run("channels.cu", "copy_channels", grid, (256,), self._data(x), y.data, *places, i64(count * quads))


def _quads(x: Batch) -> int:
    """Groups of four values in one channel of one block."""
    return math.prod(x.spatial) * x.data.shape[-1] // 4
