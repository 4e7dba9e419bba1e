"""Biases and channels on the CPU backend."""

from gpucnn.backends.batch import Batch
from gpucnn.backends.channel_copies import ChannelCopies
from gpucnn.backends.protocol import Array
from gpucnn.kernels.numba import channels


def _maps(data: Array) -> Array:
    """(block, C, *spatial, lane) as (block, C, positions * lanes)."""
    return data.reshape(*data.shape[:2], -1)


class NumbaChannels(ChannelCopies):
    """Part of NumbaBackend; see the protocol for what each method does."""

    def add_bias(self, x: Batch, bias: Array, relu: bool = False) -> Batch:
        y = self._like(x)
        self._run(channels.add_bias, _maps(self._data(x)), bias, _maps(y.data), bool(relu))
        return y

    def _copy_channels(self, x: Batch, y: Batch, first_x: int, first_y: int, count: int) -> None:
        self._run(channels.copy_channels, _maps(self._data(x)), _maps(y.data), first_x, first_y, count)
