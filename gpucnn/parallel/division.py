"""Who computes which images of a batch: whole subtrees of the contract's tree over blocks of 16 (rule 3d)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gpucnn.arithmetic.sums import BLOCK


def blocks_each(blocks: int, parts: int) -> int:
    """The smallest power of two with which `parts` parts cover so many blocks: so a part is a node of the tree."""
    each = 1
    while each * parts < blocks:
        each *= 2
    return each


@dataclass(frozen=True)
class Division:
    """Divides batches among `processes`, of which this is number `rank`, and each part into at most `pieces`.

    A process that a batch has no block for computes on the batch's first image, which counts nowhere.
    """

    processes: int = 1
    rank: int = 0
    pieces: int = 1

    def nodes(self, images: int) -> int:
        """How many processes have images of a batch of so many."""
        blocks = -(-images // BLOCK)
        return -(-blocks // blocks_each(blocks, self.processes))

    def part(self, images: int) -> tuple[int, int]:
        """(first image, number of images) of this process; the first image alone where it has none."""
        each = BLOCK * blocks_each(-(-images // BLOCK), self.processes)
        first = self.rank * each
        return (first, min(each, images - first)) if first < images else (0, 1)

    def most(self, images: int) -> int:
        """How many images of a batch of so many, or fewer, this process has at most: a short one may leave it more."""
        return min(images, BLOCK * blocks_each(-(-images // BLOCK), self.processes))

    def in_pieces(self, images: int) -> Iterator[tuple[int, int]]:
        """(first image, number of images) of each piece of this process's part, both within the whole batch."""
        first, count = self.part(images)
        own = blocks_each(-(-images // BLOCK), self.processes)
        each = BLOCK * blocks_each(own, self.pieces)
        for start in range(first, first + count, each):
            yield start, min(each, first + count - start)

    def mine(self, indices: np.ndarray) -> np.ndarray:
        """This process's part of a batch's indices."""
        first, count = self.part(len(indices))
        return indices[first : first + count]


WHOLE = Division()
