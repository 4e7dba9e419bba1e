"""Convolution forward by whole kernel rows: no dilation, up to two spatial axes.

Arrays as in conv.py. A unit of work is a few rows of the output maps. The input rows that they see are first copied
side by side into a strip: in the maps themselves the same pixel of all channels often lies a power of two apart, and
then the caches hold few of them at once. A register tile has OB output channels by QB neighboring pixels and loads the
QB + KW - 1 input pixels under a kernel row once for all its KW taps. Taps outside the image are left out, columns as
well as rows: at the borders of small maps they are a seventh of the work. A depthwise convolution reads its maps where
they are.

With `pairs`, see conv.py, the strip has each value twice.
"""

import functools

import numpy as np
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.conv import finish_of, pack, stride_of, taps_inside
from gpucnn.kernels.numba.norm import read
from gpucnn.kernels.numba.register_tiles import row_tile, zeros_of
from gpucnn.kernels.numba.simd import LANES, interleave, store
from gpucnn.kernels.numba.team import get_thread_id, prange


@functools.cache
def fill_of(pairs: bool):
    """The function that copies rows of the input side by side, with `pairs` the values of 8 images twice."""

    @inner
    def fill(x, strip, block, channel, channels, first, last, top, room, step, known, norm):
        """strip[c, (h - top) % room, w, lane] = rows first .. last - 1, each h, of so many channels from `channel` on.

        Channels are `step` floats apart. With `norm` their batch norm and ReLU, by the constants `known`.
        """
        x_c, x_h, row = stride_of(x, 1), stride_of(x, 3), x.shape[4] * LANES
        at = block * stride_of(x, 0) + channel * x_c
        for c in range(channels):
            place = (first - top) % max(room, 1)  # no room: no rows
            for h in range(first, last):
                for w in range(0, row, LANES):
                    v = read(x, at + c * x_c + h * x_h + w, known, channel + c, norm)
                    store(strip, c * step + place * row + w, interleave(v, v) if pairs else v)
                place = place + 1 if place + 1 < room else 0

    return fill


@inner
def apart(size, pixels):
    """The floats from one channel of a strip to the next, for channels of `size`, of which `pixels` are read at once.

    The first-level cache has a place for a line in each 4 KiB: at multiples of 1 KiB few channels would fit.
    """
    return size + (pixels * LANES if size % (16 * LANES) == 0 else 0)


@functools.cache
def conv_rows_of(
    OB: int, QB: int, KW: int, left: int, right: int, alone: bool, *, stride: int, copies: bool, pairs: bool
):
    """The kernel with tiles of OB output channels, or pairs of them, by QB pixels, for kernels KW wide; O/group >= WB,
    the output channels of a tile.

    QB divides the output's row, and is all of it where a tile stands `alone`. The first `left` and the last `right`
    pixels that a row's windows see are outside the image, at most QB of them. `stride` is that along a row. Without
    `copies` C/group is 1 and there is no strip.
    """
    zeros, fill, WB = zeros_of(OB * QB), fill_of(pairs), 2 * OB if pairs else OB
    finish = finish_of(OB, QB, pairs)
    inside = row_tile(OB, QB, KW, 0, 0, stride, pairs)
    first_tile = row_tile(OB, QB, KW, left, right if alone else 0, stride, pairs)
    last_tile = row_tile(OB, QB, KW, 0, right, stride, pairs)

    if alone:

        @inner
        def sums(q, Q, *arguments):
            return first_tile(*arguments)
    elif left == right == 0:

        @inner
        def sums(q, Q, *arguments):
            return inside(*arguments)
    else:

        @inner
        def sums(q, Q, *arguments):
            if q == 0:
                return first_tile(*arguments)
            if q == Q - QB:
                return last_tile(*arguments)
            return inside(*arguments)

    name = f"conv rows {OB}x{QB}, kernel width {KW}, {left} and {right} outside, stride {stride}"
    name += ", alone" * alone + ", copied" * copies + ", pairs" * pairs

    @kernel(name)
    def conv_rows(x, w, bias, y, packed, strips, row_stride, before, relu, other, adds, depth, chunks, known, norm):
        """y = x correlated with w, plus bias (O,); w (group, O/group, C/group, 1, KH, KW). `other` lies as y does.

        A unit is `depth` rows of y, of one of `chunks` of the output channels. packed (group, tiles, terms, WB) is room
        for the weights, strips (threads, C/group * (input rows of a unit * W + QB) * 16) for the input, see `apart`.
        """
        B, H, Q, G = y.shape[0], y.shape[3], y.shape[4], w.shape[0]
        OG, CG, KH = w.shape[1], w.shape[2], w.shape[4]
        y_c, y_w = stride_of(y, 1), stride_of(y, 4)
        line = x.shape[4] * LANES if copies else stride_of(x, 3)
        tiles, parts = packed.shape[1], -(-H // depth)
        w_r, w_c = KW * WB, KH * KW * WB
        for u in prange(G * tiles):
            u = np.int64(u)
            pack(w, packed[u // tiles, u % tiles], u // tiles, WB, u % tiles)
        held = -1  # the unit whose rows are in the strip, but for its chunk
        for u in prange(B * G * chunks * parts):
            u = np.int64(u)
            rest, part = u // parts, u % parts
            rest, chunk = rest // chunks, rest % chunks
            b, g = rest // G, rest % G
            top, bottom = part * depth, min(part * depth + depth, H)
            # The input rows that these output rows see; none at all if they are in the padding.
            upper = min(max(0, top * row_stride - before[1]), x.shape[3])
            lower = max(upper, min(x.shape[3], (bottom - 1) * row_stride - before[1] + KH))
            if copies:
                source, first, x_c = strips[get_thread_id()], -upper * line, apart((lower - upper) * line, QB)
                if held != rest * parts + part:
                    held = rest * parts + part
                    fill(x, source, b, g * CG, CG, upper, lower, upper, lower - upper, x_c, known, norm)
            else:
                source, first, x_c = x, b * stride_of(x, 0) + g * stride_of(x, 1), 0
            for h in range(top, bottom):
                in_h = h * row_stride - before[1]
                r_low, r_high = taps_inside(in_h, 1, KH, x.shape[3])
                row, lines = first + (in_h + r_low) * line, r_high - r_low
                for q in range(0, Q, QB):
                    at = row + (q * stride - before[2]) * LANES
                    for tile in range(chunk * tiles // chunks, (chunk + 1) * tiles // chunks):
                        o = min(tile * WB, OG - WB)
                        weights = packed[g, tile]
                        acc = sums(q, Q, zeros(), CG, lines, weights, r_low * w_r, w_c, w_r, source, at, x_c, line)
                        y_at = b * stride_of(y, 0) + (g * OG + o) * y_c + h * stride_of(y, 3) + q * y_w
                        finish(acc, bias, g * OG + o, y, y_at, y_c, y_w, relu, other, adds)

    return conv_rows
