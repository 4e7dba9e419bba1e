"""Memory and launches of the readable GPU backend, and the check that this machine can run it.

Arrays are CuPy's, which Numba's kernels accept; CuPy itself computes nothing. In Numba's CUDA simulator
(NUMBA_ENABLE_CUDASIM=1) the same kernels run as Python threads on NumPy's arrays: very slow, but every operation can
be followed with a debugger, on a machine without a GPU.

Every operation reshapes its arguments to three spatial axes (leading ones of size 1) and launches one or a few kernels
on the default stream; the operations are in the other files of this folder, one per family of kernels. Nothing is
recorded: `capture` returns the step itself.
"""

import importlib
import importlib.metadata
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.arithmetic import assert_subnormals
from gpucnn.backends.batch import Batch
from gpucnn.backends.lanes import LaneBackend
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import three
from gpucnn.errors import BackendError
from gpucnn.extras import INSTALL_CUDA


def check_machine() -> bool:
    """Whether the simulator is on. Raises BackendError with the first missing dependency, and how to install it."""
    try:
        importlib.metadata.version("numba-cuda")
    except importlib.metadata.PackageNotFoundError:
        raise BackendError(f"numba-cuda is not installed: {INSTALL_CUDA}") from None
    from numba import config, cuda

    if config.ENABLE_CUDASIM:
        return True
    if not cuda.is_available():
        why = " ".join((cuda.cuda_error() or "the driver sees no GPU").split()).rstrip(".")  # its own text has lines
        raise BackendError(
            f"Numba finds no NVIDIA GPU with a driver ({why}); "
            "NUMBA_ENABLE_CUDASIM=1 runs this backend on the CPU, slowly, for learning how it works"
        )
    from numba.cuda.cudadrv import nvvm

    try:
        nvvm.NVVM()
    except (ImportError, RuntimeError, OSError) as error:
        raise BackendError(f"the CUDA compiler NVVM cannot be loaded ({error}): {INSTALL_CUDA}") from None
    try:
        import cupy  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:
        raise BackendError(
            f"CuPy, whose arrays this backend uses, cannot be imported ({error}): {INSTALL_CUDA}"
        ) from None
    return False


SIMULATED = check_machine()

from numba import cuda  # only after the check

from gpucnn.kernels.contract import BLOCK
from gpucnn.kernels.numba_cuda import arithmetic
from gpucnn.kernels.numba_cuda.compiler import LANES
from gpucnn.kernels.numba_cuda.sums import SHARED_BYTES

xp: Any = np if SIMULATED else importlib.import_module("cupy")

# Threads per block of a kernel whose threads do not cooperate: a few warps, any number would do.
_THREADS = 128
# CUDA's default stream, which is CuPy's too.
_STREAM = 0


class NumbaCudaBase(LaneBackend):
    """See the protocol for what each method does; comments here explain only how."""

    name = "numba-cuda"
    lanes = LANES
    xp = xp

    def __init__(self, threads: int, dtype: np.dtype):
        """RuntimeError if this process flushes subnormal numbers. `threads` is ignored."""
        assert_subnormals()
        self.threads = 0
        self.device = "simulator on the CPU" if SIMULATED else f"GPU {_text(cuda.get_current_device().name)}"
        self._probed = False

    # ---- launching ---------------------------------------------------------------------------------------------------

    def _run(self, kernel, values: int, *arguments) -> None:
        """Launch with a thread for each of `values` values, and the last block of threads padded."""
        if values:
            self._launch(kernel, (-(-values // _THREADS), min(_THREADS, values)), arguments)

    def _run_lanes(self, kernel, count: int, *arguments) -> None:
        """Launch with a block of 32 threads, one per lane, for each of `count` sums over images."""
        self._launch(kernel, (count, LANES, _STREAM, SHARED_BYTES), arguments)

    def _launch(self, kernel, configuration: tuple[int, ...], arguments: tuple) -> None:
        if not self._probed:
            self._probe()
        if not SIMULATED:
            # All work is on one stream: CuPy's arrays need no synchronization.
            arguments = tuple(cuda.as_cuda_array(a, sync=False) if isinstance(a, xp.ndarray) else a for a in arguments)
        kernel[configuration](*arguments)

    def _probe(self) -> None:
        """Called before the first kernel: RuntimeError if the device flushes subnormal numbers to zero."""
        self._probed = True
        values = self.array(np.array([1e-30, 1e-12, 0], np.float32))
        self._run(arithmetic.small_product, 1, values)
        if self.host(values)[2] == 0:
            raise RuntimeError("this device flushes subnormal numbers to zero: exact math is not possible on it")

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        step()
        return step

    def synchronize(self) -> None:
        cuda.synchronize()

    def elapsed(self, work: Callable[[], Any]) -> float:
        if SIMULATED:
            return super().elapsed(work)
        from gpucnn.backends.cuda.cupy_events import elapsed

        return elapsed(work, xp.cuda.Stream.null)

    # ---- memory ------------------------------------------------------------------------------------------------------

    def _empty(self, shape: tuple[int, ...], dtype=np.float32) -> Array:
        return xp.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype=None) -> Array:
        return xp.zeros(shape, self.dtype if dtype is None else dtype)

    def array(self, host: np.ndarray) -> Array:
        return xp.array(host, order="C")

    def assign(self, array: Array, host: np.ndarray) -> None:
        array[...] = xp.asarray(host, dtype=array.dtype)

    def host(self, array: Array) -> np.ndarray:
        return np.array(array) if SIMULATED else xp.asnumpy(array)

    def memory(self) -> int:
        return super().memory() if SIMULATED else xp.cuda.runtime.memGetInfo()[1]

    def _deep(self, x: Batch) -> Array:
        """Values as (block, C, D, H, W, lane)."""
        return self._data(x).reshape(*x.data.shape[:2], *three(x.spatial, 1), LANES)

    def _pixels(self, x: Batch) -> Array:
        """Values as (block, C, position, lane)."""
        return self._data(x).reshape(*x.data.shape[:2], -1, LANES)

    def _flat(self, x: Batch) -> Array:
        return self._data(x).reshape(-1)

    def _map_size(self, x: Batch) -> int:
        """The number of values in one channel of one block."""
        return math.prod(x.spatial) * LANES

    def _part(self, x: Batch, bands: int, sums: int, dtype) -> Array:
        """(blocks of 16 images * bands, sums): the partial sums of sums over images."""
        return self._empty((-(-x.images // BLOCK) * bands, sums), dtype)


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
