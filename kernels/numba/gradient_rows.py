"""The weight gradient by whole kernel rows, without dilation on up to two spatial axes, or along lines.

Arrays as in conv.py. As in conv_rows.py the input rows of a band are first copied side by side into a strip, and the
taps of a kernel row share their pixels: a register tile has OB output channels by CB input channels by the KW taps of a
kernel row, and each step along the image loads OB values of the gradient and CB of the input.

Where blocks are few, their bands are divided among the threads, since each thread that works on a band copies all of
the input that it sees. A part has a power of two of bands, so its sum is a node of the tree over the bands.

With `pairs` there are up to 8 images, and a vector of the gradient holds two output channels of them, as in
conv.py; the strip has each value twice. The tree over the images then adds lanes of the same channel, and leaves
out the zeros of the missing 8.
"""

import functools

import numpy as np
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.conv import halves_of, over_lanes_of, stride_of
from gpucnn.kernels.numba.conv_rows import fill_of
from gpucnn.kernels.numba.norm import read
from gpucnn.kernels.numba.register_tiles import keep_first_of, lane_trees_of, sliding_tile, zeros_of
from gpucnn.kernels.numba.simd import LANES, interleave, load, splat, store
from gpucnn.kernels.numba.sums import push_all_of, total
from gpucnn.kernels.numba.team import get_thread_id, prange


@kernel("channels in pairs")
def channel_pairs(x, y):
    """y (block, C / 2, position * 16) = x (block, C, position * 16) of 8 images, two channels to a vector."""
    half = y.shape[1]
    for u in prange(x.shape[0] * half):
        b, c = np.int64(u) // half, np.int64(u) % half
        for i in range(0, x.shape[2], LANES):
            store(y[b, c], i, interleave(load(x[b, 2 * c], i), load(x[b, 2 * c + 1], i)))


@functools.cache
def tile_end_of(OB: int, CB: int, KW: int, vectors: int, PAIR: int):
    """The function that ends the trees over the bands of a tile, which wait from `slot` on, and writes the result: that
    of the taps `first`, `first + apart` ... of kernel row r.
    """

    @inner
    def tile_end(part, o, c, r, first, apart, slots, slot, level, bands):
        for v in range(vectors):
            store(slots, slot + v * LANES, total(slots, slot + v * LANES, level, bands))
        for m in range(OB):
            for p in range(PAIR):
                for n in range(CB):
                    for s in range(KW):
                        value = slots[slot + ((m * CB + n) * KW + s) * PAIR + p]
                        part[PAIR * (o + m) + p, c + n, 0, r, first + s * apart] = value

    return tile_end


