"""Activations and residual addition on the CPU backend."""

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.kernels.numba import elementwise


class NumbaElementwise:
    """See the protocol for what each method does."""

    def elementwise(self, name: str, x: Batch, *settings: float) -> Batch:
        return self._map(elementwise.FORWARD[name], [x], tuple(map(np.float32, settings)))

    def elementwise_gradient(self, name: str, dy: Batch, saved: Batch, *settings: float) -> Batch:
        return self._map(elementwise.GRADIENT[name], [dy, saved], tuple(map(np.float32, settings)))

    def add(self, a: Batch, b: Batch, relu: bool = False) -> Batch:
        return self._map(elementwise.add_batches, [a, b], relu)

    def _map(self, kernel, inputs: list[Batch], settings) -> Batch:
        y = self._like(inputs[0])
        self._run(kernel, *(self._data(x).reshape(-1) for x in inputs), y.data.reshape(-1), settings)
        return y
