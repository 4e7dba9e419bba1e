"""Biases and channels on the CPU backend."""

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array
from gpucnn.kernels.numba_cpu import channels


def _maps(data: Array) -> Array:
    """(block, C, *spatial, lane) as (block, C, positions * lanes)."""
    return data.reshape(*data.shape[:2], -1)


class NumbaChannels:
    """Part of NumbaBackend; see the protocol for what each method does."""

    def add_bias(self, x: Batch, bias: Array, relu: bool = False) -> Batch:
        y = self._like(x)
        self._run(channels.add_bias, _maps(self._data(x)), bias, _maps(y.data), bool(relu))
        return y

    def concatenate(self, batches: list[Batch]) -> Batch:
        blocks, _, *inner = batches[0].data.shape
        y = batches[0].like(self._empty((blocks, sum(batch.channels for batch in batches), *inner)))
        first = 0
        for batch in batches:
            given = _maps(self._data(batch)), _maps(y.data), 0, first, batch.channels
            self._run(channels.copy_channels, *given)
            first += batch.channels
        return y

    def take_channels(self, x: Batch, first: int, count: int) -> Batch:
        blocks, _, *inner = x.data.shape
        y = x.like(self._empty((blocks, count, *inner)))
        self._run(channels.copy_channels, _maps(self._data(x)), _maps(y.data), first, 0, count)
        return y
