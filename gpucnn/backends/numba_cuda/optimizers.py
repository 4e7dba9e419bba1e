"""Optimizers, running statistics and the check for non-finite numbers, on the readable GPU backend."""

import numpy as np

from gpucnn.backends.numba_cuda.base import NumbaCudaBase
from gpucnn.backends.protocol import Array
from gpucnn.kernels.numba_cuda import optimizers


class NumbaCudaOptimizers(NumbaCudaBase):
    """See the protocol and LaneBackend for what each method does."""

    def _sgd(self, w: Array, *arguments) -> None:
        self._run(optimizers.sgd, w.size, w, *arguments)

    def _adam(self, w: Array, *arguments) -> None:
        self._run(optimizers.adam, w.size, w, *arguments)

    def update_running(self, running: Array, batch: Array, momentum: float) -> None:
        self._run(optimizers.update_running, running.size, running, batch, np.float32(momentum))

    def watch(self, status: Array, step: Array, loss: Array, w: Array) -> None:
        self._run(optimizers.watch, max(w.size, 1), status, step, loss, w)
