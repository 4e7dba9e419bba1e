"""The processes that train together, and what they say to one another.

`mpirun -n 4 python script.py` starts four; `join` finds them. Nothing here needs MPI in a process that was started
alone.
"""

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

import gpucnn.errors
from gpucnn.arguments import number
from gpucnn.errors import ConfigurationError, GpucnnError, ProcessError
from gpucnn.schema import difference

# What Open MPI, MPICH and its relatives, and Slurm's srun tell a process that they start.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
_LONGEST = 1e9  # seconds: threads cannot wait for much longer

Result = TypeVar("Result")


class Processes(ABC):
    """`size` processes, of which this is number `rank`; the first, 0, writes files and speaks.

    `sent` counts (messages, bytes) that this process handed over for sums, from all training steps. `on_host`: whether
    sums are exchanged in the memory of the host even between GPUs.
    """

    size = 1
    rank = 0
    on_host = False

    def __init__(self) -> None:
        self.sent = [0, 0]

    @property
    def first(self) -> bool:
        return self.rank == 0

    def gather(self, mine: np.ndarray, into: np.ndarray) -> None:
        """into[r] = what process r calls `mine`, for all r; into (size, *mine.shape), both contiguous."""
        self.sent[0] += 1
        self.sent[1] += mine.nbytes
        self._gather(mine, into)

    def swap(self, mine: np.ndarray, into: np.ndarray) -> None:
        """into[r] = mine[rank] of process r, for all r; both (size, ...) and contiguous."""
        self.sent[0] += 1
        self.sent[1] += mine.nbytes
        self._swap(mine, into)

    @abstractmethod
    def _gather(self, mine: np.ndarray, into: np.ndarray) -> None: ...

    @abstractmethod
    def _swap(self, mine: np.ndarray, into: np.ndarray) -> None: ...

    @abstractmethod
    def everyone(self, value: Any) -> list:
        """The values of all processes, in their order."""

    @abstractmethod
    def from_first(self, value: Any) -> Any:
        """The first process's value."""

    def agreed(self, work: Callable[[], Result]) -> Result:
        """What `work` returns; where it fails on any process with an error of gpucnn's, all raise that error."""
        result: Any = None
        failure: GpucnnError | None = None
        try:
            result = work()
        except GpucnnError as error:
            failure = error
        told = None if failure is None else (type(failure).__name__, str(failure), vars(failure))
        rank, first = next(((r, e) for r, e in enumerate(self.everyone(told)) if e), (0, None))
        if first is None:
            return result
        if rank == self.rank or self.size == 1:
            assert failure is not None
            failure.shared = True
            raise failure
        kind = getattr(gpucnn.errors, first[0], ConfigurationError)
        theirs = kind.__new__(kind, first[1])
        theirs.__dict__.update(first[2], shared=True)
        raise theirs

    def on_first(self, work: Callable[[], Result]) -> Result:
        """What `work` returns on the first process, where alone it runs; an error of gpucnn's is raised on all."""
        return self.from_first(self.agreed(lambda: work() if self.first else None))

    def same(self, value: Any, differ: Callable[[Any, Any], str]) -> None:
        """Raise ProcessError on all where a process has another value; `differ` puts the difference into words."""
        values = self.everyone(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                error = ProcessError(f"process {rank} {differ(values[0], other)}")
                error.shared = True
                raise error

    def exchanging_on_host(self) -> "Processes":
        """The same processes with `on_host`."""
        others = copy.copy(self)
        others.on_host = True
        return others

    def leave(self, code: int) -> None:
        """End all processes at once with this exit code, because this one cannot go on."""
        raise SystemExit(code)


def how_different(first: dict, other: dict) -> str:
    """For `same`, where the values are dictionaries of settings."""
    words = "{} is {} there and {} here"
    return f"differs from process 0: {difference(first, other, words)}; start all with the same settings"


class Alone(Processes):
    """This process alone."""

    def _gather(self, mine: np.ndarray, into: np.ndarray) -> None:
        into[0] = mine

    def _swap(self, mine: np.ndarray, into: np.ndarray) -> None:
        into[0] = mine[0]

    def everyone(self, value: Any) -> list:
        return [value]

    def from_first(self, value: Any) -> Any:
        return value


def started() -> tuple[int, int]:
    """(rank, number) of the processes that an MPI launcher has started; (0, 1) for a process started alone."""
    number = next((os.environ[name] for name in _SIZES if name in os.environ), "1")
    rank = next((os.environ[name] for name in _RANKS if name in os.environ), "0")
    return (int(rank), int(number)) if number.isdecimal() and rank.isdecimal() else (0, 1)


def join(processes: int | None = None, time_limit: float | None = None) -> Processes:
    """The processes that were started together with this one: by mpirun, or this one alone.

    `processes` is how many there must be: None for as many as there are, 1 for this one alone whatever was started.
    `time_limit` is the number of seconds after which a process that waits for the others gives them up.

    Raises ConfigurationError where another number was started and for a limit below 1 or without end, BackendError
    where mpi4py is missing, and ProcessError where not all processes run the same gpucnn.
    """
    if time_limit is not None:
        number("time_limit", time_limit, least=1, most=_LONGEST)
    _, there = started()
    if processes == 1 or (processes is None and there == 1):
        return Alone()
    if processes is not None and processes != there:
        raise ConfigurationError(
            f"processes is {processes}, but {there} {'were' if there > 1 else 'was'} started; start them with "
            f"mpirun -n {processes} python ..., or gpucnn train --processes {processes}"
        )
    from gpucnn.parallel.mpi import world

    return world(time_limit)
