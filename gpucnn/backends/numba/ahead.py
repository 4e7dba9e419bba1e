"""Compiling the kernels of a step on several processors at once, before the step runs.

Numba compiles one function at a time in a process. So a process is forked for each further processor; all claim kernels
from one pipe and leave machine code in the cache, where this process then finds what the others have made. A process
that fails, or that the system refuses to start, costs time only: what is missing at the end is compiled when the step
asks for it.
"""

import contextlib
import functools
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator

from numba.core.compiler_lock import global_compiler_lock

from gpucnn.backends import compilation

# Fewer kernels are compiled as fast by one process.
FEWEST = 2
_LONGEST_WAIT = 60.0  # seconds, for a kernel that another process has claimed
CAN_FORK = sys.platform.startswith("linux") and hasattr(os, "fork")


def compile_all(jobs: list[Callable[[], object]], processes: int) -> None:
    """Run the jobs, each of which compiles a kernel into the cache, in so many processes, this one included."""
    if len(jobs) < FEWEST:
        return
    try:
        left = _claimable(len(jobs))
    except OSError as error:
        tell_of_refusal(error.strerror)
        return
    children: list[int] = []
    try:
        _start(children, min(processes, len(jobs)) - 1, jobs, left)
        _work(jobs, left)
        _wait(children)
    finally:
        os.close(left)
        end(children)


def begin_all(jobs: list[Callable[[], object]], processes: int) -> tuple[list[int], int]:
    """Run the jobs as compile_all does, in so many processes beside this one; returns their numbers, and a pipe from
    which the number of each job that is done can be read (`finished`). Raises OSError where the system has no pipe.
    """
    left = _claimable(len(jobs))
    try:
        done, tell = os.pipe()
    except OSError:
        os.close(left)
        raise
    os.set_blocking(done, False)
    children: list[int] = []
    try:
        _start(children, min(processes, len(jobs)), jobs, left, tell)
        return children, done
    except BaseException:
        end(children)
        os.close(done)
        raise
    finally:
        os.close(left)
        os.close(tell)


def finished(done: int) -> Iterator[int]:
    """The numbers of the jobs that were done since the last look."""
    with contextlib.suppress(BlockingIOError):
        yield from _numbers(done)


def remove_ended(children: list[int]) -> None:
    """Remove the processes that have ended from the list."""
    for child in list(children):
        with contextlib.suppress(ChildProcessError):  # somebody else has asked for its end
            if os.waitpid(child, os.WNOHANG)[0] == 0:
                continue
        children.remove(child)


def end(children: list[int]) -> None:
    """End these processes now."""
    for child in children:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _claimable(count: int) -> int:
    """A pipe from which each job's number can be read once."""
    left, fill = os.pipe()
    os.write(fill, b"".join(number.to_bytes(2, "little") for number in range(count)))
    os.close(fill)
    return left


def _numbers(pipe: int) -> Iterator[int]:
    """The jobs whose numbers nobody else has read, one by one."""
    while number := os.read(pipe, 2):
        yield int.from_bytes(number, "little")


def _work(jobs: list[Callable[[], object]], left: int) -> None:
    with compilation.silence():
        for number in _numbers(left):
            compilation.count(len(jobs) - number)
            jobs[number]()
    compilation.count(0)


def _start(children: list[int], count: int, *work) -> None:
    """Add so many processes to the list, or fewer where the system refuses one."""
    try:
        for _ in range(count):
            children.append(_fork(*work))
    except OSError as error:
        tell_of_refusal(error.strerror)


@functools.cache  # once
def tell_of_refusal(reason: str) -> None:
    """Say why fewer processes compile, or none beside this one."""
    compilation.announce(f"on fewer processors, since the system refuses to start another process ({reason})")


def _fork(jobs: list[Callable[[], object]], left: int, tell: int | None = None) -> int:
    """A child that works and ends; nothing of this process runs in it but the compiler.

    With `tell`, a pipe for the numbers of jobs that are done, the parent may end before it: it keeps none of the
    parent's other files and locks.
    """
    parent = os.getpid()
    with global_compiler_lock, warnings.catch_warnings():  # no other thread compiles, so the compiler is at rest
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    try:
        for ending in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ending, signal.SIG_DFL)
        if tell is not None:
            _close_all_but(left, tell)
        with compilation.silence():
            for number in _numbers(left):
                jobs[number]()
                if tell is not None:
                    os.write(tell, number.to_bytes(2, "little"))
                if os.getppid() != parent:
                    break
    finally:
        os._exit(0)


def _wait(children: list[int]) -> None:
    """Return when all children have ended, or have taken too long; those that have ended are removed."""
    until = time.monotonic() + _LONGEST_WAIT
    while children and time.monotonic() < until:
        remove_ended(children)
        time.sleep(0.005)


def _close_all_but(*kept: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):  # the folder's own, which is closed by now
                os.close(int(name))
