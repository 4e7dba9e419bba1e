"""Kernels made for one shape, compiled while a step already runs on more general ones.

No bit depends on which kernel computes, so a training starts on kernels that serve every network and moves to those of
its own shapes as they arrive: RecordedStep asks `arrivals` before each step.
"""

import atexit
import os
import threading
from collections.abc import Callable
from time import monotonic, sleep

from gpucnn.backends.numba import ahead
from gpucnn.kernels.numba.compiler import Kernel

Jobs = dict[tuple[Kernel, tuple], Callable[[], object]]
# Seconds between two looks at what has been compiled, and between two arrivals: after each, steps are recorded again.
_PAUSE, _TOGETHER = 0.1, 5.0


class Later:
    """The kernels of this process that others are compiling. Several threads may use it."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Without any kernel under way, as in a process that has just started."""
        self._lock = threading.Lock()
        self._jobs: Jobs = {}  # in the order of their numbers
        self._awaited: set[tuple[Kernel, tuple]] = set()
        self._following: Jobs = {}
        self._children: list[int] = []
        self._processes, self._done = 1, -1
        self._arrivals, self._news = 0, False
        self._looked = self._arrived = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether any kernel is on its way, or a process that compiled the last ones has not ended yet."""
        if self._jobs:
            self.arrivals()
        return bool(self._jobs)

    def is_awaited(self, kernel: Kernel, signature: tuple) -> bool:
        """Whether this one is on its way."""
        return (kernel, signature) in self._awaited

    def compile(self, jobs: Jobs, processes: int) -> None:
        """Have the kernels compiled by so many processes, the first ones first, after those that are under way."""
        with self._lock:
            self._following |= {job: work for job, work in jobs.items() if not self.is_awaited(*job)}
            self._awaited |= set(jobs)
            self._processes = processes
            self._start()

    def _start(self) -> None:
        if self._following and not self._jobs:
            self._jobs, self._following = self._following, {}
            self._arrived = monotonic()
            try:
                self._children, self._done = ahead.begin_all(list(self._jobs.values()), self._processes)
            except BaseException as error:
                self._awaited -= set(self._jobs)
                self._jobs = {}
                if not isinstance(error, OSError):
                    raise
                ahead.tell_of_refusal(error.strerror)

    def arrivals(self) -> int:
        """How often kernels have arrived, some together."""
        if self._jobs and monotonic() >= self._looked + _PAUSE:
            with self._lock:
                self._look()
        return self._arrivals

    def _look(self) -> None:
        if not self._jobs:  # another thread has just seen the last ones arrive
            return
        self._looked = monotonic()
        every, awaited = list(self._jobs), len(self._awaited)
        ahead.remove_ended(self._children)
        self._awaited -= {every[number] for number in ahead.finished(self._done)}
        if not self._children:  # what failed, or was never begun, is compiled where it is needed
            self._awaited -= set(every)
            self._jobs = {}
            os.close(self._done)
            self._start()
        self._news |= len(self._awaited) < awaited
        if self._news and (not self._jobs or self._looked >= self._arrived + _TOGETHER):
            self._arrivals, self._arrived, self._news = self._arrivals + 1, self._looked, False

    def wait(self) -> None:
        """Until every kernel has arrived."""
        while self.is_busy:
            sleep(_PAUSE / 10)

    def end(self) -> None:
        """End the processes; what has not arrived is compiled where it is needed."""
        with self._lock:
            ahead.end(self._children)
            if self._jobs:
                os.close(self._done)
            self._jobs, self._following, self._children = {}, {}, []
            self._awaited.clear()
            self._arrivals += 1


later = Later()
atexit.register(later.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=later.begin)  # what is under way is the parent's
