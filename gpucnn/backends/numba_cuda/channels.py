"""Biases and channels on the readable GPU backend."""

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba_cuda.base import NumbaCudaBase
from gpucnn.backends.protocol import Array
from gpucnn.kernels.numba_cuda import channels


class NumbaCudaChannels(NumbaCudaBase):
    """See the protocol and LaneBackend for what each method does."""

    def add_bias(self, x: Batch, bias: Array, relu: bool = False) -> Batch:
        y = self._like(x)
        self._run(channels.add_bias, y.data.size, self._flat(x), bias, self._flat(y), self._map_size(x), bool(relu))
        return y

    def _copy_channels(self, x: Batch, y: Batch, first_x: int, first_y: int, count: int) -> None:
        size, blocks = self._map_size(x), len(x.data)
        arrays = self._data(x).reshape(blocks, -1), self._data(y).reshape(blocks, -1)
        places = first_x * size, first_y * size, count * size
        self._run(channels.copy_channels, blocks * count * size, *arrays, *places)
