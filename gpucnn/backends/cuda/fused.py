"""Small networks in a few launches: a step is traced, and its operations become stages of kernels/cuda/fused.cu.

`capture_step` runs the step once without computing anything. Operations on single images become stages of one kernel,
which keeps an image's values in shared memory; sums over the images become jobs of a second kernel; what else is
launched, before the first stage or after the last, stays as it is. A step that does not fit runs layer by layer.
"""

import functools
import threading
from collections.abc import Callable

import numpy as np

from gpucnn.backends import shares
from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.program import Program, Unfusible
from gpucnn.backends.protocol import Array

# The operations that Program has; all others are launches that stay as they are.
_STAGED = (
    *("_load_shifted", "_load_augmented", "rows", "_correlate", "_multiply", "_pool", "global_avg_pool"),
    *("global_avg_pool_gradient", "_forward", "_gradient", "_add", "_dropout", "_copy_channels", "softmax"),
    *("_softmax_cross_entropy", "bias_gradient", "conv_weight_gradient", "dense_weight_gradient", "conv_max_pool"),
    *("conv_max_pool_gradient", "dense_gradients", "conv_inference", "_batch_norm", "batch_norm_max_pool"),
)


class _Tracing(threading.local):
    """The step that a thread is tracing."""

    program: Program | None = None


class CudaFused(CudaBase):
    """`fuses`: whether capture_step looks for a step that fits; if it is False each operation has its own kernel."""

    fuses = True

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._tracing = _Tracing()

    def capture_step(self, step: Callable[[], None]) -> Callable[[], None]:
        program = self._traced(step) if self.graph and self.fuses else None
        return self.capture(step if program is None else program.run)

    def _traced(self, step: Callable[[], None]) -> Program | None:
        """The step as a program; None if it does not fit."""
        program = self._tracing.program = Program(self)
        try:
            step()
            program.finish()
        except Unfusible:
            return None
        finally:
            self._tracing.program = None
        return program

    def _plainly(self, name: str, *arguments):
        """An operation by its own kernel, also while a step is traced."""
        return getattr(super(), name)(*arguments)

    # ---- what a traced step must not do now --------------------------------------------------------------------------

    def _run(self, *arguments, **options) -> None:
        run = functools.partial(super()._run, *arguments, **options)
        if self._tracing.program is None:
            run()
        else:
            self._tracing.program.launch(run, arguments[4:])

    def _clear(self, array: Array) -> None:
        clear = functools.partial(super()._clear, array)
        if self._tracing.program is None:
            clear()
        else:
            self._tracing.program.launch(clear, (array,))

    def _empty(self, shape: tuple[int, ...], dtype=np.float32) -> Array:
        array = super()._empty(shape, dtype)
        return array if self._tracing.program is None else self._tracing.program.keep(array)

    def host(self, array: Array) -> np.ndarray:
        self._refuse()
        return super().host(array)

    def host_into(self, array: Array, out: np.ndarray) -> None:
        self._refuse()
        super().host_into(array, out)

    def assign(self, array: Array, host: np.ndarray) -> None:
        self._refuse()
        super().assign(array, host)

    def between(self, work: Callable[[], None]) -> None:
        self._refuse()
        super().between(work)

    def _refuse(self) -> None:
        if self._tracing.program is not None:
            raise Unfusible("values go to the host or come from it")


def _staged(name: str) -> Callable:
    def operation(self, *arguments, **settings):
        if self._tracing.program is None:
            return getattr(super(CudaFused, self), name)(*arguments, **settings)
        if shares.current() is not None:
            raise Unfusible("a part of a batch")
        return getattr(self._tracing.program, name)(*arguments, **settings)

    operation.__name__ = name
    return operation


for _name in _STAGED:
    setattr(CudaFused, _name, _staged(_name))
