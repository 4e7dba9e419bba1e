"""Activations and residual addition on the readable GPU backend."""

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba_cuda.base import NumbaCudaBase
from gpucnn.kernels.numba_cuda import elementwise


class NumbaCudaElementwise(NumbaCudaBase):
    """See LaneBackend for what each method does."""

    def _forward(self, name: str, x: Batch, y: Batch, settings: tuple) -> None:
        self._run(elementwise.FORWARD[name], y.data.size, *map(self._flat, (x, y)), settings)

    def _gradient(self, name: str, dy: Batch, saved: Batch, dx: Batch, settings: tuple) -> None:
        self._run(elementwise.GRADIENT[name], dx.data.size, *map(self._flat, (dy, saved, dx)), settings)

    def _add(self, a: Batch, b: Batch, y: Batch, relu: bool) -> None:
        self._run(elementwise.add_batches, y.data.size, *map(self._flat, (a, b, y)), relu)
