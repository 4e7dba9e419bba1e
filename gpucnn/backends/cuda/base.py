"""Memory and launches of the CUDA backend, on any Launcher.

Every operation converts its sizes to template arguments, a grid and a few numbers; the operations are in the other
files of this folder, one per file of kernels. The code is the same for a GPU and for the emulation. There is no array
arithmetic: CuPy's flushes subnormals.
"""

from collections.abc import Callable

import numpy as np

from gpucnn.arithmetic import assert_subnormals
from gpucnn.backends.cuda.launcher import Launcher
from gpucnn.backends.cuda.layout import LANES
from gpucnn.backends.lanes import LaneBackend
from gpucnn.backends.protocol import Array


class CudaBase(LaneBackend):
    """See the protocol for what each method does; comments here explain only how."""

    name = "cupy"
    lanes = LANES
    threads = 0

    def __init__(self, launcher: Launcher):
        assert_subnormals()
        self.launcher = launcher
        self.xp, self.device = launcher.xp, launcher.device
        self._constants: dict = {}

    # ---- launching -------------------------------------------------------------------------------------------------

    def _run(
        self, file: str, expression: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments, overlap: tuple = ()
    ) -> None:
        self.launcher.launch(self.launcher.kernel(file, expression), grid, block, *arguments, overlap=overlap)

    @property
    def graph(self) -> bool:
        return self.launcher.graph

    @graph.setter
    def graph(self, value: bool) -> None:
        self.launcher.graph = bool(value)

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        return self.launcher.capture(step)

    def synchronize(self) -> None:
        self.launcher.synchronize()

    # ---- memory ----------------------------------------------------------------------------------------------------

    def _empty(self, shape: tuple[int, ...], dtype=np.float32) -> Array:
        return self.launcher.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype=None) -> Array:
        array = self._empty(shape if isinstance(shape, tuple) else (shape,), self.dtype if dtype is None else dtype)
        self.launcher.clear(array)
        return array

    def array(self, host: np.ndarray) -> Array:
        array = self._empty(host.shape, host.dtype)
        self.launcher.write(array, host)
        return array

    def assign(self, array: Array, host: np.ndarray) -> None:
        self.launcher.write(array, np.asarray(host, array.dtype))

    def host(self, array: Array) -> np.ndarray:
        return self.launcher.read(array)

    def _constant(self, key, make: Callable[[], np.ndarray]) -> Array:
        """An array that depends only on sizes, copied to the device once."""
        if key not in self._constants:
            self._constants[key] = self.array(make())
        return self._constants[key]

    def _counters_of(self, count: int, use: str) -> Array:
        """At least `count` counters, all 0: each kernel resets those that it uses."""
        # One array per power of two: an array is never replaced, because a captured step may still use it.
        size = max(1024, 1 << (count - 1).bit_length())
        return self._constant(("counters", size, use), lambda: np.zeros(size, np.uint32))