@functools.cache
def gradient_rows_of(OB: int, CB: int, KW: int, left: int, right: int, stride: int, pairs: bool, halves: int):
    """The kernel with tiles of OB output channels, or pairs of them, by CB input channels; that many in a group at
    least, no odd one among pairs, and rows of which no window sees both ends.

    The first `left` and the last `right` pixels that a row's windows see are outside the image. `stride` is that along
    a row; `halves`: see over_lanes_of.
    """
    count = OB * CB * KW
    zeros, fill = zeros_of(count, halves > 0), fill_of(pairs)
    run = sliding_tile(OB, CB, KW, left, right, stride, halves > 0)
    masked, trees = keep_first_of(count), lane_trees_of(count, pairs)
    vectors, push_all, PAIR = len(trees), push_all_of(trees), 2 if pairs else 1
    tile_end = tile_end_of(OB, CB, KW, vectors, PAIR)

    @inner
    def pair_rows(dy, paired, block, channel, count, top, bottom):
        """paired[c, h - top, w, lane] = rows top .. bottom - 1 of so many pairs of channels from `channel` on."""
        size, to = (bottom - top) * dy.shape[4] * LANES, 0
        for c in range(count):
            at = block * stride_of(dy, 0) + (channel + 2 * c) * stride_of(dy, 1) + top * stride_of(dy, 3)
            for w in range(0, size, LANES):
                store(paired, to, interleave(load(dy, at + w), load(dy, at + stride_of(dy, 1) + w)))
                to += LANES

    @inner
    def lines_sum(lane, start, stop, stride, shift, room, pixels, dy, y_at, y_h, y_c, strip, x_at, line, x_c):
        """The chains over output rows start .. stop - 1 of one tile, in the lanes from `lane` on."""
        acc = zeros()
        for h in range(start, stop):
            row = (h * stride + shift) % room
            acc = run(acc, pixels, dy, y_at + h * y_h + lane, y_c, strip, x_at + row * line + lane, x_c)
        return acc

    band_sum = over_lanes_of(count, lines_sum, halves)
    name = f"weight gradient rows {OB}x{CB}, kernel width {KW}, {left} and {right} outside, stride {stride}"

    @kernel(name + ", pairs" * pairs + halves_of(halves))
    def gradient_rows(
        dy, x, part, strips, paired, scratch, images, groups, band, span, row_stride, before, chunks, room, known, norm
    ):
        """part[b, p] (O, C/group, 1, KH, KW) = the gradient of part p of block b, `span` bands; rows of dy contiguous.

        A unit of work is a chunk of the tiles over O in such a part. strips (threads, C/group * `room` * W * 16) is for
        the last input rows that were copied, paired (threads, values) for the pairs of a chunk's channels in a band,
        scratch (threads, slots) for waiting sums.
        """
        B, H, Q, parts, O = dy.shape[0], dy.shape[3], dy.shape[4], part.shape[1], part.shape[2]
        CG, KH, height, line = part.shape[3], part.shape[5], x.shape[3], x.shape[4] * LANES
        OG = O // groups // PAIR
        over_o, over_c = (OG + OB - 1) // OB, (CG + CB - 1) // CB
        bands, x_c = (H + band - 1) // band, room * line
        # The thread's strip has rows low..high - 1 of this group of a block.
        held, low, high = -1, 0, 0
        for u in prange(B * groups * parts * chunks):
            u = np.int64(u)
            rest, chunk = u // chunks, u % chunks
            source, p = rest // parts, rest % parts
            b, g = source // groups, source % groups
            strip, slots = strips[get_thread_id()], scratch[get_thread_id()]
            lanes = PAIR * min(LANES // PAIR, images - b * LANES)
            first, last = chunk * over_o // chunks, (chunk + 1) * over_o // chunks
            level = (last - first) * over_c * KH * vectors * LANES
            # The first of the chunk's channels, or pairs of them.
            o_first = min(first * OB, OG - OB)
            if pairs:
                gradient = paired[get_thread_id()]
            else:
                gradient = dy
            end = min(p * span * band + span * band, H)
            for t in range(p * span, min(p * span + span, bands)):
                top, bottom = t * band, min(t * band + band, H)
                # The input rows that these output rows see; none if they are in the padding.
                upper = min(max(0, top * row_stride - before[1]), height)
                lower = max(upper, min(height, (bottom - 1) * row_stride - before[1] + KH))
                if held != source or not low <= upper <= high:
                    held, low, high = source, upper, upper
                if lower > high:
                    # As many as there is room for: long runs are copied faster.
                    more = max(lower, min(upper + room, height, (end - 1) * row_stride - before[1] + KH))
                    fill(x, strip, b, g * CG, CG, high, more, 0, room, x_c, known, norm)
                    low, high = max(low, more - room), more
                if pairs:
                    pair_rows(dy, gradient, b, 2 * (g * OG + o_first), min(last * OB, OG) - o_first, top, bottom)
                    y_c, y_h = (bottom - top) * Q * LANES, Q * LANES
                    y_first = -top * y_h
                else:
                    y_c, y_h = stride_of(dy, 1), stride_of(dy, 3)
                    y_first = b * stride_of(dy, 0) + (g * OG + o_first) * y_c
                slot = 0
                for i in range(first, last):
                    y_at = y_first + (min(i * OB, OG - OB) - o_first) * y_c
                    for j in range(over_c):
                        x_at = min(j * CB, CG - CB) * x_c - before[2] * LANES
                        for r in range(KH):
                            # Output row h sees input row h * stride + r - before.
                            shift = r - before[1]
                            start = max(top, -(shift // row_stride))
                            stop = min(bottom, (height - 1 - shift) // row_stride + 1)
                            where = Q, gradient, y_at, y_h, y_c, strip, x_at, line, x_c
                            acc = band_sum(start, stop, row_stride, shift, room, *where)
                            acc = acc if lanes == LANES else masked(acc, lanes)
                            push_all(slots, slot, level, t - p * span, acc)
                            slot += vectors * LANES
            slot = 0
            for i in range(first, last):
                o = g * OG + min(i * OB, OG - OB)
                for j in range(over_c):
                    c = min(j * CB, CG - CB)
                    for r in range(KH):
                        tile_end(part[b, p], o, c, r, 0, 1, slots, slot, level, min(span, bands - p * span))
                        slot += vectors * LANES

    return gradient_rows


@functools.cache
def gradient_lines_of(OB: int, CB: int, KW: int, pairs: bool, halves: int):
    """The same for images of one spatial axis, with tiles of KW taps of a kernel: the strip is what a band sees, with
    zeros where that is outside the image. A product with such a zero adds nothing that rule 3 would see, unless the
    gradient is infinite.

    A strip has what each phase of the stride sees, one phase after the other, so a tile's KW taps, a stride apart, see
    neighbors there.
    """
    count = OB * CB * KW
    zeros, run = zeros_of(count, halves > 0), sliding_tile(OB, CB, KW, 0, 0, 1, halves > 0)
    masked, trees = keep_first_of(count), lane_trees_of(count, pairs)
    vectors, push_all, PAIR = len(trees), push_all_of(trees), 2 if pairs else 1
    tile_end = tile_end_of(OB, CB, KW, vectors, PAIR)

    @inner
    def line_sum(lane, pixels, dy, y_at, y_c, strip, x_at, x_c):
        return run(zeros(), pixels, dy, y_at + lane, y_c, strip, x_at + lane, x_c)

    band_sum = over_lanes_of(count, line_sum, halves)

    @kernel(f"weight gradient lines {OB}x{CB}, {KW} taps{', pairs' * pairs}{halves_of(halves)}")
    def gradient_lines(
        dy, x, part, strips, scratch, places, images, groups, band, stride, reach, room, before, chunks, known, norm
    ):
        """part[b] (O, C/group, 1, 1, K) = the gradient of block b; dy (block, O or O / 2, 1, 1, W, lane).

        A window sees `reach` pixels. places (tiles, 3): see tiles.line_places. A unit of work is a chunk of the tiles
        over O. strips (threads, C/group * stride * `room` * 16) is for the input under a band, `room` for a phase,
        scratch (threads, slots) for waiting sums.
        """
        B, O, Q, W, CG = dy.shape[0], dy.shape[1], dy.shape[4], x.shape[4], part.shape[2]
        OG, y_c, x_c = O // groups, stride_of(dy, 1), stride * room * LANES
        over_o, over_c, bands = (OG + OB - 1) // OB, (CG + CB - 1) // CB, (Q + band - 1) // band
        for u in prange(B * groups * chunks):
            u = np.int64(u)
            rest, chunk = u // chunks, u % chunks
            b, g = rest // groups, rest % groups
            strip, slots = strips[get_thread_id()], scratch[get_thread_id()]
            lanes = PAIR * min(LANES // PAIR, images - b * LANES)
            first, last = chunk * over_o // chunks, (chunk + 1) * over_o // chunks
            level = (last - first) * over_c * len(places) * vectors * LANES
            for t in range(bands):
                pixels = min(band, Q - t * band)
                left, seen = t * band * stride - before, (pixels - 1) * stride + reach
                for c in range(CG):
                    x_at = b * stride_of(x, 0) + (g * CG + c) * stride_of(x, 1)
                    for phase in range(min(stride, seen)):
                        to = c * x_c + phase * room * LANES
                        for place in range(left + phase, left + seen, stride):
                            v = splat(np.float32(0))
                            if 0 <= place < W:
                                v = read(x, x_at + place * LANES, known, g * CG + c, norm)
                            store(strip, to, interleave(v, v) if pairs else v)
                            to += LANES
                slot = 0
                for i in range(first, last):
                    o = g * OG + min(i * OB, OG - OB)
                    y_at = b * stride_of(dy, 0) + o * y_c + t * band * LANES
                    for j in range(over_c):
                        x_at = min(j * CB, CG - CB) * x_c
                        for k in range(len(places)):
                            at = x_at + (places[k, 1] * room + places[k, 2]) * LANES
                            acc = band_sum(pixels, dy, y_at, y_c, strip, at, x_c)
                            acc = acc if lanes == LANES else masked(acc, lanes)
                            push_all(slots, slot, level, t, acc)
                            slot += vectors * LANES
            slot = 0
            for i in range(first, last):
                for j in range(over_c):
                    o, c = g * OG + min(i * OB, OG - OB), min(j * CB, CG - CB)
                    for k in range(len(places)):
                        tile_end(part[b], o, c, 0, places[k, 0], stride, slots, slot, level, bands)
                        slot += vectors * LANES

    return gradient_lines
