"""Biases and channels on NumPy: one rounded addition, and movement of data. The same in exact and fast math."""

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.numpy.norm import per_channel


class NumpyChannels(NumpyBase):
    """Part of NumpyBase; see the protocol for what each method does."""

    def add_bias(self, x: Batch, bias: np.ndarray, relu: bool = False) -> Batch:
        zero = self.dtype.type(0)
        return self.rectified(x.like((x.data + per_channel(bias, x)) + zero), relu)

    def concatenate(self, batches: list[Batch]) -> Batch:
        return batches[0].like(np.concatenate([batch.data for batch in batches], axis=1))

    def take_channels(self, x: Batch, first: int, count: int) -> Batch:
        return x.like(x.data[:, first : first + count].copy())
