"""Optimizers, running statistics and the check for non-finite numbers, as launches of kernels/cuda/optimizers.cu."""

from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import ceil_div, f32, i32, i64
from gpucnn.backends.protocol import Array
from gpucnn.backends.step_end import StepEnd


class CudaOptimizers(CudaBase):
    """See the protocol and LaneBackend for what each method does."""

    def _over_weights(self, kernel: str, size: int, *arguments, overlap: tuple = ()) -> None:
        """A kernel with a thread for each of `size` values; a step of a network without weights has an end as well."""
        self._run(
            "optimizers.cu", kernel, (ceil_div(max(size, 1), 256),), (256,), *arguments, i64(size), overlap=overlap
        )

    def _sgd(self, w: Array, *arguments) -> None:
        *numbers, nesterov = arguments
        self._over_weights("sgd", w.size, w, *numbers, i32(nesterov), self._struct(self._at_hand.end))

    def _adam(self, w: Array, *arguments) -> None:
        *numbers, decoupled = arguments
        self._over_weights("adam", w.size, w, *numbers, i32(decoupled), self._struct(self._at_hand.end))

    def optimize(self, kind: str, *arrays: Array, end: StepEnd, **settings) -> None:
        self._at_hand.end = end
        try:
            super().optimize(kind, *arrays, end=end, **settings)
        finally:
            self._at_hand.end = None

    def end_step(self, end: StepEnd, w: Array) -> None:
        if self._at_hand.end is None:  # otherwise the optimizer's kernel has done it
            self._over_weights("end_step", w.size, w, self._struct(end))

    def watch(self, status: Array, step: Array, loss: Array, w: Array) -> None:
        self.end_step(StepEnd(status, step, loss), w)

    def _struct(self, end: StepEnd | None) -> tuple:
        """optimizers.cu's struct."""
        if end is None:
            return *(None,) * 9, *(i32(0),) * 3
        watched = end.status, end.step, end.loss
        if end.ahead is None:
            return *watched, *(None,) * 6, *(i32(0),) * 3
        a = end.ahead
        arrays = a.row, a.order, a.indices, a.rates, a.hyper, self._counters_of(1)
        return *watched, *arrays, i32(len(a.order)), i32(a.order.shape[1]), i32(a.rates.shape[1])

    def update_running(self, running: Array, batch: Array, momentum: float) -> None:
        self._over_weights("update_running", running.size, running, batch, f32(momentum), overlap=(running,))
