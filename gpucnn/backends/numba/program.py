"""A network as a program of native kernels, with all the memory that it needs: inference without Python in between."""

import numpy as np

from gpucnn.backends.numba import helpers
from gpucnn.backends.numba.channel_blocks import address, aligned
from gpucnn.inference import Unplannable
from gpucnn.kernels.numba import program
from gpucnn.kernels.numba.native import Native
from gpucnn.kernels.numba.program import AFTER_ALL, ARGUMENTS, FUNCTION, GRAIN, ONCE, SLOTS, UNITS

# Each thread should find so many pieces of a kernel's work, so that an uneven end costs little.
_CLAIMS = 8


class Program:
    """Kernel calls in their order. Between `begin` and the next, calls may overlap and come in any order."""

    def __init__(self, threads: int):
        self._threads = threads
        self._calls: list[tuple[Native, np.ndarray, int, bool, bool]] = []
        self._kept: list[np.ndarray] = []
        self._readers: list[int] = []
        self._waits = False

    def keep(self, array: np.ndarray) -> int:
        """The address of an array that lives as long as the program."""
        self._kept.append(array)
        return address(array)

    def table(self, values) -> int:
        """The address of int32 values, filled up to whole vectors with the last one."""
        values = np.asarray(values, np.int64).reshape(-1)
        if len(values) and max(abs(int(values.min())), abs(int(values.max()))) >= 2**31:
            raise Unplannable("an image takes 2 GiB or more")
        filled = aligned(-(-max(len(values), 1) // 16) * 16, np.int32)
        filled[: len(values)] = values
        filled[len(values) :] = values[-1] if len(values) else 0
        return self.keep(filled)

    def begin(self) -> None:
        """The next call waits for all before it."""
        self._waits = True

    def call(self, kernel: Native, slots: list[int] | dict[int, int], units: int, once: bool = False) -> np.ndarray:
        """Add a call; returns its slots, int64, which may be changed between runs.

        `once`: what it computes from weights holds for the further runs of one prediction.
        """
        numbers = slots if isinstance(slots, dict) else dict(enumerate(slots))
        arguments = aligned(48, np.int64)
        for number, value in numbers.items():
            arguments[number] = value
        self._calls.append((kernel, arguments, units, self._waits, once))
        self._waits = False
        return arguments

    def reads_images(self, slots: np.ndarray, number: int) -> None:
        """Slot `number` of a call is an offset into the images, where they are, and becomes an address in each run."""
        self._readers += [address(slots) + 8 * number, int(slots[number])]

    def finish(self, source: np.ndarray, target: np.ndarray, alone: bool) -> None:
        """Make the table. `source` and `target` are the slots of the calls that read images and write results; `alone`
        says that one thread is faster than several.
        """
        self._records = aligned(len(self._calls) * SLOTS, np.int64)
        for number, (kernel, arguments, units, waits, once) in enumerate(self._calls):
            record = self._records[number * SLOTS :]
            record[FUNCTION], record[ARGUMENTS] = kernel.address, address(arguments)
            record[UNITS], record[AFTER_ALL], record[ONCE] = units, waits, once
            record[GRAIN] = -(-units // (_CLAIMS * self._threads))
        readers = np.array(self._readers or [0], np.int64)
        self._ends = address(source), address(target)
        self._direct = self.keep(readers), len(self._readers) // 2
        self._table = address(self._records), len(self._calls)
        like = np.zeros(1, np.float32)
        self._run_alone = program.run_alone.prepare(like, like, *[0] * 8)
        self._run_together = None
        if not alone and self._threads > 1 and len(self._calls) <= program.MOST_RECORDS:
            self._run_together = program.run_together.prepare(like, like, *[0] * 10)

    def run(self, images: np.ndarray, outputs: np.ndarray, shift: int, again: bool) -> bool:
        """All calls on contiguous images, `shift` bytes into each; returns whether their values are finite.

        `again`: the weights are those of the run before.
        """
        given = images.reshape(-1), outputs.reshape(-1), *self._ends, shift, *self._direct, *self._table, int(again)
        staff = helpers.helpers
        if self._run_together is None or not staff.lock.acquire(blocking=False):
            return bool(self._run_alone(*given))
        try:
            if not staff.call(self._threads - 1):
                return bool(self._run_alone(*given))
            told = self._run_together(*given, staff.mailbox, self._threads - 1)
            staff.learn(late=told > 1)
            return told % 2 == 1
        finally:
            staff.lock.release()
