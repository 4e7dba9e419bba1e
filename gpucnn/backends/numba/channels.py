"""Biases and channels on the CPU backend."""

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba.base import NumbaBase
from gpucnn.backends.numba.layout import flat
from gpucnn.backends.protocol import Array
from gpucnn.kernels.numba import channels


class NumbaChannels(NumbaBase):
    """See the protocol and LaneBackend for what each method does."""

    def add_bias(self, x: Batch, bias: Array, relu: bool = False) -> Batch:
        y = self._like(x)
        self._run(channels.add_bias, flat(self._data(x)), bias, flat(y.data), bool(relu))
        return y

    def _copy_channels(self, x: Batch, y: Batch, first_x: int, first_y: int, count: int) -> None:
        self._run(channels.copy_channels, flat(self._data(x)), flat(y.data), first_x, first_y, count)
