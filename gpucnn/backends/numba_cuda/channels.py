"""Biases and channels on the readable GPU backend."""

import math

from gpucnn.backends.batch import Batch
from gpucnn.backends.channel_copies import ChannelCopies
from gpucnn.backends.protocol import Array
from gpucnn.kernels.numba_cuda import channels


class NumbaCudaChannels(ChannelCopies):
    """Part of NumbaCudaBackend; see the protocol for what each method does."""

    def add_bias(self, x: Batch, bias: Array, relu: bool = False) -> Batch:
        y = self._like(x)
        self._run(channels.add_bias, y.data.size, self._flat(x), bias, self._flat(y), _map_size(x), bool(relu))
        return y

    def _copy_channels(self, x: Batch, y: Batch, first_x: int, first_y: int, count: int) -> None:
        values = count * _map_size(x)
        blocks, places = x.data.shape[0], (first_x * _map_size(x), first_y * _map_size(y))
        given = self._data(x).reshape(blocks, -1), self._data(y).reshape(blocks, -1)
        self._run(channels.copy_channels, blocks * values, *given, *places, values)


def _map_size(x: Batch) -> int:
    """Values of one channel of one block."""
    return math.prod(x.spatial) * x.data.shape[-1]
