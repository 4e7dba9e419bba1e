"""Gives up waiting for processes that do not come: one that died, was stopped, or hangs."""

import os
import re
import threading

TIME_LIMIT = 600.0  # seconds; the others may be compiling kernels, or writing a checkpoint to a slow disk
LOST = 3  # exit code
GIVEN_UP = re.compile(r"gpucnn: process \d+ of \d+ has waited ")  # how the line begins that a watch says
_TICKS = 50  # a limit
_APART = 10.0  # seconds, in which a busy machine ends the rest


class Watch:
    """A context manager around whatever waits for other processes. After `limit` seconds inside, this process says so
    and ends, and the launcher ends the rest. MPI's own calls wait for ever.

    Time is counted in sleeps of this thread, so that a machine that was suspended has not used it up.
    """

    def __init__(self, rank: int, size: int, limit: float):
        self.rank, self.size, self.limit = rank, size, limit
        self._entered = self._seen = 0
        self._inside = False
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="gpucnn-watch", daemon=True).start()

    def __enter__(self) -> None:
        self._entered += 1
        self._inside = True

    def __exit__(self, *error: object) -> None:
        self._inside = False

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    def _run(self) -> None:
        ticks, seen = 0, 0
        while not self._stopped.wait(self.limit / _TICKS):
            ticks = ticks + 1 if self._inside and self._entered == seen else 0
            seen = self._entered
            # One after the other, so that one alone speaks: the launcher ends the rest as soon as it has gone.
            if ticks >= _TICKS * (1 + self.rank * _APART / self.limit):
                self._give_up()

    def _give_up(self) -> None:
        text = (
            f"gpucnn: process {self.rank} of {self.size} has waited {self.limit:g} seconds for the others, of which "
            "one has died, was stopped or hangs; all end now, and what the last checkpoint holds is safe: continue "
            "with --resume (resume=True)\n"
        )
        try:
            os.write(2, text.encode())
        finally:
            os._exit(LOST)
