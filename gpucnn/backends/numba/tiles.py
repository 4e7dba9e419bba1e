"""The choice of a CPU kernel's register tile by shape.

Time is in cycles of a core that issues two vector multiply-adds per cycle and needs about eight in flight. Tiles at
the end of an axis overlap their neighbors, so an uneven axis costs whole tiles.
"""

import functools
import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from gpucnn.arithmetic.sums import BAND
from gpucnn.kernels.numba.simd import LANES

_Tile = TypeVar("_Tile", bound=tuple[int, ...])

# Each tile is a kernel to compile, so there are few. Their accumulators must fit in registers next to the operands: 24
# of 32 if a register holds the 16 lanes (AVX-512), 6 if the lanes take two of 16 (AVX2) or four of 32 (NEON). Of weight
# gradients 12 then, see `halves`.
_BROADCAST = {
    24: ((1, 1), (1, 4), (1, 8), (2, 4), (4, 1), (4, 4), (4, 5), (6, 2), (8, 1), (8, 2)),
    6: ((1, 1), (1, 4), (2, 1), (2, 2), (4, 1), (6, 1)),
}
_PRODUCT = {
    24: ((1, 1, 1), (1, 1, 3), (1, 1, 5), (4, 1, 1), (4, 4, 1), (8, 1, 3), (3, 1, 5), (4, 1, 5)),
    6: ((1, 1, 1), (1, 1, 3), (1, 1, 5), (4, 1, 1), (4, 3, 1), (4, 1, 3)),
}
_TREE_CYCLES = 45
# Those that are compiled before any network asks for them: one of them fits each shape.
GENERAL_BROADCAST = {24: ((4, 4), (1, 1)), 6: ((4, 1), (1, 1))}
GENERAL_POOLED = {24: ((4, 2), (1, 2)), 6: ((1, 2),)}
GENERAL_PRODUCT = {24: ((4, 4, 1), (4, 1, 1), (1, 1, 1)), 6: ((4, 3, 1), (4, 1, 1), (1, 1, 1))}


@functools.cache
def accumulators() -> int:
    """The number of 16-lane accumulators that a tile may have, for the features that Numba compiles for."""
    from numba.core.registry import cpu_target

    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return 24 if "+avx512f" in features else 6


def has_narrow_registers() -> bool:
    """Whether 16 lanes take two registers or more, of 16 or 32."""
    return accumulators() < 24


def halves() -> int:
    """How many halves of its vectors a weight gradient computes one after the other, or 0 for whole vectors.

    In 16 registers whole vectors leave no room for what several products share.
    """
    return 2 if has_narrow_registers() else 0


def general(every: Mapping[int, Sequence[_Tile]], *sizes: int) -> _Tile:
    """The first tile that is no larger than these sizes."""
    return next(tile for tile in every[accumulators()] if all(map(operator.le, tile, sizes)))


def _cycles(scalars: int, vectors: int, taps: int = 3) -> float:
    """Cycles of one step of a tile of `scalars` by `vectors` accumulators, fitted to measurements.

    The multiply-adds, of which eight must be in flight, or the loads of vectors; a share of each load, larger for
    vectors, which come from the second-level cache once for all taps of a row; and a penalty for tiles that fill the
    registers.
    """
    products = scalars * vectors
    if has_narrow_registers():  # a vector takes two, and few are left for what is multiplied
        return max(products, 4) + 0.15 + 0.6 * vectors
    work = max(products / 2, 4, 1.2 * vectors)
    return work + 0.1 * scalars + 0.75 * vectors / max(taps, 1) + (1.2 if products > 20 else 0)


@functools.cache
def broadcast_tile(outputs: int, pixels: int, row: tuple[int, int, int, int, int] = (1, 1, 1, 0, 1)) -> tuple[int, int]:
    """(OB, QB) for `outputs` output channels by rows of `pixels` pixels.

    `row` is (input width, taps, stride, padding before, dilation) along the row: a tile skips the taps that are outside
    the image for all of its pixels, so narrow tiles waste less at the edges.
    """
    width, taps, stride, before, dilation = row

    def steps(qb):
        firsts = [min(q, pixels - qb) * stride - before for q in range(0, pixels, qb)]
        reach = (qb - 1) * stride
        return sum(-reach <= f + s * dilation < width for f in firsts for s in range(taps)) if taps > 1 else len(firsts)

    def cost(tile):
        ob, qb = tile
        return math.ceil(outputs / ob) * steps(qb) * _cycles(ob, qb, taps)

    return min((t for t in _BROADCAST[accumulators()] if t[0] <= outputs and t[1] <= pixels), key=cost)


def fits_registers(products: int) -> bool:
    """Whether so many accumulators of a gradient fit in registers, next to one vector of it."""
    return products <= accumulators() + 1


def fills_half(images: int) -> bool:
    """Whether the images leave half of the lanes empty, so that two output channels can share a vector."""
    return images <= LANES // 2


def outside(line: int, before: int, pixels: int, stride: int, width: int) -> tuple[int, int]:
    """How many pixels before and after an image's row of `line` the windows of a row of `pixels` outputs read."""
    return before, max(0, (pixels - 1) * stride + width - line - before)  # a stride may leave the last ones unread


