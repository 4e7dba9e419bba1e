"""Activations and residual addition on the CPU backend."""

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba.base import NumbaBase
from gpucnn.kernels.numba import elementwise


class NumbaElementwise(NumbaBase):
    """See LaneBackend for what each method does."""

    def _forward(self, name: str, x: Batch, y: Batch, settings: tuple) -> None:
        self._over_values(elementwise.FORWARD[name], x, y, settings=settings)

    def _gradient(self, name: str, dy: Batch, saved: Batch, dx: Batch, settings: tuple) -> None:
        self._over_values(elementwise.GRADIENT[name], dy, saved, dx, settings=settings)

    def _add(self, a: Batch, b: Batch, y: Batch, relu: bool) -> None:
        self._over_values(elementwise.add_batches, a, b, y, settings=relu)

    def _over_values(self, kernel, *batches: Batch, settings) -> None:
        self._run(kernel, *(self._data(batch).reshape(-1) for batch in batches), settings)
