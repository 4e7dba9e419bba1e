"""An epoch's steps on the device before they begin, so that a repeated step needs nothing from the host."""

from collections.abc import Sequence

import numpy as np

from gpucnn.backends.protocol import Array, Backend
from gpucnn.backends.step_end import Ahead
from gpucnn.optimizers import Optimizer
from gpucnn.schedules import Schedule
from gpucnn.training.data import Resident


class Lookahead:
    """Which images, rates and step number the device holds: it takes each step's from tables when the last one ends.

    What it holds is compared with what the step at hand needs, so a callback may change anything: then the host writes
    the numbers of each step until the next epoch is planned.
    """

    def __init__(self, backend: Backend, data: Resident, optimizer: Optimizer, step: Array):
        self._backend, self._data, self._optimizer, self._step = backend, data, optimizer, step
        self._rows = -(-data.count // data.batch_size)
        self._needed: list[tuple[np.ndarray, int, np.ndarray]] = []  # indices, step and rates of each row
        self._row: int | None = None  # the device's; None: the host writes each step
        self.arrays = Ahead(
            backend.array(np.array([self._rows], np.uint32)),
            backend.zeros((self._rows, data.indices.size), np.int64),
            data.indices,
            backend.zeros((self._rows, optimizer.hypers), np.float32),
            optimizer.hyper,
        )

    def plan(self, batches: Sequence[np.ndarray], first_step: int, factors: Sequence[float]) -> None:
        """Put the steps from number `first_step` on into the tables: a batch's indices and a schedule's factor each."""
        rates = [self._optimizer.rates_at(factor, first_step + n + 1) for n, factor in enumerate(factors)]
        self._needed = [(i, first_step + n, r) for n, (i, r) in enumerate(zip(batches, rates, strict=True))]
        order = np.zeros(self.arrays.order.shape, np.int64)
        for row, indices in zip(order, map(self._data.division.mine, batches), strict=False):
            row[: len(indices)] = indices
        backend, table = self._backend, np.zeros(self.arrays.rates.shape, np.float32)
        table[: len(rates)] = rates
        backend.assign(self.arrays.order, order)
        backend.assign(self.arrays.rates, table)
        backend.assign(self.arrays.row, np.zeros(1, np.uint32))
        self._data.choose(batches[0])
        backend.assign(self._step, np.array([first_step], np.uint32))
        backend.assign(self._optimizer.hyper, rates[0])
        self._row = 0

    def holds(self, indices: np.ndarray, step: int, rates: np.ndarray) -> bool:
        """Whether the device holds the numbers of this step, which is run next, without help."""
        if self._row is None:
            return False
        if self._row < len(self._needed):
            planned, number, planned_rates = self._needed[self._row]
            if number == step and np.array_equal(planned_rates, rates) and np.array_equal(planned, indices):
                self._row += 1
                return True
        self._row = None
        # Nothing more is taken from the tables.
        self._backend.assign(self.arrays.row, np.array([self._rows], np.uint32))
        return False


def lookahead(backend: Backend, data: Resident, optimizer: Optimizer, step: Array) -> Lookahead | None:
    """A Lookahead where the backend has kernels for it, images are on the device, and rates are known before a step."""
    own = "rates" in vars(optimizer) or "rates_at" in vars(optimizer)
    known = not own and all(_ours(getattr(type(optimizer), name)) for name in ("rates", "rates_at", "set_rates"))
    if not (backend.looks_ahead and type(data) is Resident and known):
        return None
    return Lookahead(backend, data, optimizer, step)


def is_known(schedule: Schedule) -> bool:
    """Whether a schedule's factors may be computed before their step, because they depend on nothing else."""
    inner = [value for value in vars(schedule).values() if isinstance(value, Schedule)]
    return _ours(type(schedule).__call__) and "__call__" not in vars(schedule) and all(map(is_known, inner))


def _ours(method) -> bool:
    return method.__module__ in ("gpucnn.optimizers", "gpucnn.schedules")
