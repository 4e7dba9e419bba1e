"""Compiling the kernels of a step on several processors at once, before the step runs.

Numba compiles one function at a time in a process. So a process is forked for each further processor; all claim kernels
from one pipe and leave machine code in the cache, where this process then finds what the others have made. A process
that fails costs time only: what is missing at the end is compiled when the step asks for it.
"""

import contextlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator

from numba.core.compiler_lock import global_compiler_lock

from gpucnn.backends import compilation

# Fewer kernels are compiled as fast by one process.
_FEWEST = 2
_LONGEST_WAIT = 60.0  # seconds, for a kernel that another process has claimed
CAN_FORK = sys.platform.startswith("linux") and hasattr(os, "fork")


def compile_all(jobs: list[Callable[[], object]], processes: int) -> None:
    """Run the jobs, each of which compiles a kernel into the cache, in so many processes, this one included."""
    if not CAN_FORK or processes < 2 or len(jobs) < _FEWEST:
        return
    compilation.announce(f"{len(jobs)} kernels on {processes} processors")
    left, fill = os.pipe()
    os.write(fill, b"".join(number.to_bytes(2, "little") for number in range(len(jobs))))
    os.close(fill)
    children: list[int] = []
    try:
        while len(children) < min(processes, len(jobs)) - 1:
            children.append(_fork(jobs, left))
        _work(jobs, left)
        _wait(children)
    finally:
        os.close(left)
        for child in children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _claims(left: int) -> Iterator[int]:
    """The jobs that nobody else has claimed, one by one."""
    while claim := os.read(left, 2):
        yield int.from_bytes(claim, "little")


def _work(jobs: list[Callable[[], object]], left: int) -> None:
    with compilation.silence():
        for number in _claims(left):
            jobs[number]()


def _fork(jobs: list[Callable[[], object]], left: int) -> int:
    """A child that works and ends; nothing of this process runs in it but the compiler."""
    parent = os.getpid()
    with global_compiler_lock, warnings.catch_warnings():  # no other thread compiles, so the compiler is at rest
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        with compilation.silence():
            for claim in _claims(left):
                jobs[claim]()
                if os.getppid() != parent:
                    break
    finally:
        os._exit(0)


def _wait(children: list[int]) -> None:
    """Return when all children have ended, or have taken too long; those that have ended are removed."""
    until = time.monotonic() + _LONGEST_WAIT
    while children and time.monotonic() < until:
        for child in list(children):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(child, os.WNOHANG)[0] == 0:
                    continue
            children.remove(child)
        time.sleep(0.005)
