"""Memory and launches of the CUDA backend, on any Launcher.

Every operation converts its sizes to template arguments, a grid and a few numbers; the operations are in the other
files of this folder, one per file of kernels. The code is the same for a GPU and for the emulation. There is no array
arithmetic: CuPy's flushes subnormals.
"""

import threading
from collections.abc import Callable

import numpy as np

from gpucnn.arithmetic import assert_subnormals
from gpucnn.backends.cuda.launcher import BRANCHES, Launcher
from gpucnn.backends.cuda.layout import HIGHEST, LANES
from gpucnn.backends.cuda.measured import Tiles
from gpucnn.backends.lanes import LaneBackend
from gpucnn.backends.protocol import Array
from gpucnn.backends.step_end import StepEnd
from gpucnn.errors import BackendError


class _AtHand(threading.local):
    """What a thread's operation at hand tells its launches: another thread may be in the same operation."""

    branch = 0  # of launches that may overlap
    labels: tuple[Array | None, Array | None] = None, None  # those to load with the images, and where to
    end: StepEnd | None = None  # of the step whose optimizer runs


class CudaBase(LaneBackend):
    """See the protocol for what each method does; comments here explain only how."""

    name = "cupy"
    lanes = LANES
    threads = 0
    looks_ahead = True

    def __init__(self, launcher: Launcher):
        assert_subnormals()
        self.launcher = launcher
        self.xp, self.device = launcher.xp, launcher.device
        self.tiles = Tiles()
        self._constants: dict = {}
        self._at_hand = _AtHand()

    # ---- launching -------------------------------------------------------------------------------------------------

    def _run(
        self, file: str, expression: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments, overlap: tuple = ()
    ) -> None:
        if max(grid[1:], default=1) > HIGHEST:
            raise BackendError(
                f"the kernel {expression.partition('<')[0]} needs a grid of {' x '.join(map(str, grid))} blocks of "
                f"threads; a GPU's is at most {HIGHEST} along the second and third axis: use smaller batches, or fewer "
                "groups, channels or pixels"
            )
        kernel = self.launcher.kernel(file, expression)
        self.launcher.launch(kernel, grid, block, *arguments, overlap=overlap, branch=self._at_hand.branch)

    def _next_branch(self) -> None:
        """The launches that follow, as far as they may overlap, form a new branch."""
        self._at_hand.branch = (self._at_hand.branch + 1) % BRANCHES

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
        self._clear(array)
        return array

    def _clear(self, array: Array) -> None:
        self.launcher.clear(array)

    def array(self, host: np.ndarray) -> Array:
        array = self._empty(host.shape, host.dtype)
        self.launcher.write(array, host)
        return array

    def assign(self, array: Array, host: np.ndarray) -> None:
        self.launcher.write(array, np.asarray(host, array.dtype))

    def host(self, array: Array) -> np.ndarray:
        return self.launcher.read(array)

    def staging(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        return self.launcher.staging(shape, dtype)

    def host_into(self, array: Array, out: np.ndarray) -> None:
        self.launcher.read_into(array, out)

    def _constant(self, key, make: Callable[[], np.ndarray]) -> Array:
        """An array that depends only on sizes, copied to the device once."""
        if key not in self._constants:
            with self.launcher.lasting():
                made = self.array(make())
            self._constants.setdefault(key, made)  # another thread may have been first
        return self._constants[key]

    def _counters_of(self, count: int, overlap: bool = False) -> Array:
        """At least `count` counters, all 0: each kernel resets those that it uses. Kernels that may overlap have those
        of their branch, because kernels that run at the same time must not share any.
        """
        # One array per power of two: an array is never replaced, because a captured step may still use it.
        size = max(1024, 1 << (count - 1).bit_length())
        counters = self._constant(("counters", size), lambda: np.zeros((BRANCHES + 1, size), np.uint32))
        return counters[self._at_hand.branch + 1 if overlap else 0]
