"""A network as a program of native kernels, with all the memory that it needs: inference without Python in between."""

import numpy as np

from gpucnn.backends.numba import helpers
from gpucnn.backends.numba.channel_blocks import address, aligned
from gpucnn.inference import Unplannable
from gpucnn.kernels.numba import program
from gpucnn.kernels.numba.native import Native
from gpucnn.kernels.numba.program import AFTER_ALL, ALONE, ARGUMENTS, FUNCTION, GRAIN, IN_PLACE, ONCE, SLOTS, UNITS

# Each thread should find so many pieces of a kernel's work, so that an uneven end costs little.
_CLAIMS = 8
# A call of fewer cycles is done by one thread: sharing it costs as much.
_WORTH_SHARING = 3_000
# So many looks at units that a helper has claimed say that it has lost its core, half a millisecond; and cycles a look.
_LATE, _LOOK = 15_000, 100


class Program:
    """Kernel calls in their order. Between `begin` and the next, calls may overlap and come in any order.

    With `parts` above 1, calls that compute each image by itself are done part by part of the images: a thread takes
    some images through all of them, and waits for no other. Then memory may be a `room`.
    """

    def __init__(self, threads: int, parts: int):
        self._threads, self._parts = threads, parts
        self._section: list[tuple[Native, np.ndarray, int, float]] = []
        self._calls: list[tuple[Native, np.ndarray, int, bool, bool, float]] = []
        self._kept: list[np.ndarray] = []
        self._rooms: list[tuple[int, int, int, int]] = []
        self._readers: list[int] = []
        self._waits = False
        self._failed = np.zeros(1, np.int64)

    @property
    def failed(self) -> int:
        """Where a kernel puts 1 that finds no memory."""
        return address(self._failed)

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

    def room(self, array: np.ndarray, part: int) -> None:
        """Keep an array that is divided among the threads, where calls by image find what earlier ones have left of the
        same images. They take it for one with `part` bytes for each part.
        """
        start = self.keep(array)
        self._rooms.append((start, start + array.nbytes, part, array.nbytes // self._threads))

    def begin(self) -> None:
        """The next call waits for all before it."""
        self._waits = True

    def call(
        self,
        kernel: Native,
        slots: list[int] | dict[int, int],
        units: int,
        cycles: float,
        *,
        once: bool = False,
        by_image: bool = False,
    ) -> np.ndarray:
        """Add a call that takes so many cycles; returns its slots, int64. They may be changed between runs, but
        only those of `reads_images` if the call reads or writes a room.

        `once`: what it computes from weights holds for the further runs of one prediction. `by_image`: its units are
        those of one image after the other, and read no other image.
        """
        numbers = slots if isinstance(slots, dict) else dict(enumerate(slots))
        arguments = aligned(48, np.int64)
        for number, value in numbers.items():
            arguments[number] = value
        if by_image and self._parts > 1:
            self._section.append((kernel, arguments, units // self._parts, cycles))
        else:
            if not once:
                self._end_section()
            self._calls.append((kernel, arguments, units, self._waits, once, cycles))
        self._waits = False
        return arguments

    def _end_section(self) -> None:
        """The calls since the last one that is not by image become one, after all before it."""
        if self._section:
            records = aligned(len(self._section) * SLOTS, np.int64)
            moves: list[tuple[int, ...]] = []
            own = [np.zeros(program.LINE // 8, np.int64)]
            for number, (kernel, arguments, units, _cycles) in enumerate(self._section):
                record = records[number * SLOTS :]
                record[FUNCTION], record[ARGUMENTS], record[UNITS] = kernel.address, self.keep(arguments), units
                moved = self._moved(arguments)
                if moved:
                    record[IN_PLACE] = sum(array.nbytes for array in own)
                    moves += [(address(arguments) + 8 * i, record[IN_PLACE] + 8 * i, *by) for i, *by in moved]
                    own.append(arguments)
            place = np.concatenate(own)
            places = aligned(self._threads * place.size, np.int64)
            places.reshape(self._threads, -1)[...] = place
            table = aligned(program.MOVE_COUNT + 1, np.int64)
            table[...] = (
                *(self.keep(records), len(self._section)),
                *(self.keep(places), self._threads, place.nbytes),
                *(self.keep(np.array(moves, np.int64).reshape(-1)), len(moves)),
            )
            cycles = sum(cycles for *_, cycles in self._section)
            self._calls.append((program.section, table, self._parts, True, False, cycles))
            self._section = []

    def reads_images(self, slots: np.ndarray, number: int) -> None:
        """Slot `number` of a call is an offset into the images, where they are, and becomes an address in each run."""
        self._readers += [address(slots) + 8 * number, int(slots[number])]

    def _moved(self, slots: np.ndarray) -> list[tuple[int, int, int]]:
        """Which slots of a call differ from part to part, and by how much: no other looks like an address in a room.
        None at all if the call reads and writes no room.
        """
        moved = [
            (int(i), part, room)
            for start, end, part, room in self._rooms
            for i in np.flatnonzero((start <= slots) & (slots < end))
        ]
        changing = [(i, 0, 0) for i in range(len(slots)) if address(slots) + 8 * i in self._readers[::2]]
        return moved + changing if moved else []

    def finish(self, source: np.ndarray, target: np.ndarray, alone: bool) -> None:
        """Make the table. `source` and `target` are the slots of the calls that read images and write results; `alone`
        says that one thread is faster than several.
        """
        self._end_section()
        records, shared, longest = aligned(len(self._calls) * SLOTS, np.int64), 0, 0.0
        for number, (kernel, arguments, units, waits, once, cycles) in enumerate(self._calls):
            record = records[number * SLOTS :]
            record[FUNCTION], record[ARGUMENTS] = kernel.address, address(arguments)
            record[UNITS], record[AFTER_ALL], record[ONCE] = units, waits, once
            record[GRAIN] = -(-units // (_CLAIMS * self._threads))
            longest = max(longest, cycles / units * record[GRAIN])
            record[ALONE] = units == 1 or cycles < _WORTH_SHARING
            if not record[ALONE]:
                shared = number + 1
        readers = np.array(self._readers or [0], np.int64)
        self._table = aligned(program.PATIENCE + 1, np.int64)
        self._table[...] = (
            *(self.keep(records), len(self._calls), shared, address(source), address(target), 0),
            *(self.keep(readers), len(self._readers) // 2, _LATE + 2 * int(longest / _LOOK)),
        )
        self._address = address(self._table)
        like = np.zeros(1, np.float32)
        self._run_alone = program.run_alone.prepare(like, like, 0, 0)
        self._run_together = None
        if not alone and self._threads > 1 and 0 < shared <= program.MOST_RECORDS:
            self._run_together = program.run_together.prepare(like, like, 0, 0, 0, 0)

    def skip(self, size: int) -> None:
        """So many bytes of the images come before the first that is read."""
        self._table[program.SHIFT] = size

    def run(self, images: np.ndarray, outputs: np.ndarray, again: bool) -> bool:
        """All calls on contiguous images; returns whether their values are finite. Raises MemoryError.

        `again`: the weights are those of the run before.
        """
        finite = self._run(images, outputs, again)
        if self._failed[0]:
            self._failed[0] = 0
            raise MemoryError("a layer found no memory for what it holds while it computes")
        return finite

    def _run(self, images: np.ndarray, outputs: np.ndarray, again: bool) -> bool:
        images, outputs, staff = images.reshape(-1), outputs.reshape(-1), helpers.helpers
        if self._run_together is None or not staff.lock.acquire(blocking=False):
            return bool(self._run_alone(images, outputs, self._address, int(again)))
        try:
            if not staff.call(self._threads - 1):
                return bool(self._run_alone(images, outputs, self._address, int(again)))
            told = self._run_together(images, outputs, self._address, int(again), staff.mailbox, self._threads - 1)
            staff.learn(late=told > 1)
            return told % 2 == 1
        finally:
            staff.release()
