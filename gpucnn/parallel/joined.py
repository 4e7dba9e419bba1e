"""The tree over all processes of what each has summed: an engine gathers the bytes, the contract's tree adds them.

An engine's own reduction would add in an order of its own.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gpucnn.arithmetic import tree

if TYPE_CHECKING:
    from gpucnn.parallel.processes import Processes

# Where a process would receive more, vectors are added in slices, one a process: then it receives twice the vector, not
# one from every process.
_LONG = 1 << 19  # bytes


def joined(
    processes: "Processes", nodes: int, sent64: np.ndarray, sent32: np.ndarray
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A function that returns the trees over all processes of two vectors, in one message or, for long ones, two."""
    if (sent64.nbytes + sent32.nbytes) * processes.size <= _LONG:
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
