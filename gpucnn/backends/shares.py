"""Which part of a batch is computed here, where several processes or pieces share a training step.

Layers and losses see a batch as large as the part. What concerns the whole batch (random numbers drawn by an image's
position, means over all images, sums over the batch) asks here.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gpucnn.backends.batch import Batch

Array = Any


@dataclass(frozen=True)
class Finish:
    """Where a float64 vector of sums over the whole batch goes, each into as many numbers as the array holds.

    `mean64` = sum / count, `mean` = f32(sum / count), `unbiased` = f32(sum / count * count / max(count - 1, 1)),
    `rounded` = f32(sum) + 0, `gained` += sum. The count is a float64 array (1,).
    """

    count: Array = None
    mean64: Array = None
    mean: Array = None
    unbiased: Array = None
    rounded: Array = None
    gained: Array = None


class Exchange(Protocol):
    """Adds the sums of all parts of a batch, by the contract's tree over blocks."""

    def now(self, backend: Any, sums: list[tuple[Array, Finish]]) -> None:
        """Finish the sums over the whole batch in place of those over this part."""

    def later(self, sums: Array, finish: Finish) -> None:
        """The same by the end of the step."""

    def weights(self, backend: Any, gradient: Array) -> None:
        """Replace a float32 gradient of weights by the sum over the whole batch, by the end of the step."""

    def divisor(self) -> Array | None:
        """The sum of the labels' weights over the whole batch, where it is known before the pieces of a part begin."""

    def add_at_end(self, gradients: list[Array], add: Callable[[], None]) -> None:
        """What is written to these arrays, by `weights` too, may wait for the end of the step. `add` comes after it."""


@dataclass(frozen=True)
class Share:
    """`first` is the number of the part's first image in the whole batch of `images` images."""

    first: int
    images: int
    exchange: Exchange


_current: ContextVar[Share | None] = ContextVar("share", default=None)


@contextlib.contextmanager
def sharing(share: Share | None) -> Iterator[None]:
    """Operations inside work on a part of a batch; None: on whole batches, as everywhere else."""
    token = _current.set(share)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Share | None:
    """The part that is being computed, None for whole batches."""
    return _current.get()


def offset() -> int:
    """The number of the first image in the whole batch."""
    share = _current.get()
    return 0 if share is None else share.first


def whole(batch: "Batch") -> int:
    """The number of images in the batch that `batch` is a part of."""
    share = _current.get()
    return batch.images if share is None else share.images
