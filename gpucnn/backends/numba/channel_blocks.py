"""How inference lays out values: channels in blocks of 16, and a border of zeros around each map."""

import math
from dataclasses import dataclass, field

import numpy as np

from gpucnn.backends.spatial import three
from gpucnn.kernels.numba.arguments import address
from gpucnn.kernels.numba.simd import LANES

Three = tuple[int, int, int]
_FLOAT = 4


def aligned(count: int, dtype=np.float32) -> np.ndarray:
    """Zeros that start at a cache line."""
    size = np.dtype(dtype).itemsize
    memory = np.zeros(count * size + 64, np.uint8)
    start = -address(memory) % 64
    return memory[start : start + count * size].view(dtype)


def furthest(a: Three, b: Three) -> Three:
    """The larger of both, axis by axis."""
    depth, height, width = map(max, a, b)
    return depth, height, width


@dataclass(eq=False)
class Blocks:
    """Values of `images` images, (C, *spatial) each, in the layout that their `before` and `after` borders give.

    `planar` values, the network's images alone, have one channel after the other instead of blocks; if they are
    `elsewhere`, the address is an offset into the user's own array. Strides are in bytes and count from the first pixel
    inside the border. `memory` is given when the values are computed; there may be some for each thread.
    """

    images: int
    channels: int
    size: Three
    before: Three = (0, 0, 0)
    after: Three = (0, 0, 0)
    planar: bool = False
    elsewhere: bool = False
    memory: np.ndarray | None = field(default=None, repr=False)

    @classmethod
    def of(cls, images: int, shape: tuple[int, ...]) -> "Blocks":
        return cls(images, shape[0], three(shape[1:], 1))

    def reach(self, before: Three, after: Three) -> None:
        """Have at least such a border."""
        self.before, self.after = furthest(self.before, before), furthest(self.after, after)

    @property
    def positions(self) -> int:
        return math.prod(self.size)

    @property
    def blocks(self) -> int:
        return -(-self.channels // LANES)

    @property
    def padded(self) -> Three:
        depth, height, width = (b + s + a for b, s, a in zip(self.before, self.size, self.after, strict=True))
        return depth, height, width

    @property
    def pixel(self) -> int:
        return _FLOAT if self.planar else LANES * _FLOAT

    @property
    def row(self) -> int:
        return self.padded[2] * self.pixel

    @property
    def plane(self) -> int:
        return self.padded[1] * self.row

    @property
    def volume(self) -> int:
        """Bytes of a block, or of a channel if planar."""
        return self.padded[0] * self.plane

    @property
    def lane(self) -> int:
        """From one channel of a block to the next."""
        return self.volume if self.planar else _FLOAT

    @property
    def block(self) -> int:
        return LANES * self.volume if self.planar else self.volume

    @property
    def image(self) -> int:
        # Rows of vectors may be read and written past the last channel of planar images: see `bytes`.
        return self.volume * (self.channels if self.planar else self.blocks)

    @property
    def bytes(self) -> int:
        return self.images * self.image + LANES * _FLOAT

    @property
    def geometry(self) -> tuple:
        """Memory of one geometry may be used again for another value: its border stays zero."""
        return self.images, self.blocks, self.size, self.before, self.after, self.planar

    def allocate(self, memory: np.ndarray | None = None) -> None:
        self.memory = aligned(self.bytes // _FLOAT) if memory is None else memory

    @property
    def address(self) -> int:
        """Of the first pixel inside the border."""
        if self.elsewhere:
            return 0
        assert self.memory is not None
        return address(self.memory) + self.at(*self.before)

    def at(self, d: int, h: int, w: int) -> int:
        """Bytes from the first pixel to (d, h, w)."""
        return d * self.plane + h * self.row + w * self.pixel

    def channel(self, c: int) -> int:
        """Bytes from channel 0 to channel c."""
        return c // LANES * self.block + c % LANES * self.lane

    @property
    def slots(self) -> list[int]:
        """As kernels/numba/channel_maps.py takes a map."""
        return [self.address, self.image, self.block, self.plane, self.row]
