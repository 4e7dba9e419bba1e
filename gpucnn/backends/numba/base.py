"""Memory and launches of the CPU backend.

Every operation reshapes its arguments to three spatial axes (leading ones of size 1) and launches one or a few kernels;
the operations are in the other files of this folder, one per family of kernels. While `capture` records, each launch is
also kept, so that a training step repeats as one call of native code, which goes through a table of kernels and their
arguments with nothing checked or allocated again.
"""

import contextlib
import ctypes
import functools
import itertools
import math
import platform
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Self

import numba
import numpy as np

from gpucnn.arithmetic import assert_subnormals
from gpucnn.backends import compilation
from gpucnn.backends.lanes import LaneBackend
from gpucnn.backends.numba import ahead, general, process
from gpucnn.backends.numba.arena import LINE, Arena
from gpucnn.backends.numba.helpers import Helpers, helpers
from gpucnn.backends.numba.later import Jobs, later
from gpucnn.backends.protocol import Array
from gpucnn.backends.tape import Tape
from gpucnn.cache import Kernels, refusal
from gpucnn.errors import BackendError
from gpucnn.kernels.numba import compiler
from gpucnn.kernels.numba.arguments import table
from gpucnn.kernels.numba.compiler import Kernel
from gpucnn.kernels.numba.simd import LANES

compiler.listeners.append(compilation.announce)
compiler.store = Kernels("numba")
process.check()


class Launch:
    """Launches of kernels one after the other, by so many threads. The arrays among their arguments must stay."""

    def __init__(self, calls: list[tuple[Kernel, tuple]], threads: int):
        self._tables = [table(arguments) for _, arguments in calls]
        self._words, self._count, self._threads = array("q"), len(calls), threads
        for (kernel, arguments), numbers in zip(calls, self._tables, strict=True):
            self._words.extend((kernel.prepare(*arguments), numbers.buffer_info()[0]))

    def __call__(self, staff: Helpers = helpers) -> None:
        staff.lead(self._words.buffer_info()[0], self._count, self._threads)


def _is_small(job) -> bool:
    """Whether a kernel takes less long to compile than others; of an item of Jobs."""
    (kernel, _), _ = job
    return "conv" not in kernel.name and "weight" not in kernel.name


class _Foreseen(threading.local):
    """What is to be compiled for the step that this thread prepares, `jobs` before it runs and `special` while it runs;
    None: it prepares none.
    """

    jobs: Jobs | None = None
    special: list[tuple[Kernel, tuple]]  # once a use


class NumbaBase(LaneBackend):
    """See the protocol for what each method does; comments here explain only how."""

    name = "numba"
    lanes = LANES
    xp = np
    graph = splits = packs_weights = True

    def __init__(self, threads: int, dtype: np.dtype):
        assert_subnormals()
        most = numba.config.NUMBA_NUM_THREADS
        if threads > most:
            raise BackendError(
                f"threads is {threads}, but Numba was started with {most}; set NUMBA_NUM_THREADS to change that"
            )
        self.threads = threads
        self.device = f"CPU {platform.processor() or platform.machine()}, {threads} thread{'s' * (threads > 1)}"
        self._tape, self._foreseen, self._allocation = Tape(), _Foreseen(), threading.local()

    # ---- launching --------------------------------------------------------------------------------------------------

    def _run(self, kernel: Kernel, *arguments) -> None:
        if self._foreseen.jobs is None:
            self._tape.call(self._launch, kernel, *arguments)
        elif signature := kernel.missing(*arguments):
            self._foreseen.jobs[kernel, signature] = functools.partial(kernel.compile, signature)

    def _try(self, *launches: tuple) -> bool:
        """Run kernels that were made for one shape, each with its arguments; False if some are still being compiled.

        Then a general kernel has to do, as long as steps are prepared, and none of these has run.
        """
        if self.replaced is not None:
            self.replaced += 1
            return False
        have = [self._has(*launch) for launch in launches]
        if not all(have):
            return False
        if self._foreseen.jobs is None:  # else each was looked up in the cache just now
            for launch in launches:
                self._run(*launch)
        return True

    def _has(self, kernel: Kernel, *arguments) -> bool:
        if self._foreseen.jobs is None:
            return not (later.is_busy and later.is_awaited(kernel, kernel.signature(arguments)))
        signature = kernel.missing(*arguments)
        if signature is not None:
            self._foreseen.special.append((kernel, signature))
        return signature is None

    def _launch(self, kernel: Kernel, *arguments) -> None:
        Launch([(kernel, arguments)], self.threads)()

    def prepare(self, step: Callable[[], None]) -> None:
        if not ahead.CAN_FORK or self.threads == 1 or compiler.store is None:
            return
        foreseen, jobs = self._foreseen, Jobs()
        uses: list[tuple[Kernel, tuple]] = []
        foreseen.jobs, foreseen.special = jobs, uses
        first = helpers.missing()
        try:
            step()
            if first:
                foreseen.special = []  # of shapes that nobody has asked for
                general.operations(self)
        finally:
            foreseen.jobs = None
        special = [job for job, _ in Counter(uses).most_common() if job not in jobs and not later.is_awaited(*job)]
        # The largest first, so that all end at about the same time.
        now = [*first, *(job for _, job in sorted(jobs.items(), key=_is_small))]
        if (now or special) and refusal():
            return  # other processes hand over what they compile in the cache
        told = [f"{len(now)} kernels on {self.threads} processors"] * (len(now) >= ahead.FEWEST)
        told += [f"{len(special)} faster kernel{'s' * (len(special) > 1)} meanwhile"] * bool(special)
        if told:
            compilation.announce(", ".join(told))
        ahead.compile_all(now, self.threads)
        later.compile({(k, s): functools.partial(k.compile, s) for k, s in special}, max(1, self.threads // 2))

    def arrivals(self) -> int:
        return later.arrivals()

    def general(self) -> Self:
        made = object.__new__(type(self))  # copy.copy gives the same one
        vars(made).update(vars(self), replaced=0)
        return made

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        if not self.graph:
            step()
            return step
        arena = Arena()
        with self._allocating(arena):
            recorded = self._tape.entries(step, arena.keep)
        parts: list[Callable[[], None]] = []
        for is_launch, entries in itertools.groupby(recorded, lambda entry: entry[0] == self._launch):
            if is_launch:
                parts.append(Launch([(kernel, tuple(rest)) for _, (kernel, *rest) in entries], self.threads))
            else:
                parts += [function for function, _ in entries]

        def replay(memory=(recorded, arena.blocks)) -> None:
            for part in parts:
                part()

        return replay

    def between(self, work: Callable[[], None]) -> None:
        if self._foreseen.jobs is not None:
            return

        def alone() -> None:
            with self._tape.paused(), self._allocating(None):
                work()

        self._tape.call(alone)

    @property
    def is_recording(self) -> bool:
        return self._tape.is_recording

    def synchronize(self) -> None:
        pass

    # ---- memory -----------------------------------------------------------------------------------------------------

    def _empty(self, shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
        """Uninitialized memory that starts at a cache line, so that no vector crosses two; in a recording, from its
        arena.
        """
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if arena := getattr(self._allocation, "arena", None):
            return arena.memory(size).view(dtype).reshape(shape)
        block = np.empty(size + LINE, np.uint8)
        return np.ndarray(shape, dtype, block, -ctypes.addressof(ctypes.c_char.from_buffer(block.data)) % LINE)

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
