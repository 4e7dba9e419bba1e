"""The sums of one training step in several processes or pieces."""

import numpy as np

from gpucnn.backends.protocol import Array
from gpucnn.backends.shared import SharedSums
from gpucnn.backends.shares import Finish
from gpucnn.errors import ConfigurationError
from gpucnn.parallel.processes import Processes


class StepExchange:
    """The sums of one step (gpucnn.backends.shares.Exchange): `nodes` processes have images, each in up to `pieces`.

    Sums that are needed at once are exchanged at once; all others wait for `finish`, which sends one message. The order
    of calls is the same on all processes, because they run the same network.
    """

    def __init__(self, processes: Processes, nodes: int, pieces: int, images: int, gradients: Array):
        self._processes, self._nodes, self._pieces, self._images = processes, nodes, pieces, images
        self._gradients = gradients
        self._rows: list[tuple[Array, Array]] = []
        self._begin()

    def _begin(self) -> None:
        self._sums: list[tuple[Array, Finish]] = []
        self._weights: list[Array] = []

    def now(self, backend: SharedSums, sums: list[tuple[Array, Finish]]) -> None:
        self._refuse_pieces()
        nothing = backend.packed([], np.float32)
        row = backend.packed([array for array, _ in sums], np.float64)
        total, _ = backend.exchanged(self._processes, self._nodes, row, nothing)
        backend.finish(total, [finish for _, finish in sums], [array.size for array, _ in sums])

    def later(self, sums: Array, finish: Finish) -> None:
        self._sums.append((sums, finish))

    def weights(self, backend: SharedSums, gradient: Array) -> None:
        if backend.xp.may_share_memory(gradient, self._gradients):
            self._weights.append(gradient)
            return
        # A layer's own array, with which it may go on to compute.
        self._refuse_pieces()
        nothing, row = backend.packed([], np.float64), backend.packed([gradient], np.float32)
        _, total = backend.exchanged(self._processes, self._nodes, nothing, row)
        backend.spread(total, [gradient])

    def _refuse_pieces(self) -> None:
        if self._pieces > 1:
            raise ConfigurationError(
                "batch norm and class weights need sums over the whole batch before a step goes on, so a batch in "
                "pieces cannot have them; use pieces=1, or group norm"
            )

    def ahead(self, backend: SharedSums, weights: Array) -> Array | None:
        if self._pieces == 1 or not (backend.host(weights) == 1).all():
            return None
        return backend.array(np.array([float(self._images)]))

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
