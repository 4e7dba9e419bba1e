"""Concatenating and taking channels, for every backend that copies a run of channels with a kernel of its own."""

from gpucnn.backends.batch import Batch


class ChannelCopies:
    """Part of a backend that has `_empty` and `_copy_channels(x, y, first_x, first_y, count)`: y's channels from
    first_y on = x's from first_x on. See the protocol for what each method does."""

    def concatenate(self, batches: list[Batch]) -> Batch:
        blocks, _, *inner = batches[0].data.shape
        y = batches[0].like(self._empty((blocks, sum(batch.channels for batch in batches), *inner)))
        first = 0
        for batch in batches:
            self._copy_channels(batch, y, 0, first, batch.channels)
            first += batch.channels
        return y

    def take_channels(self, x: Batch, first: int, count: int) -> Batch:
        blocks, _, *inner = x.data.shape
        y = x.like(self._empty((blocks, count, *inner)))
        self._copy_channels(x, y, first, 0, count)
        return y
