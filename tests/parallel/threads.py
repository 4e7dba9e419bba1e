"""Processes that are threads of this one: the exchange is replaced, everything else is what runs under mpirun."""

import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.parallel import Processes

_LIMIT = 900.0  # seconds for a thread that never comes


class Meeting:
    """Where the threads lay down what they give to the others."""

    def __init__(self, size: int):
        self.barrier, self.values = threading.Barrier(size), [None] * size


class ThreadProcesses(Processes):
    """One of the threads that `run` starts."""

    def __init__(self, rank: int, size: int, meeting: Meeting):
        super().__init__()
        self.rank, self.size, self._meeting = rank, size, meeting

    def everyone(self, value: Any) -> list:
        meeting = self._meeting
        meeting.values[self.rank] = pickle.dumps(value)
        meeting.barrier.wait(_LIMIT)
        values = [pickle.loads(data) for data in meeting.values]
        meeting.barrier.wait(_LIMIT)
        return values

    def from_first(self, value: Any) -> Any:
        return self.everyone(value)[0]

    def _gather(self, mine: np.ndarray, into: np.ndarray) -> None:
        into[...] = np.stack(self.everyone(mine))

    def _swap(self, mine: np.ndarray, into: np.ndarray) -> None:
        into[...] = np.stack([other[self.rank] for other in self.everyone(mine)])


def run(size: int, work: Callable[[Processes], Any]) -> list:
    """What `work` returns in each of `size` threads; the first error that one raises."""
    meeting, results, errors = Meeting(size), [None] * size, []

    def one(rank: int) -> None:
        try:
            results[rank] = work(ThreadProcesses(rank, size, meeting))
        except BaseException as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors.sort(key=lambda error: isinstance(error, threading.BrokenBarrierError))
    if errors:
        raise errors[0]
    return results
