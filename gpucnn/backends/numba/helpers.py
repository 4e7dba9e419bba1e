"""Threads that help the one that predicts.

They watch a mailbox (kernels/numba/program.py) without Python's lock, and sleep after a while without work.
"""

import os
import threading

import numpy as np

from gpucnn.backends.numba.channel_blocks import address, aligned
from gpucnn.kernels.numba import program


class Helpers:
    """The helpers of this process. Only the thread that holds `lock` may post a program in the `mailbox`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._memory = aligned(program.MAILBOX // 8, np.int64)
        self.mailbox = address(self._memory)
        self._sleeping: list[threading.Semaphore] = []
        self._count = 0

    def call(self, count: int) -> None:
        """Have at least so many helpers, and none of them asleep for long."""
        while self._count < count:
            threading.Thread(target=self._work, args=(self._count,), name="gpucnn-helper", daemon=True).start()
            self._count += 1
        while self._sleeping:
            self._sleeping.pop().release()

    def _work(self, number: int) -> None:
        bell = threading.Semaphore(0)
        help_out = program.help_out.prepare(0, 0)
        while True:
            help_out(self.mailbox, number)
            self._sleeping.append(bell)
            bell.acquire()


helpers = Helpers()
if hasattr(os, "register_at_fork"):
    # Threads do not survive in a child, and somebody may have held the lock.
    os.register_at_fork(after_in_child=helpers.__init__)
