"""Processes that MPI connects, by mpi4py."""

import atexit
import contextlib
import functools
import sys
from typing import Any

import numpy as np

from gpucnn.errors import BackendError
from gpucnn.extras import install
from gpucnn.parallel.processes import Processes
from gpucnn.parallel.program import check_program
from gpucnn.parallel.watch import TIME_LIMIT, Watch


class MpiProcesses(Processes):
    """All processes of MPI.COMM_WORLD. An uncaught exception in one of them ends all."""

    def __init__(self, time_limit: float):
        super().__init__()
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:  # RuntimeError: without an MPI library
            raise BackendError(
                f"this process was started with others by mpirun, but mpi4py cannot be used ({error}): {install('mpi')}"
            ) from None
        self._world, self._bytes = MPI.COMM_WORLD, MPI.BYTE
        self.size, self.rank = self._world.Get_size(), self._world.Get_rank()
        self.watch = Watch(self.rank, self.size, time_limit)
        self.checked = False  # whether all run the same gpucnn
        shown = sys.excepthook

        def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
            shared = getattr(error, "shared", False)  # then all end, one after the other
            if self.first or not shared:
                shown(kind, error, trace)
            if not shared:
                self.leave(1)

        sys.excepthook = hook
        atexit.register(self.watch.stop)

    def _gather(self, mine: np.ndarray, into: np.ndarray) -> None:
        with self.watch:
            self._world.Allgather([mine, self._bytes], [into, self._bytes])

    def _swap(self, mine: np.ndarray, into: np.ndarray) -> None:
        with self.watch:
            self._world.Alltoall([mine, self._bytes], [into, self._bytes])

    def everyone(self, value: Any) -> list:
        with self.watch:
            return self._world.allgather(value)

    def from_first(self, value: Any) -> Any:
        with self.watch:
            return self._world.bcast(value, root=0)

    def leave(self, code: int) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # full or closed: all end nevertheless
                if stream is not None:
                    stream.flush()
        self._world.Abort(code)


@functools.cache
def _world() -> MpiProcesses:
    return MpiProcesses(TIME_LIMIT)


def world(time_limit: float | None = None) -> MpiProcesses:
    """All processes that were started together, the same object each time; a `time_limit` in seconds stays.

    Raises ProcessError where they do not all run the same gpucnn.
    """
    processes = _world()
    if time_limit is not None:
        processes.watch.limit = time_limit
    if not processes.checked:
        check_program(processes)
        processes.checked = True
    return processes
