"""The weight gradient by whole kernel rows: stride 1, no dilation, up to two spatial axes.

Arrays as in conv.py. As in conv_rows.py the input rows of a band are first copied side by side into a strip, and the
taps of a kernel row share their pixels: a register tile has OB output channels by CB input channels by the KW taps of a
kernel row, and each step along the image loads OB values of the gradient and CB of the input.

With `pairs` there are up to 8 images, and a vector of the gradient holds two output channels of them, as in
conv_rows.py; the strip has each value twice. The tree over the images then adds lanes of the same channel, and leaves
out the zeros of the missing 8.
"""

import functools

import numpy as np
from gpucnn.kernels.numba.compiler import kernel
from gpucnn.kernels.numba.conv import stride_of
from gpucnn.kernels.numba.conv_rows import fill_of
from gpucnn.kernels.numba.register_tiles import keep_first_of, lane_trees_of, sliding_tile, zeros_of
from gpucnn.kernels.numba.simd import LANES, interleave, load, store
from gpucnn.kernels.numba.sums import push_all_of, total
from numba import get_thread_id, prange


@kernel("channels in pairs")
def channel_pairs(x, y):
    """y (block, C / 2, position * 16) = x (block, C, position * 16) of 8 images, two channels to a vector."""
    half = y.shape[1]
    for u in prange(x.shape[0] * half):
        b, c = np.int64(u) // half, np.int64(u) % half
        for i in range(0, x.shape[2], LANES):
            store(y[b, c], i, interleave(load(x[b, 2 * c], i), load(x[b, 2 * c + 1], i)))


@functools.cache
def gradient_rows_of(OB: int, CB: int, KW: int, left: int, right: int, pairs: bool):
    """The kernel with tiles of OB output channels, or pairs of them, by CB input channels; that many in a group at
    least, no odd one among pairs, and rows of at least left + right pixels.

    The first `left` and the last `right` pixels that a row's windows see are outside the image.
    """
    count = OB * CB * KW
    zeros, run = zeros_of(count), sliding_tile(OB, CB, KW, left, right)
    masked, trees, fill = keep_first_of(count), lane_trees_of(count, pairs), fill_of(pairs)
    vectors, push_all, PAIR = len(trees), push_all_of(trees), 2 if pairs else 1

    @kernel(f"weight gradient rows {OB}x{CB}, kernel width {KW}, {left} and {right} outside{', pairs' * pairs}")
    def gradient_rows(dy, x, part, strips, scratch, images, groups, band, before, chunks, depth):
        """part[b] (O, C/group, 1, KH, KW) = the gradient of block b; dy (block, O or O / 2, 1, H, W, lane).

        A unit of work is a chunk of the tiles over O. strips (threads, C/group * (depth * band + KH - 1) * W * 16) is
        room for the input under `depth` bands, scratch (threads, slots) for waiting sums.
        """
        B, O, H, Q = dy.shape[0], dy.shape[1], dy.shape[3], dy.shape[4]
        CG, KH, height, line = part.shape[2], part.shape[4], x.shape[3], x.shape[4] * LANES
        OG = O // groups
        y_c, y_h = stride_of(dy, 1), stride_of(dy, 3)
        over_o, over_c = (OG + OB - 1) // OB, (CG + CB - 1) // CB
        bands = (H + band - 1) // band
        for u in prange(B * groups * chunks):
            u = np.int64(u)
            rest, chunk = u // chunks, u % chunks
            b, g = rest // groups, rest % groups
            strip, slots = strips[get_thread_id()], scratch[get_thread_id()]
            lanes = PAIR * min(LANES // PAIR, images - b * LANES)
            first, last = chunk * over_o // chunks, (chunk + 1) * over_o // chunks
            level = (last - first) * over_c * KH * vectors * LANES
            upper, x_c = 0, 0
            for t in range(bands):
                top, bottom = t * band, min(t * band + band, H)
                if t % depth == 0:
                    # The input rows that the output rows of `depth` bands see; none if they are in the padding.
                    upper = min(max(0, top - before[1]), height)
                    lower = max(upper, min(height, min(top + depth * band, H) - 1 - before[1] + KH))
                    fill(x, strip, b, g * CG, CG, upper, lower - upper)
                    x_c = (lower - upper) * line
                slot = 0
                for i in range(first, last):
                    o = g * OG + min(i * OB, OG - OB)
                    for j in range(over_c):
                        c = min(j * CB, CG - CB)
                        for r in range(KH):
                            # Output row h sees input row h + r - before.
                            shift = r - before[1]
                            start, stop = max(top, -shift), min(bottom, height - shift)
                            y_at = b * stride_of(dy, 0) + o * y_c
                            x_at = c * x_c + (shift - upper) * line - before[2] * LANES
                            acc = zeros()
                            for h in range(start, stop):
                                acc = run(acc, Q, dy, y_at + h * y_h, y_c, strip, x_at + h * line, x_c)
                            acc = acc if lanes == LANES else masked(acc, lanes)
                            push_all(slots, slot, level, t, acc)
                            slot += vectors * LANES
            slot = 0
            for i in range(first, last):
                o = g * OG + min(i * OB, OG - OB)
                for j in range(over_c):
                    c = min(j * CB, CG - CB)
                    for r in range(KH):
                        for v in range(vectors):
                            at = slot + v * LANES
                            store(slots, at, total(slots, at, level, bands))
                        for m in range(OB):
                            for p in range(PAIR):
                                for n in range(CB):
                                    for s in range(KW):
                                        value = slots[slot + ((m * CB + n) * KW + s) * PAIR + p]
                                        part[b, PAIR * (o + m) + p, c + n, 0, r, s] = value
                        slot += vectors * LANES

    return gradient_rows
