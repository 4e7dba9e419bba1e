"""The sums of one training step in several processes or pieces."""

from collections.abc import Callable

import numpy as np

from gpucnn.backends.protocol import Array
from gpucnn.backends.shared import SharedSums
from gpucnn.backends.shares import Finish
from gpucnn.errors import ConfigurationError
from gpucnn.parallel.processes import Processes


class StepExchange:
    """The sums of one step (gpucnn.backends.shares.Exchange), of which `nodes` processes have images.

    Sums that are needed at once are exchanged at once; all others wait for `finish`, which sends one message. The order
    of calls is the same on all processes, because they run the same network.
    """

    def __init__(self, processes: Processes, nodes: int, gradients: Array):
        self._processes, self._nodes, self._gradients = processes, nodes, gradients
        self._divisors: list[Array] | None = None  # in pieces: known before the first
        self._rows: list[tuple[Array, Array]] = []
        self._begin()

    def _begin(self) -> None:
        self._sums: list[tuple[Array, Finish]] = []
        self._weights: list[Array] = []
        self._waiting: list[Array] = []
        self._last: list[Callable[[], None]] = []
        self._coming = list(self._divisors or [])

    def divide(self, divisors: list[Array]) -> None:
        """From now on this process computes its part in pieces; `divisors` are what each one's losses divide by."""
        self._divisors = divisors
        self._begin()

    def now(self, backend: SharedSums, sums: list[tuple[Array, Finish]]) -> None:
        self._refuse_pieces()
        nothing = backend.packed([], np.float32)
        row = backend.packed([array for array, _ in sums], np.float64)
        total, _ = backend.exchanged(self._processes, self._nodes, row, nothing)
        backend.finish(total, [finish for _, finish in sums], [array.size for array, _ in sums])

    def later(self, sums: Array, finish: Finish) -> None:
        self._sums.append((sums, finish))

    def weights(self, backend: SharedSums, gradient: Array) -> None:
        if any(backend.xp.may_share_memory(gradient, array) for array in (self._gradients, *self._waiting)):
            self._weights.append(gradient)
            return
        # A layer's own array, with which it may go on to compute.
        self._refuse_pieces()
        nothing, row = backend.packed([], np.float64), backend.packed([gradient], np.float32)
        _, total = backend.exchanged(self._processes, self._nodes, nothing, row)
        backend.spread(total, [gradient])

    def _refuse_pieces(self) -> None:
        if self._divisors is not None:
            raise ConfigurationError(
                "a layer or loss of the network needs a sum over the whole batch before a step goes on, so a batch in "
                "pieces cannot have it; use pieces=1, more processes, or for batch norm group norm"
            )

    def divisor(self) -> Array | None:
        return self._coming.pop(0) if self._coming else None

    def add_at_end(self, gradients: list[Array], add: Callable[[], None]) -> None:
        self._waiting += gradients
        self._last.append(add)

    def next_piece(self, backend: SharedSums) -> None:
        """What follows is the next piece of this process's part."""
        self._keep(backend)
        self._begin()

    def _keep(self, backend: SharedSums) -> None:
        """Copy the piece's sums, which the next piece overwrites."""
        wide = backend.packed([array for array, _ in self._sums], np.float64)
        self._rows.append((wide, backend.packed(self._weights, np.float32)))

    def finish(self, backend: SharedSums) -> None:
        """Exchange all that waits; what uses the sums of the whole batch comes after it."""
        self._keep(backend)
        wide, narrow = (backend.added([row[kind] for row in self._rows]) for kind in (0, 1))
        total64, total32 = backend.exchanged(self._processes, self._nodes, wide, narrow)
        backend.finish(total64, [finish for _, finish in self._sums], [array.size for array, _ in self._sums])
        backend.spread(total32, self._weights)
        for add in self._last:
            add()
