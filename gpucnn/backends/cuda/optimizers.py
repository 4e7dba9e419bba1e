"""Optimizers, running statistics and the check for non-finite numbers, as launches of kernels/cuda/optimizers.cu."""

from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import ceil_div, f32, i32, i64
from gpucnn.backends.protocol import Array


class CudaOptimizers(CudaBase):
    """See the protocol and LaneBackend for what each method does."""

    def _over_weights(self, kernel: str, size: int, *arguments, overlap: tuple = ()) -> None:
        """A kernel with a thread for each of `size` values."""
        self._run("optimizers.cu", kernel, (ceil_div(size, 256),), (256,), *arguments, i64(size), overlap=overlap)

    def _sgd(self, w: Array, *arguments) -> None:
        *numbers, nesterov = arguments
        self._over_weights("sgd", w.size, w, *numbers, i32(nesterov))

    def _adam(self, w: Array, *arguments) -> None:
        *numbers, decoupled = arguments
        self._over_weights("adam", w.size, w, *numbers, i32(decoupled))

    def update_running(self, running: Array, batch: Array, momentum: float) -> None:
        self._over_weights("update_running", running.size, running, batch, f32(momentum), overlap=(running,))

    def watch(self, status: Array, step: Array, loss: Array, w: Array) -> None:
        self._over_weights("watch", w.size, status, step, loss, w)
