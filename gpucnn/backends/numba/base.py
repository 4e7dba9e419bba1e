"""Memory and launches of the CPU backend.

Every operation reshapes its arguments to three spatial axes (leading ones of size 1) and launches one or a few kernels;
the operations are in the other files of this folder, one per family of kernels. While `capture` records, each launch is
also put on a tape, so that a training step repeats as a list of compiled calls on the same buffers, with nothing
checked or allocated again.
"""

import contextlib
import functools
import math
import os
import platform
import threading
from collections.abc import Callable, Iterator

import numba
import numpy as np

from gpucnn.arithmetic import assert_subnormals
from gpucnn.backends import compilation
from gpucnn.backends.lanes import LaneBackend
from gpucnn.backends.numba import process
from gpucnn.backends.numba.arena import Arena
from gpucnn.backends.protocol import Array
from gpucnn.backends.tape import Tape
from gpucnn.cache import Kernels
from gpucnn.errors import BackendError
from gpucnn.kernels.numba import compiler
from gpucnn.kernels.numba.compiler import Kernel
from gpucnn.kernels.numba.simd import LANES

# Between two kernels GNU OpenMP's threads spin, by default for milliseconds: long enough to keep other processes, even
# a late thread of their own team, from running. This many turns are enough for the gap between two kernels.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

compiler.listeners.append(compilation.announce)
compiler.store = Kernels("numba")
process.check()


@functools.cache
def _turn() -> contextlib.AbstractContextManager:
    """The context in which a thread calls kernels: a lock if Numba's threading layer allows one call at a time."""
    return threading.RLock() if numba.threading_layer() == "workqueue" else contextlib.nullcontext()


class NumbaBase(LaneBackend):
    """See the protocol for what each method does; comments here explain only how."""

    name = "numba"
    lanes = LANES
    xp = np
    graph = True

    def __init__(self, threads: int, dtype: np.dtype):
        assert_subnormals()
        most = numba.config.NUMBA_NUM_THREADS
        if threads > most:
            raise BackendError(
                f"threads is {threads}, but Numba was started with {most}; set NUMBA_NUM_THREADS to change that"
            )
        self.threads = process.limit(self, threads)
        self.device = f"CPU {platform.processor() or platform.machine()}, {threads} thread{'s' * (threads > 1)}"
        self._tape, self._allocation = Tape(), threading.local()

    # ---- launching --------------------------------------------------------------------------------------------------

    def _run(self, kernel: Kernel, *arguments) -> None:
        entry = kernel.prepare(*arguments)
        if numba.get_num_threads() != self.threads:  # per Python thread
            numba.set_num_threads(self.threads)
        with _turn():
            self._tape.call(entry, *arguments)

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        if not self.graph:
            step()
            return step
        arena = Arena()
        with self._allocating(arena):
            calls = self._tape.record(step, arena.keep)

        def replay(memory=arena.blocks) -> None:
            numba.set_num_threads(self.threads)
            with _turn():
                calls()

        return replay

    def between(self, work: Callable[[], None]) -> None:
        self._tape.call(work)

    def synchronize(self) -> None:
        pass

    # ---- memory -----------------------------------------------------------------------------------------------------

    def _empty(self, shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
        """Uninitialized memory that starts at a cache line, so that no vector crosses two; in a recording, from its
        arena.
        """
        dtype = np.dtype(dtype)
        arena = getattr(self._allocation, "arena", None) or Arena()
        return arena.memory(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)

    @contextlib.contextmanager
    def _allocating(self, arena: Arena | None) -> Iterator[None]:
        """Within it this thread's memory comes from the arena; with None, nobody uses it again."""
        before = getattr(self._allocation, "arena", None)
        self._allocation.arena = arena
        try:
            yield
        finally:
            self._allocation.arena = before

    def zeros(self, shape: tuple[int, ...], dtype=None) -> Array:
        # What is written here is not recorded: it must stay as it is.
        with self._allocating(None):
            array = self._empty(shape if isinstance(shape, tuple) else (shape,), self.dtype if dtype is None else dtype)
        array[...] = 0
        return array

    def array(self, host: np.ndarray) -> Array:
        with self._allocating(None):
            array = self._empty(host.shape, host.dtype)
        array[...] = host
        return array

    def assign(self, array: Array, host: np.ndarray) -> None:
        array[...] = host

    def host(self, array: Array) -> np.ndarray:
        return np.array(array)
