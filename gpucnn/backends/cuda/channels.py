"""Biases and channels as launches of kernels/cuda/channels.cu."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.channel_copies import ChannelCopies
from gpucnn.backends.protocol import Array

_i32, _i64 = np.int32, np.int64


class CudaChannels(ChannelCopies):
    """Part of CudaBackend; see the protocol for what each method does."""

    def add_bias(self, x: Batch, bias: Array, relu: bool = False) -> Batch:
        y = self._like(x)
        maps, quads = x.data.shape[0] * x.channels, _quads(x)
        # A GPU holds two dimensions of blocks: maps along one, parts of a map along the other.
        grid = maps, min(-(-quads // 256), 65535)
        sizes = _i32(x.channels), _i64(quads), _i32(relu)
        self._run("channels.cu", "add_bias", grid, (256,), self._data(x), bias, y.data, *sizes)
        return y

    def _copy_channels(self, x: Batch, y: Batch, first_x: int, first_y: int, count: int) -> None:
        """y's channels from first_y = x's from first_x: one stretch of memory in each block of images."""
        blocks, quads = x.data.shape[0], _quads(x)
        grid = blocks, min(-(-count * quads // 256), 65535)
        places = _i64(x.channels * quads), _i64(y.channels * quads), _i64(first_x * quads), _i64(first_y * quads)
        self._run("channels.cu", "copy_channels", grid, (256,), self._data(x), y.data, *places, _i64(count * quads))


def _quads(x: Batch) -> int:
    """Groups of four values in one channel of one block."""
    return math.prod(x.spatial) * x.data.shape[-1] // 4
