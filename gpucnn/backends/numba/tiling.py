"""How the pixels of a convolution are shared out among register tiles with 16 channels in a vector.

Pixels of a tile may lie anywhere, so those at an edge, which see fewer taps inside the image, can have tiles of their
own that leave the others out. Time is counted in cycles of a core that issues two vector multiply-adds and two loads a
cycle.
"""

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from gpucnn.backends.numba.tiles import accumulators
from gpucnn.backends.spatial import three, window3d
from gpucnn.geometry import Window


@dataclass(frozen=True)
class Tile:
    """`vectors` blocks of channels by `places` times `together` pixels, see kernels/numba/channel_tiles.py."""

    vectors: int
    places: int
    together: int = 1

    @property
    def pixels(self) -> int:
        return self.places * self.together

    @property
    def step(self) -> float:
        """Cycles of a term: the multiply-adds, of which eight must be in flight, or the loads."""
        return max(self.vectors * self.pixels / 2, 4, (self.vectors + self.pixels + 1) / 2)

    @property
    def end(self) -> float:
        """Cycles of what is done once a tile."""
        return 12 + 1.5 * self.vectors * self.pixels


# By the accumulators that stay in registers.
_TILES = {
    24: (Tile(1, 8), Tile(1, 8, 2), Tile(2, 8), Tile(3, 8), Tile(1, 1), Tile(2, 4), Tile(4, 4)),
    6: (Tile(1, 4), Tile(1, 1), Tile(2, 2), Tile(1, 8)),
}
_DEPTHWISE = {24: (Tile(1, 8),), 6: (Tile(1, 4), Tile(1, 8))}
# A table of pixels should stay in the first cache.
_TABLE_PIXELS = 1024


@dataclass(frozen=True)
class Arrangement:
    """Tiles of pixels for groups of `group` images. `cells` (tiles, cells) numbers those of all images of a group, each
    of `size` pixels that belong together; `taps` (tiles, taps) says which taps a tile has. `cycles` are for all images.
    """

    tile: Tile
    group: int
    size: int
    cells: np.ndarray
    taps: np.ndarray
    cycles: float


def arrange(
    inside: np.ndarray, channels: int, images: int, blocks: int, pool: int, pairs: bool, depthwise: bool = False
) -> Arrangement:
    """The quickest tiles for `images` images of so many pixels and `blocks` blocks of output channels.

    `inside` (pixels, taps) says which taps of a pixel are inside the image; each has a term in each of `channels`
    channels. `pool` pixels that follow one another make a window. `pairs`: pixels 2i and 2i + 1 are side by side.
    """
    every = (_DEPTHWISE if depthwise else _TILES)[accumulators()]
    fitting = [t for t in every if t.vectors <= blocks and t.pixels % pool == 0 and (pairs or t.together == 1)]
    groups = {1, images} | set(range(2, min(images, 17)))
    groups = {g for g in groups if g == 1 or g * len(inside) <= _TABLE_PIXELS}
    found = None
    for tile, group in itertools.product(fitting, sorted(groups)):
        size = max(pool, tile.together)
        taps = np.any(inside.reshape(-1, size, inside.shape[1]), axis=1)
        for order in _orders(taps, group):
            number = -(-len(order) * size // tile.pixels)
            cells = order[np.minimum(np.arange(number * (tile.pixels // size)), len(order) - 1)].reshape(number, -1)
            seen = np.any(taps[cells % len(taps)], axis=1)
            one = int(seen.sum()) * channels * tile.step + number * tile.end
            cycles = -(-images // group) * -(-blocks // tile.vectors) * one
            if found is None or cycles < found.cycles:
                found = Arrangement(tile, group, size, cells, seen, cycles)
    assert found is not None
    return found


def _orders(taps: np.ndarray, group: int) -> list[np.ndarray]:
    """Orders of the cells of a group of images worth a try: as they come, and those that see the same side by side."""
    plain = np.arange(len(taps) * group)
    if taps.all():
        return [plain]
    _, kinds = np.unique(taps, axis=0, return_inverse=True)
    return [plain, np.argsort(np.tile(kinds.reshape(-1), group), kind="stable")]


def pixels_of(window: Window, pool: Window | None) -> np.ndarray:
    """The pixels (d, h, w) of a convolution's output, (pixels, 3): window by window where pooling follows."""
    if pool is None:
        return _grid(window3d(window).output)
    kernel = three(pool.kernel, 1)
    corners = _grid(three(pool.output, 1)) * kernel
    return (corners[:, None] + _grid(kernel)[None]).reshape(-1, 3)


def _grid(sizes) -> np.ndarray:
    """All index tuples of these sizes, row-major."""
    return np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), axis=-1).reshape(-1, len(sizes))


@functools.cache
def taps_inside(window: Window, pool: Window | None) -> np.ndarray:
    """Whether each tap of each pixel of `pixels_of` is inside the image: (pixels, taps)."""
    geometry, inside = window3d(window), np.ones((1, 1), bool)
    for axis, pixels in enumerate(pixels_of(window, pool).T):
        taps = np.arange(geometry.kernel[axis]) * geometry.dilation[axis] - geometry.before[axis]
        seen = pixels[:, None] * geometry.stride[axis] + taps
        along = (seen >= 0) & (seen < geometry.input[axis])
        inside = (inside[:, :, None] & along[:, None, :]).reshape(len(along), -1)
    return inside


@functools.cache
def arranged(
    window: Window, pool: Window | None, channels: int, images: int, blocks: int, pairs: bool, depthwise: bool
) -> Arrangement:
    """`arrange` for a convolution, with or without pooling after it; `pairs` if such tiles may be used."""
    width = (pool.kernel if pool else window.output)[-1] if window.output else 1
    size = int(np.prod(pool.kernel)) if pool else 1
    return arrange(taps_inside(window, pool), channels, images, blocks, size, pairs and width % 2 == 0, depthwise)
