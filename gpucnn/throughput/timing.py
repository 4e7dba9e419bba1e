"""Interleaved timing: contenders run in short slices, one after the other, round after round.

A machine's speed can change twofold within minutes, so only what ran at about the same time can be compared: a ratio
is the median of the ratios within each round. Every slice is kept and counted. If the system reports how busy its
processors were, a slice during which other processes used more than a few percent of them counts as disturbed; figures
are taken from the quiet slices if there are enough of them, else from all, and say which.
"""

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

# A slice is disturbed if other processes used more than this fraction of all processors.
DISTURBED = 0.08
# With so many quiet slices, the disturbed ones are left out.
ENOUGH = 8
# Repetitions too short for the clock are timed in groups of at least this duration.
_GROUP_SECONDS = 0.002


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Contender:
    """What is timed: `call` does the work once.

    `synchronize` waits until the work is done, if `call` only queues it. A slice runs within `context()`, which may set
    a thread count. `elapsed` runs a function, waits for it and returns the seconds that it took by the device's own
    clock; without it there is only the host's clock.
    """

    call: Callable[[], Any]
    synchronize: Callable[[], Any] = _nothing
    context: Callable[[], Any] = contextlib.nullcontext
    elapsed: Callable[[Callable[[], Any]], float] | None = None


@dataclass(frozen=True)
class Slice:
    """`seconds` per repetition, one entry per group; `others`: the fraction of all processors used by other processes.

    `device`: the seconds of the same repetitions by the device's clock; empty if there is none.
    """

    round: int
    seconds: list[float]
    others: float | None
    device: list[float] = field(default_factory=list)

    @property
    def quiet(self) -> bool:
        return self.others is None or self.others < DISTURBED


@dataclass
class Timing:
    """All slices of one contender. Times are seconds per repetition."""

    slices: list[Slice] = field(default_factory=list)

    @property
    def quiet(self) -> int:
        """How many slices were not disturbed."""
        return sum(s.quiet for s in self.slices)

    @property
    def samples(self) -> list[float]:
        """The times used for figures: of the quiet slices if there are enough, else of all."""
        return [seconds for s in self._used for seconds in s.seconds]

    @property
    def device(self) -> float | None:
        """The median by the device's own clock, of the same repetitions as `median`; None if there is none."""
        samples = [seconds for s in self._used for seconds in s.device]
        return statistics.median(samples) if samples else None

    @property
    def _used(self) -> list[Slice]:
        return [s for s in self.slices if s.quiet] if self.quiet >= ENOUGH else self.slices

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the samples is faster than the first, a quarter slower than the second."""
        return quartiles(self.samples)

    def describe(self) -> dict:
        """How much was measured, for reports."""
        return {
            "samples": sum(len(s.seconds) for s in self.slices),
            "slices": len(self.slices),
            "quiet_slices": self.quiet,
            "figures_from": "quiet slices" if self.quiet >= ENOUGH else "all slices",
        }


def quartiles(values: Iterable[float]) -> tuple[float, float]:
    """The values a quarter and three quarters up the sorted list."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 4], ordered[-1 - (len(ordered) - 1) // 4]


def ratio(mine: Timing, other: Timing) -> dict:
    """The speed of `mine` relative to `other`: median and quartiles over the rounds that both took part in.

    Uses the rounds that were quiet for both if there are enough (then `quiet` is True), else all. Empty if no round is
    shared.
    """
    theirs = {s.round: s for s in other.slices}
    pairs = [(s, theirs[s.round]) for s in mine.slices if s.round in theirs]
    quiet = [pair for pair in pairs if pair[0].quiet and pair[1].quiet]
    used = quiet if len(quiet) >= ENOUGH else pairs
    if not used:
        return {}
    ratios = [statistics.median(b.seconds) / statistics.median(a.seconds) for a, b in used]
    return {
        "ratio": statistics.median(ratios),
        "quartiles": list(quartiles(ratios)),
        "rounds": len(used),
        "quiet": used is quiet,
    }


def interleave(contenders: dict[Any, Contender], seconds: float, *, patience: float = 1.0) -> dict[Any, Timing]:
    """Time the contenders in turns until each has run for `seconds`, in slices of a tenth of that, 0.12 s at most.

    A contender whose slices were disturbed continues until it has enough quiet ones or has run `patience` times that
    long. Every round reverses the order of the one before, so that no contender always follows the same one. Each
    contender must have been called before: the cost of a first call (compilation) is not measured here.
    """
    timings = {key: Timing() for key in contenders}
    spent = dict.fromkeys(contenders, 0.0)
    groups = {key: _group(contender) for key, contender in contenders.items()}
    slice_seconds = min(0.12, seconds / 10)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        number = 0
        while True:
            active = [
                key
                for key in contenders
                if spent[key] < seconds or (timings[key].quiet < ENOUGH and spent[key] < patience * seconds)
            ]
            if not active:
                return timings
            for key in active if number % 2 == 0 else reversed(active):
                started = time.perf_counter()
                timings[key].slices.append(_slice(contenders[key], groups[key], slice_seconds, number))
                spent[key] += time.perf_counter() - started
            number += 1
    finally:
        if collecting:
            gc.enable()


def _group(contender: Contender) -> int:
    """The number of repetitions that are timed together."""
    with contender.context():
        contender.call()
        contender.synchronize()
        started = time.perf_counter()
        contender.call()
        contender.synchronize()
        once = time.perf_counter() - started
    return max(1, round(_GROUP_SECONDS / max(once, 1e-7)))


def _slice(contender: Contender, group: int, slice_seconds: float, number: int) -> Slice:
    call, synchronize, elapsed = contender.call, contender.synchronize, contender.elapsed
    samples, device = [], []

    def repeat() -> None:
        for _ in range(group):
            call()

    with contender.context():
        call()  # brings its data back into the caches and wakes its threads
        synchronize()
        load = Load()
        begun = now = time.perf_counter()
        while now - begun < slice_seconds:
            started = now
            if elapsed is None:
                repeat()
                synchronize()
            else:
                device.append(elapsed(repeat) / group)
            now = time.perf_counter()
            samples.append((now - started) / group)
        others = load.of_others()
    return Slice(number, samples, others, device)


class Load:
    """What other processes use of the processors, from when it is made."""

    def __init__(self):
        self._busy, self._own, self._begun = busy_seconds(), time.process_time(), time.perf_counter()

    def of_others(self) -> float | None:
        """The part of all processors that they have used so far; None if the system does not say."""
        busy, own = busy_seconds(), time.process_time() - self._own
        if self._busy is None or busy is None:
            return None
        passed = time.perf_counter() - self._begun
        return max(0.0, (busy - self._busy - own) / (passed * (os.cpu_count() or 1)))


def busy_seconds() -> float | None:
    """Processor seconds that all processes together have used since the machine started; None if unknown."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _idle, _wait, *interrupts = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
