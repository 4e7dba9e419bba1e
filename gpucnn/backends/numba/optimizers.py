"""Optimizers, running statistics and the check for non-finite numbers, on the CPU backend."""

import numpy as np

from gpucnn.backends.numba.base import NumbaBase
from gpucnn.backends.protocol import Array
from gpucnn.kernels.numba import optimizers


class NumbaOptimizers(NumbaBase):
    """See the protocol and LaneBackend for what each method does."""

    def _sgd(self, *arguments) -> None:
        self._run(optimizers.sgd, *arguments)

    def _adam(self, *arguments) -> None:
        self._run(optimizers.adam, *arguments)

    def update_running(self, running: Array, batch: Array, momentum: float) -> None:
        self._run(optimizers.update_running, running, batch, np.float32(momentum))

    def watch(self, status: Array, step: Array, loss: Array, w: Array) -> None:
        self._run(optimizers.watch, status, step, loss, w)
