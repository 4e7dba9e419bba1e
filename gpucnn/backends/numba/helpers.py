"""Threads that help the one that trains or predicts.

They watch a mailbox (kernels/numba/program.py) and a team's rounds (kernels/numba/team.py) without Python's lock, and
sleep after a while without work. On a busy machine a helper may lose its core in the middle of its work, and everybody
waits for it: then it is left alone for a while.
"""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable
from time import perf_counter

import numpy as np

from gpucnn.backends.numba.channel_blocks import address, aligned
from gpucnn.kernels.numba import program, team

# Seconds: a scheduler takes a core away for some milliseconds.
_PAUSE, _LONGEST_PAUSE = 0.002, 0.064


class Helpers:
    """The helpers of this process. Only the thread that holds `lock` may post a program in the `mailbox` or lead the
    `team`.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Without any helper yet, as in a process that has just started."""
        # A signal's exception, such as Ctrl-C's, right after it was taken leaves it with that thread: it may take it
        # again, and others work alone.
        self.lock = threading.RLock()
        self._memory = aligned(program.MAILBOX // 8, np.int64)
        self.mailbox = address(self._memory)
        self._rounds = aligned(team.SLOTS, np.int64)
        self._rounds[:] = 0
        self._rounds[team.PROCESSOR] = -1
        self.team = address(self._rounds)
        self._sleeping: list[tuple[threading.Semaphore, int]] = []  # with the system's number of the thread
        self._count, self._refused = 0, False
        self._works = False  # there is work for helpers
        self._alone_until, self._pause = 0.0, _PAUSE
        self._left_alone = False  # the team's leader goes on alone at present

    def call(self, count: int) -> bool:
        """Have at least so many helpers, and none of them asleep for long; False if they are better left alone."""
        if self._alone_until:
            if perf_counter() < self._alone_until:
                return False
            self._alone_until = 0.0
        self._works = True
        self._wake(count)
        return True

    def lead(self, calls: int, count: int, threads: int) -> None:
        """Run `count` kernels of the table at the address `calls` with a team of so many threads, or with one if
        another thread leads the team.
        """
        run, threads = self._run_calls, min(threads, team.MOST_THREADS)
        if threads == 1 or not self.lock.acquire(blocking=False):
            run(calls, count, 0, 1)
            return
        try:
            if not self._left_alone:
                self._works = True
                self._wake(threads - 1)
            self._left_alone = run(calls, count, self.team, threads)
        finally:
            self.release()

    def release(self) -> None:
        """Let go of the lock: there is no work for helpers."""
        self._works = False
        self.lock.release()

    def missing(self) -> list[Callable[[], object]]:
        """What compiles the code of leaders and helpers that is not in the cache."""
        found = ((program.run_calls, (0,) * 4), (program.help_out, (0,) * 3))
        return [functools.partial(f.prepare, *arguments) for f, arguments in found if f.missing(*arguments)]

    @functools.cached_property
    def _run_calls(self) -> Callable:
        return program.run_calls.prepare(0, 0, 0, 0)

    def _wake(self, count: int) -> None:
        count = min(count, team.MOST_THREADS - 1)  # each looks at a queue of its own
        while self._count < count and not self._refused:
            self._help = program.help_out.prepare(0, 0, 0)
            helper = threading.Thread(target=self._work, args=(self._count,), name="gpucnn-helper", daemon=True)
            try:
                helper.start()
                self._count += 1
            except RuntimeError:  # nobody waits for a helper that is not there
                self._refused = True
                had = f"{self._count + 1} of {count + 1} threads compute"
                print(f"gpucnn: {had}, since the system refuses to start another (ulimit -u)", file=sys.stderr)
        while self._sleeping:
            bell, thread = self._sleeping.pop()
            _keep_away(thread)
            bell.release()

    def learn(self, late: bool) -> None:
        """Whether a helper kept the last run waiting."""
        if late:
            self._alone_until = perf_counter() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        elif self._pause > _PAUSE:
            self._pause = max(0.9 * self._pause, _PAUSE)

    def _work(self, number: int) -> None:
        bell = threading.Semaphore(0)
        while True:
            self._help(self.mailbox, self.team, number)
            if not self._works:  # or the work began while this thread waited for Python's lock
                self._sleeping.append((bell, threading.get_native_id()))
                bell.acquire()


def _keep_away(thread: int) -> None:
    """Keep a thread from this thread's processor, where systems like to wake it, and where it would wait for us."""
    if team.current_processor is None or not hasattr(os, "sched_setaffinity"):
        return
    others = os.sched_getaffinity(0) - {team.current_processor()}
    if others:
        with contextlib.suppress(OSError):  # the system has other plans
            os.sched_setaffinity(thread, others)


helpers = Helpers()
if hasattr(os, "register_at_fork"):
    # Threads do not survive in a child, and somebody may have held the lock.
    os.register_at_fork(after_in_child=helpers.begin)
