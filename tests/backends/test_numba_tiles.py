"""Each register tile of the CPU kernels: the same bits whichever tile is used, on sizes that it fits unevenly.

Every tile is a kernel of its own, about two seconds to compile: this file is slow where nothing is compiled yet.
"""

import itertools

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.backends.numba import correlation, tiles
from gpucnn.geometry import window
from tests.backends.guarded import assert_bits, guarded, numbers

pytestmark = pytest.mark.slow

EXACT = get_backend("numpy", "exact")
GUARDED = guarded()(2)
# Widths with a machine code of their own and one without, rows in one piece or not, packed weights or plain ones.
VARIANTS = list(itertools.product((1, 3, 5, 4), (1, 2), (1, 10**9)))


def with_images(every, some):
    """(registers, number, tile, images): each tile with many images, and `some` with few too: lanes hold pairs then,
    or one half of them is enough.
    """
    tiles = [(registers, *numbered) for registers, choices in every.items() for numbered in enumerate(choices)]
    return [(*tile, images) for tile in tiles for images in ((17, 7) if tile[1] in some else (17,))]


@pytest.mark.parametrize(
    ("registers", "number", "tile", "images"), with_images(tiles._BROADCAST, (1, 2, 9)), indirect=["registers"], ids=str
)
def test_forward_tile(registers, number, tile, images, monkeypatch):
    """Each tile in one of the variants, each variant with some tile; of channels and, for few images, of pairs."""
    monkeypatch.setattr(tiles, "broadcast_tile", lambda *sizes: tile)
    # 7 and 16 have no common divisor: neighboring tiles take variants that differ in everything.
    width, stride, uses = VARIANTS[number * 7 % len(VARIANTS)]
    monkeypatch.setattr(correlation, "_PACK_USES", uses)
    (ob, qb), pairs = tile, images <= 8
    dilation = 1 + pairs * (width > 1)  # no whole kernel rows
    size = (qb + 2) * stride + (width - 1) * dilation + 1
    win = window((2, size), (2, width), padding=1, stride=(1, stride), dilation=(1, dilation))
    outs = 2 * ob * (1 + pairs) + 1
    w, bias = (GUARDED.array(numbers("cancelling", *shape)) for shape in ((outs, 2, *win.kernel), (outs,)))
    x = numbers("random", images, 2, *win.input)
    expected = EXACT.conv(EXACT.pack(x), w, bias, win).numpy()
    assert_bits(GUARDED.unpack(GUARDED.conv(GUARDED.pack(x), w, bias, win)), expected)
    GUARDED.verify()


@pytest.mark.parametrize("tile", tiles._BROADCAST[tiles.accumulators()], ids=str)
def test_dense_weight_gradient_tile(tile, monkeypatch):
    monkeypatch.setattr(tiles, "broadcast_tile", lambda *sizes: tile)
    ob, cb = tile
    dw = GUARDED.zeros((2 * ob + 1, 16 * cb + 5))
    x, dy = numbers("random", 35, dw.shape[1]), numbers("cancelling", 35, len(dw))
    expected = np.zeros(dw.shape, np.float32)
    EXACT.dense_weight_gradient(EXACT.pack(dy), EXACT.pack(x), expected)
    GUARDED.dense_weight_gradient(GUARDED.pack(dy), GUARDED.pack(x), dw)
    assert_bits(dw, expected)
    GUARDED.verify()


@pytest.mark.parametrize(("number", "tile"), list(enumerate(tiles._POOLED[tiles.accumulators()])), ids=str)
def test_pooled_tile(number, tile, monkeypatch):
    monkeypatch.setattr(tiles, "pooled_tile", lambda *sizes: tile)
    (ob, qb), width = tile, (1, 3, 5, 4)[number % 4]
    win = window((5, qb + 4), (3, width), padding=(1, width // 2))
    pool = window(win.output, 2, stride=2)
    w, bias = (GUARDED.array(numbers("cancelling", *shape)) for shape in ((2 * ob + 1, 2, *win.kernel), (2 * ob + 1,)))
    x = numbers("random", 17, 2, *win.input)
    expected, _ = EXACT.conv_max_pool(EXACT.pack(x), w, bias, win, 1, pool)
    y, _ = GUARDED.conv_max_pool(GUARDED.pack(x), w, bias, win, 1, pool)
    assert_bits(GUARDED.unpack(y), expected.numpy())
    GUARDED.verify()


@pytest.mark.parametrize(
    ("registers", "number", "tile", "images"), with_images(tiles._PRODUCT, (2, 5)), indirect=["registers"], ids=str
)
def test_weight_gradient_tile(registers, number, tile, images, monkeypatch):
    monkeypatch.setattr(tiles, "product_tile", lambda *sizes: tile)
    ob, cb, sb = tile
    size, taps, outs, dilation = (9, 20), (2, sb + 1), 2 * ob - 1, (1, 1 + number % 3 // 2)
    if images <= 8:  # pairs of output channels; volumes, which have no whole kernel rows
        size, taps, outs, dilation = (2, *size), (2, *taps), 4 * ob - 2, (1, *dilation)
    win = window(size, taps, padding=1, dilation=dilation)
    dw = GUARDED.zeros((outs, 2 * cb - 1, *win.kernel))
    x, dy = numbers("random", images, dw.shape[1], *win.input), numbers("random", images, len(dw), *win.output)
    expected = np.zeros(dw.shape, np.float32)
    EXACT.conv_weight_gradient(EXACT.pack(dy), EXACT.pack(x), win, 1, expected)
    GUARDED.conv_weight_gradient(GUARDED.pack(dy), GUARDED.pack(x), win, 1, dw)
    assert_bits(dw, expected)
    GUARDED.verify()
