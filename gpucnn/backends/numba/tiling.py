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
    """`vectors` blocks of channels by `places` times `together` pixels, see kernels/numba/channel_tiles.py.

    `cycles` a term, measured: two multiply-adds at best. Above 1, `taps` is the width of the kernel that it is for,
    which must be the image's row in pieces of `together` pixels.
    """

    vectors: int
    places: int
    together: int = 1
    taps: int = 1
    cycles: float = 0.0

    @property
    def pixels(self) -> int:
        return self.places * self.together

    @property
    def end(self) -> float:
        """Cycles of what is done once a tile."""
        return 20 + 2 * self.pixels + 1.5 * self.vectors * self.pixels


# By the accumulators that stay in registers.
_TILES = {
    24: (
        Tile(1, 8, cycles=5.5),
        Tile(1, 8, 2, cycles=9.6),
        Tile(1, 2, 8, taps=3, cycles=8.4),
        Tile(1, 2, 8, taps=5, cycles=8.4),
        Tile(1, 4, 4, taps=3, cycles=8.6),
        Tile(2, 8, cycles=8.0),
        Tile(3, 6, cycles=9.0),
        Tile(4, 6, cycles=12.0),
        Tile(4, 4, cycles=8.8),
        Tile(2, 4, cycles=4.8),
        Tile(4, 1, cycles=8.0),  # bound by reading weights, as the next
        Tile(2, 1, cycles=4.0),
        Tile(1, 1, cycles=4.0),
    ),
    6: (
        Tile(1, 6, cycles=6.5),
        Tile(1, 4, cycles=4.6),
        Tile(2, 2, cycles=5.0),
        Tile(1, 1, cycles=4.0),
        Tile(1, 8, cycles=16.0),
    ),
}
_DEPTHWISE = {24: (Tile(1, 8, cycles=5.5),), 6: (Tile(1, 4, cycles=6.0), Tile(1, 8, cycles=16.0))}
# A table of pixels should stay in the first cache.
_TABLE_PIXELS = 1024
# What is known of so many convolutions is kept, those of some networks: it has numbers for each pixel, and images of
# many sizes would fill the memory.
_KEPT = 32


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
    inside: np.ndarray,
    channels: int,
    images: int,
    blocks: int,
    *,
    pool: int = 1,
    run: int = 1,
    taps: int = 1,
    depthwise: bool = False,
    together: int = 0,
    shares: int = 1,
) -> Arrangement:
    """The quickest tiles for `images` images of so many pixels and `blocks` blocks of output channels.

    `inside` (pixels, taps) says which taps of a pixel are inside the image; each has a term in each of `channels`
    channels. `pool` pixels that follow one another make a window, `run` are side by side; a kernel's row has `taps`.
    Groups of images divide `together`, unless it is 0. So many threads have a share of the tiles.
    """
    every = (_DEPTHWISE if depthwise else _TILES)[accumulators()]
    fitting = [t for t in every if t.vectors <= blocks and t.pixels % pool == 0 and run % t.together == 0]
    fitting = [t for t in fitting if t.taps == 1 or (t.taps == taps and pool == 1)]
    groups = {1, images} | set(range(2, min(images, 17)))
    groups = {g for g in groups if g == 1 or (g * len(inside) <= _TABLE_PIXELS and together % g == 0)}
    found = None
    for tile, group in itertools.product(fitting, sorted(groups)):
        size = max(pool, tile.together)
        seen = np.any(inside.reshape(-1, size, inside.shape[1]), axis=1)
        if tile.taps > 1:
            rows = np.any(seen.reshape(len(seen), -1, tile.taps), axis=2, keepdims=True)
            seen = np.broadcast_to(rows, (*rows.shape[:2], tile.taps)).reshape(seen.shape)
        for order in _orders(seen, group):
            number = -(-len(order) * size // tile.pixels)
            cells = order[np.minimum(np.arange(number * (tile.pixels // size)), len(order) - 1)].reshape(number, -1)
            # By place, so that threads that share an image read mostly what they have written themselves.
            cells = cells[np.argsort(cells.mean(axis=1), kind="stable")]
            kinds = np.any(seen[cells % len(seen)], axis=1)
            one = int(kinds.sum()) * channels * tile.cycles + number * tile.end
            units = -(-images // group) * -(-blocks // tile.vectors) * number
            cycles = -(-units // shares) * shares * one / number
            if found is None or cycles < found.cycles:
                found = Arrangement(tile, group, size, cells, kinds, cycles)
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


@functools.lru_cache(_KEPT)
def taps_inside(window: Window, pool: Window | None) -> np.ndarray:
    """Whether each tap of each pixel of `pixels_of` is inside the image: (pixels, taps)."""
    geometry, inside = window3d(window), np.ones((1, 1), bool)
    for axis, pixels in enumerate(pixels_of(window, pool).T):
        taps = np.arange(geometry.kernel[axis]) * geometry.dilation[axis] - geometry.before[axis]
        seen = pixels[:, None] * geometry.stride[axis] + taps
        along = (seen >= 0) & (seen < geometry.input[axis])
        inside = (inside[:, :, None] & along[:, None, :]).reshape(len(along), -1)
    return inside


@functools.lru_cache(_KEPT)
def arranged(
    window: Window,
    pool: Window | None,
    channels: int,
    images: int,
    blocks: int,
    together: int,
    near: bool,
    depthwise: bool,
) -> Arrangement:
    """`arrange` for a convolution, with or without pooling after it.

    `near`: neighbouring pixels and taps of a row are as far apart as there are kernels for.
    """
    width = (pool.kernel if pool else window.output)[-1] if window.output else 1
    run, taps = (width, window.kernel[-1]) if near else (1, 1)
    size = int(np.prod(pool.kernel)) if pool else 1
    inside = taps_inside(window, pool)
    lanes = {"pool": size, "run": run, "taps": taps, "together": together}
    return arrange(inside, channels, images, blocks, depthwise=depthwise, **lanes)