# (OB, QB) of convolution by whole kernel rows. Where there are 32 registers, a row's QB + KW - 1 pixels are held too.
_ROWS = {24: ((1, 4), (1, 8), (2, 7), (2, 8), (3, 5), (4, 4)), 6: ((6, 1), (4, 1), (2, 2), (1, 4), (1, 1))}
_ROW_WIDTHS = (1, 2, 3, 5)
# The strip of input rows should fit in the second-level cache, with room for weights and outputs.
_STRIP_BYTES = 640 << 10
# The weight gradient reads a strip in long runs, which may come from the third level.
_BAND_STRIP_BYTES = 2 << 20
_FIRST_CACHE = 32 << 10


@functools.cache
def row_tile(
    outputs: int,
    channels: int,
    pixels: int,
    width: int,
    outside: tuple[int, int],
    stride: int = 1,
    pairs: bool = False,
) -> tuple[int, int] | None:
    """(OB, QB) for `outputs` output channels of `channels` by rows of `pixels` pixels and kernels `width` taps wide;
    None if no tile fits.

    `outside` is the number of pixels read before and after the image. Below four output channels, copying the input
    costs more than it saves, unless it has one channel. With `pairs` OB counts pairs of channels.
    """
    worthwhile = channels == 1 or outputs >= 4
    if width not in _ROW_WIDTHS or stride > 2 or not worthwhile or min(outside) < 0 or max(outside) >= width:
        return None
    outputs //= 2 if pairs else 1

    def cost(tile):
        ob, qb = tile
        if has_narrow_registers():
            return math.ceil(outputs / ob) * (pixels // qb) * (max(ob * qb, 4) * width + 0.5 * (width + 1))
        # Under a stride each tap reads pixels of its own, from the second cache unless a square kernel's fit in the
        # first.
        far = channels * width * ((qb - 1) * stride + width) * LANES * 4 > _FIRST_CACHE
        loads = 0.1 * ob * width + (0.1 * (qb + width - 1) if stride == 1 else (0.5 if far else 0.2) * qb * width)
        return math.ceil(outputs / ob) * (pixels // qb) * (max(ob * qb / 2, 4) * width + loads)

    fitting = [
        (ob, qb) for ob, qb in _ROWS[accumulators()] if ob <= outputs and pixels % qb == 0 and max(outside) <= qb
    ]
    return min(fitting, key=cost, default=None)


def strip_depth(channels: int, line: int, taps: int, rows: int, images: int, threads: int) -> int:
    """The number of output rows, of `rows`, per unit of work, for strips of `channels` lines of `line` pixels of 16
    images.

    `images` is blocks times groups: there should be a few units per thread.
    """
    fits = _STRIP_BYTES // (channels * line * 64) - (taps - 1)
    parts = max(-(-4 * threads // images), -(-rows // max(1, fits)))
    return max(1, -(-rows // min(rows, parts)))


def fits_strip(channels: int, pixels: int) -> bool:
    """Whether `channels` maps of so many pixels of 16 images make a strip."""
    return channels * pixels * LANES * 4 <= _STRIP_BYTES


# (OB, QB) of convolution with max pooling: the tile is OB channels by two lines of QB pixels.
_POOLED = {24: ((6, 2), (4, 2), (1, 4), (1, 2)), 6: ((1, 2),)}


@functools.cache
def pooled_tile(outputs: int, pixels: int) -> tuple[int, int]:
    """(OB, QB), QB even, for convolution with 2x2 max pooling; `pixels` is the length of a line before pooling."""

    def cost(tile):
        ob, qb = tile
        return math.ceil(outputs / ob) * math.ceil(pixels / qb) * _cycles(ob, 2 * qb)

    return min((t for t in _POOLED[accumulators()] if t[0] <= outputs and t[1] <= pixels), key=cost)


@functools.cache
def product_tile(outputs: int, channels: int, taps: int) -> tuple[int, int, int]:
    """(OB, CB, SB) for the weight gradient of `outputs` by `channels` by rows of `taps` taps."""

    def cost(tile):
        ob, cb, sb = tile
        number = math.ceil(outputs / ob) * math.ceil(channels / cb) * math.ceil(taps / sb)
        trees = math.ceil(ob * cb * sb / 16) * _TREE_CYCLES
        return number * (BAND * _cycles(ob, cb * sb) + trees)

    fitting = (t for t in _PRODUCT[accumulators()] if t[0] <= outputs and t[1] <= channels and t[2] <= taps)
    return min(fitting, key=cost)


# (OB, CB) of the weight gradient by whole kernel rows, or pieces of them, by their taps; a step's pixels are in
# registers too.
_GRADIENT_ROWS = {
    24: {
        1: ((1, 1), (4, 1), (4, 4), (8, 1), (8, 2)),
        3: ((1, 1), (2, 1), (4, 1), (4, 2), (8, 1)),
        5: ((1, 1), (2, 1), (2, 2), (4, 1)),
        7: ((1, 1), (2, 1), (3, 1)),
    },
    6: {
        1: ((1, 1), (4, 1), (4, 2), (4, 3), (6, 2)),
        3: ((1, 1), (2, 1), (3, 1), (4, 1)),
        5: ((1, 1), (2, 1)),
    },
}


@functools.cache
def gradient_row_tile(
    outputs: int,
    channels: int,
    width: int,
    pixels: int,
    outside: tuple[int, int],
    stride: int = 1,
    pairs: bool = False,
) -> tuple[int, int] | None:
    """(OB, CB) for the weight gradient of `outputs` by `channels` by kernels `width` taps wide; None if none fits.

    `pixels` is the length of an output row, `outside` the pixels that its windows read before and after the image. With
    `pairs` OB counts pairs of channels.
    """
    ends = sum(-(-out // stride) for out in outside)  # steps that see an end
    # A single tap under a stride does not pay for copying what lies between.
    if min(outside) < 0 or max(outside) >= width or ends > pixels or stride > min(2, width):
        return None
    every = _gradient_tiles(outputs // 2 if pairs else outputs, channels, width)
    return min(every, key=lambda tile: every[tile], default=None)


def _gradient_tiles(outputs: int, channels: int, taps: int) -> dict[tuple[int, int], float]:
    """The cycles that tiles (OB, CB) of so many taps take for all of the outputs and channels over a band."""

    def cycles(ob, cb):
        trees = math.ceil(ob * cb * taps / 16) * _TREE_CYCLES
        steps = max(ob * cb * taps / 2, 4) + 0.3 * ob + 0.7 * cb
        return math.ceil(outputs / ob) * math.ceil(channels / cb) * (BAND * steps + trees)

    fitting = _GRADIENT_ROWS[accumulators()].get(taps, ())
    return {(ob, cb): cycles(ob, cb) for ob, cb in fitting if ob <= outputs and cb <= channels}


@functools.cache
def gradient_line_tile(
    outputs: int, channels: int, width: int, stride: int, dilation: int, pairs: bool
) -> tuple[int, int, int] | None:
    """(OB, CB, taps) for the weight gradient of `outputs` by `channels` along a line; None if none fits, or if too much
    would be copied that no tap sees, or that does not stay in a cache.

    With `pairs` OB counts pairs of channels.
    """
    seen = (BAND - 1) * stride + (width - 1) * dilation + 1
    if seen > 2 * BAND * width or channels * seen * LANES * 4 > 2 * _BAND_STRIP_BYTES:
        return None
    found = {
        (*tile, taps): cycles * len(line_places(width, stride, dilation, taps))
        for taps in _GRADIENT_ROWS[accumulators()]
        if len(line_places(width, stride, dilation, taps))
        for tile, cycles in _gradient_tiles(outputs // 2 if pairs else outputs, channels, taps).items()
    }
    return min(found, key=lambda tile: found[tile], default=None)


@functools.cache
def line_places(width: int, stride: int, dilation: int, taps: int) -> np.ndarray:
    """How tiles of `taps` taps cover a kernel along a line: int64 (tiles, 3), the first tap of each, and the phase of
    the stride that it sees, and where in that. No tiles if the taps do not see neighbors there.

    The last tile of a phase overlaps the one before.
    """
    places: list[tuple[int, int, int]] = []
    if taps == 1:
        places = [(t, t * dilation % stride, t * dilation // stride) for t in range(width)]
    elif dilation == 1 and taps <= width // stride:
        for phase in range(stride):
            count = len(range(phase, width, stride))
            firsts = (min(first, count - taps) for first in range(0, count, taps))
            places += [(phase + first * stride, phase, first) for first in firsts]
    return np.array(places, np.int64).reshape(-1, 3)


def strip_rows(channels: int, line: int, rows: int, least: int) -> int:
    """The number of input rows that a strip of the weight gradient holds: all `rows` that a unit of work sees if they
    fit, so that the next unit finds them there, or the `least` that a band needs.
    """
    return rows if rows * channels * line * 64 <= _BAND_STRIP_BYTES else min(rows, least)


def bands_together(bands: int, parts: int) -> int:
    """How many bands a thread sums up where a map should be cut into `parts`: all, or a power of two."""
    return bands if parts <= 1 else 1 << max(0, (bands // parts).bit_length() - 1)


@functools.cache
def corners(tile: tuple[int, ...], sizes: tuple[int, ...]) -> np.ndarray:
    """The first element of each tile of the weight gradient: int64 (tiles, 5) of (o, c, a, r, s), the taps fastest.

    `tile` is (OB, CB, SB) and `sizes` (O/group, C/group, KD, KH, KW). The last tile of an axis overlaps its neighbor.
    """
    outputs, channels, kd, kh, kw = sizes

    def starts(size: int, step: int) -> list[int]:
        return [min(first, size - step) for first in range(0, size, step)]

    axes = starts(outputs, tile[0]), starts(channels, tile[1]), range(kd), range(kh), starts(kw, tile[2])
    return np.array(list(itertools.product(*axes)), np.int64)
