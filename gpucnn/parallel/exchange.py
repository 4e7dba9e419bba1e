"""Adding up what the parts of a batch have summed: an engine gathers the bytes, the contract's tree adds them.

An engine's own reduction would add in an order of its own. Arrays are NumPy's; all additions happen on the host.
"""

from collections.abc import Callable

import numpy as np

from gpucnn.arithmetic import tree
from gpucnn.backends.protocol import Array, Backend
from gpucnn.errors import ConfigurationError
from gpucnn.parallel.processes import Processes

# Longer vectors are added in slices, one a process: each then receives twice the vector, not one from every process.
_LONG = 1 << 18  # bytes


class StepExchange:
    """The sums of one step (gpucnn.backends.shares.Exchange): `nodes` processes have images, each in up to `pieces`.

    Sums that are needed at once are exchanged at once; all others wait for `finish`, which sends one message. The order
    of calls is the same on all processes, because they run the same network.
    """

    def __init__(self, processes: Processes, nodes: int, pieces: int, images: int, gradients: Array):
        self._processes, self._nodes, self._pieces, self._images = processes, nodes, pieces, images
        self._gradients = gradients
        self._piece: _Piece = _Piece()
        self._before: list[_Piece] = []

    def now(self, backend: Backend, sums: tuple[Array, ...], then: Callable[..., None]) -> None:
        self._refuse_pieces()
        sizes = [a.size for a in sums]
        sent = np.zeros(sum(sizes))
        received = np.zeros((self._processes.size, sent.size))
        cuts = np.cumsum(sizes)[:-1]

        def exchange() -> None:
            np.concatenate([a.reshape(-1) for a in sums], out=sent)
            self._processes.gather(sent, received)
            then(*np.split(tree(received[: self._nodes], 0), cuts))

        backend.between(exchange)

    def _refuse_pieces(self) -> None:
        if self._pieces > 1:
            raise ConfigurationError(
                "batch norm and class weights need sums over the whole batch before a step goes on, so a batch in "
                "pieces cannot have them; use pieces=1, or group norm"
            )

    def later(self, sums: tuple[Array, ...], then: Callable[..., None]) -> None:
        self._piece.sums.append((sums, then))

    def weights(self, backend: Backend, gradient: Array) -> None:
        if np.may_share_memory(gradient, self._gradients):
            self._piece.weights.append(gradient)
            return
        # A layer's own array, with which it may go on to compute.
        self._refuse_pieces()
        sent = np.zeros(gradient.size, np.float32)
        received = np.zeros((self._processes.size, sent.size), np.float32)

        def exchange() -> None:
            sent[...] = gradient.reshape(-1)
            self._processes.gather(sent, received)
            gradient[...] = (tree(received[: self._nodes], 0) + np.float32(0)).reshape(gradient.shape)

        backend.between(exchange)

    def ahead(self, backend: Backend, weights: Array) -> Array | None:
        if self._pieces == 1 or not (backend.host(weights) == 1).all():
            return None
        return backend.array(np.array([float(self._images)]))

    def next_piece(self, backend: Backend) -> None:
        """What follows is the next piece of this process's part."""
        piece = self._piece
        backend.between(piece.keep)
        self._before.append(piece)
        self._piece = _Piece()

    def finish(self, backend: Backend) -> None:
        """Exchange all that waits. What belongs to a step comes before, what uses the sums after it."""
        pieces, last = [*self._before, self._piece], self._piece
        self._before, self._piece = [], _Piece()
        wide = last.width()
        narrow = sum(a.size for a in last.weights)
        sent64, sent32 = np.zeros(wide), np.zeros(narrow, np.float32)
        join = _join(self._processes, self._nodes, sent64, sent32)

        def exchange() -> None:
            last.keep()
            sent64[...] = tree(np.stack([piece.kept64 for piece in pieces]), 0)
            sent32[...] = tree(np.stack([piece.kept32 for piece in pieces]), 0)
            total64, total32 = join()
            last.spread(total64, total32)

        backend.between(exchange)


class _Piece:
    """What one piece of a step leaves for its end."""

    def __init__(self) -> None:
        self.sums: list[tuple[tuple[Array, ...], Callable[..., None]]] = []
        self.weights: list[Array] = []

    def width(self) -> int:
        return sum(a.size for arrays, _ in self.sums for a in arrays)

    def keep(self) -> None:
        """Copy the sums, which the next piece overwrites."""
        arrays = [a.reshape(-1) for arrays, _ in self.sums for a in arrays]
        self.kept64 = np.concatenate(arrays) if arrays else np.zeros(0)
        weights = [a.reshape(-1) for a in self.weights]
        self.kept32 = np.concatenate(weights) if weights else np.zeros(0, np.float32)

    def spread(self, total64: np.ndarray, total32: np.ndarray) -> None:
        """Hand out the sums over the whole batch."""
        at = 0
        for arrays, then in self.sums:
            totals = []
            for array in arrays:
                totals.append(total64[at : at + array.size])
                at += array.size
            then(*totals)
        at = 0
        for weights in self.weights:
            weights[...] = (total32[at : at + weights.size] + np.float32(0)).reshape(weights.shape)
            at += weights.size


def _join(
    processes: Processes, nodes: int, sent64: np.ndarray, sent32: np.ndarray
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A function that returns the trees over all processes of two vectors, in one message or, for long ones, two."""
    if processes.size == 1:
        return lambda: (sent64, sent32)
    if sent64.nbytes + sent32.nbytes <= _LONG:
        sent = np.zeros(sent64.nbytes + sent32.nbytes, np.uint8)
        received = np.zeros((processes.size, sent.size), np.uint8)
        cut = sent64.nbytes

        def short() -> tuple[np.ndarray, np.ndarray]:
            sent[:cut], sent[cut:] = sent64.view(np.uint8), sent32.view(np.uint8)
            processes.gather(sent, received)
            there = received[:nodes]
            wide = np.ascontiguousarray(there[:, :cut]).view(np.float64)
            return tree(wide, 0), tree(np.ascontiguousarray(there[:, cut:]).view(np.float32), 0)

        return short
    received64 = np.zeros((processes.size, sent64.size))
    each = -(-sent32.size // processes.size)
    filled = np.zeros((processes.size, each), np.float32)
    slices, totals = np.zeros_like(filled), np.zeros_like(filled)

    def long() -> tuple[np.ndarray, np.ndarray]:
        processes.gather(sent64, received64)
        filled.reshape(-1)[: sent32.size] = sent32
        processes.swap(filled, slices)
        processes.gather(tree(slices[:nodes], 0), totals)
        return tree(received64[:nodes], 0), totals.reshape(-1)[: sent32.size]

    return long
