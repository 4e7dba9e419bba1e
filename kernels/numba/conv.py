"""Convolution: forward, input gradient and weight gradient, for up to three spatial axes.

Activations are (block, channel, D, H, W, lane), with leading axes of size 1 for images of fewer dimensions; weights are
(group, O/group, C/group, *K). All arrays may be strided views: the input gradient is the forward kernel on a transposed
and flipped view of the weights, one call for each phase of the stride.

A register tile holds OB output channels by QB neighboring pixels of 16 images each. For each term k of the dot
product, in order, it loads QB vectors, broadcasts OB weights and issues OB * QB fused multiply-adds: the tile is the
fma chain of rule 2, with enough independent chains to fill the pipeline. Where the kernel reaches over the image's left
or right edge the outside pixels are read as zero; outside rows are skipped: rule 2's final + 0.0 makes both the same
bits.

Up to 8 images leave half of the lanes empty. With `pairs` a vector then holds two output channels of 8 images, lane
2n + p for channel p of image n: a weight of the tile is two floats. The chain of each output is the same.
"""

import functools

import numpy as np
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.register_tiles import (
    broadcast_tile,
    joined_of,
    keep_first_of,
    lane_trees_of,
    product_tile,
    zeros_of,
)
from gpucnn.kernels.numba.simd import (
    LANES,
    add,
    first_of_pairs,
    load,
    second_of_pairs,
    splat,
    splat_pair,
    store,
)
from gpucnn.kernels.numba.sums import push_all_of, total
from gpucnn.kernels.numba.team import get_thread_id, prange
from gpucnn.kernels.numba.vectors import biased, largest_of_four, rectified


@inner
def stride_of(a, axis):
    """Stride of an axis in elements."""
    return a.strides[axis] // a.itemsize


@inner
def taps_inside(first, dilation, taps, size):
    """The range of taps t with 0 <= first + t * dilation < size."""
    if dilation == 1:  # spares two divisions
        low, high = -first, size - first
    else:
        low = (-first + dilation - 1) // dilation
        high = (size - 1 - first) // dilation + 1
    low = min(max(low, 0), taps)
    return low, max(low, min(high, taps))


@inner
def pack(w, packed, g, OB, tile):
    """packed[k, i] = the weight of term k for output channel i of one tile: broadcasts then read along a line."""
    _, OG, CG, KD, KH, KW = w.shape
    o, k = min(tile * OB, OG - OB), 0
    for c in range(CG):
        for a in range(KD):
            for r in range(KH):
                for s in range(KW):
                    for i in range(OB):
                        packed[k, i] = w[g, o + i, c, a, r, s]
                    k += 1


@functools.cache
def finish_of(OB: int, QB: int, pairs: bool):
    """The function that writes a tile of OB output channels, or pairs of them, by QB pixels."""
    if pairs:

        @inner
        def finish(acc, bias, o, y, at, y_c, y_w, relu, other, adds):
            """y = (acc + bias) + 0, +0 in the lanes without an image; ReLU of it if `relu`; plus `other` if `adds`."""
            nothing = splat(np.float32(0))
            for i in range(OB):
                b = splat_pair(bias, o + 2 * i)
                for j in range(QB):
                    v, place = biased(acc[i * QB + j], b, relu), at + 2 * i * y_c + j * y_w
                    first, second = first_of_pairs(v, nothing), second_of_pairs(v, nothing)
                    if adds:
                        first, second = add(first, load(other, place)), add(second, load(other, place + y_c))
                    store(y, place, first)
                    store(y, place + y_c, second)
    else:

        @inner
        def finish(acc, bias, o, y, at, y_c, y_w, relu, other, adds):
            """y = (acc + bias) + 0, and ReLU of it if `relu`; plus `other` if `adds`."""
            for i in range(OB):
                b = splat(bias[o + i])
                for j in range(QB):
                    v, place = biased(acc[i * QB + j], b, relu), at + i * y_c + j * y_w
                    store(y, place, add(v, load(other, place)) if adds else v)

    return finish


@functools.cache
def conv_of(OB: int, QB: int, KW: int, dense_row: bool, packs: bool, pairs: bool):
    """The forward kernel with tiles of OB output channels, or pairs of them, by QB pixels; O/group >= WB, the output
    channels of a tile, and W of the output >= QB.

    KW is the kernel's width, or 0 for one that is read from the arrays; `dense_row`: neighboring pixels of
    the output see neighboring vectors of the input (stride 1). Both being constants spares a third of the
    instructions. With `packs` the weights are first laid out as the tiles read them, which pays where each is read
    often, and always for pairs.
    """
    WB = 2 * OB if pairs else OB
    zeros, finish = zeros_of(OB * QB), finish_of(OB, QB, pairs)
    step, run, edge_step = broadcast_tile(
        OB, QB, w_row=WB // OB if packs else None, x_column=LANES if dense_row else None, pairs=pairs
    )

    @inner
    def conv_row(
        x, w, bias, y, other, adds, block, g, d, h, first_tile, last_tile, kernel, stride, dilation, before, relu
    ):
        """Row (d, h) of the output maps whose tiles are first_tile..last_tile - 1 of group g.

        w is (tiles, terms, WB) if packed, else (group, O/group, C/group, *K).
        """
        OG, CG, KD, KH = kernel[0], kernel[1], kernel[2], kernel[3]
        width = KW if KW else kernel[4]
        D, H, W, Q = x.shape[2], x.shape[3], x.shape[4], y.shape[4]
        x_c, x_d, x_h, x_w = stride_of(x, 1), stride_of(x, 2), stride_of(x, 3), stride_of(x, 4)
        y_c, y_w = stride_of(y, 1), stride_of(y, 4)
        in_d, in_h = d * stride[0] - before[0], h * stride[1] - before[1]
        a_low, a_high = taps_inside(in_d, dilation[0], KD, D)
        r_low, r_high = taps_inside(in_h, dilation[1], KH, H)
        x_first = block * stride_of(x, 0) + g * CG * x_c + in_d * x_d + in_h * x_h
        y_first = block * stride_of(y, 0) + g * OG * y_c + d * stride_of(y, 2) + h * stride_of(y, 3)
        x_step, x_tap = stride[2] * x_w, dilation[2] * x_w
        if packs:
            w_o, w_w, w_r = 1, WB, width * WB
            w_d, w_c = KH * w_r, KD * KH * w_r
        else:
            w_o, w_c, w_d, w_r, w_w = (
                stride_of(w, 1),
                stride_of(w, 2),
                stride_of(w, 3),
                stride_of(w, 4),
                stride_of(w, 5),
            )
        for tile in range(first_tile, last_tile):
            o = min(tile * WB, OG - WB)
            w_first = tile * CG * w_c if packs else g * stride_of(w, 0) + o * w_o
            for q in range(0, Q, QB):
                q = min(q, Q - QB)
                column = q * stride[2] - before[2]
                # Taps that the leftmost and the rightmost pixel of the tile have inside the image; both have low..high.
                low, s_high = taps_inside(column, dilation[2], width, W)
                s_low, high = taps_inside(column + (QB - 1) * stride[2], dilation[2], width, W)
                acc = zeros()
                if KW == 1 and KD * KH == 1 and a_low < a_high and r_low < r_high and low < high:
                    acc = run(acc, CG, w, w_first, w_o, w_c, x, x_first + column * x_w, x_step, x_c)
                elif low == 0 and high == width:
                    for c in range(CG):
                        for a in range(a_low, a_high):
                            for r in range(r_low, r_high):
                                xi = x_first + c * x_c + a * dilation[0] * x_d + r * dilation[1] * x_h + column * x_w
                                wi = w_first + c * w_c + a * w_d + r * w_r
                                for s in range(width):
                                    acc = step(acc, w, wi + s * w_w, w_o, x, xi + s * x_tap, 0, x_step)
                else:
                    for c in range(CG):
                        for a in range(a_low, a_high):
                            for r in range(r_low, r_high):
                                xi = x_first + c * x_c + a * dilation[0] * x_d + r * dilation[1] * x_h + column * x_w
                                wi = w_first + c * w_c + a * w_d + r * w_r
                                for s in range(s_low, s_high):
                                    xs, ws = xi + s * x_tap, wi + s * w_w
                                    if low <= s < high:
                                        acc = step(acc, w, ws, w_o, x, xs, 0, x_step)
                                    else:
                                        left = column + s * dilation[2]
                                        edge = 0, 0, 0, left, stride[2], W
                                        acc = edge_step(acc, w, ws, w_o, x, xs, 0, x_step, *edge)
                finish(acc, bias, g * OG + o, y, y_first + o * y_c + q * y_w, y_c, y_w, relu, other, adds)

    rows = "dense" if dense_row else "strided"

    name = f"conv {OB}x{QB}, kernel width {KW or 'any'}, {rows} rows, {'packed' if packs else 'plain'} weights"

    @kernel(name + ", pairs" * pairs)
    def conv(x, w, bias, y, packed, stride, dilation, before, relu, other, adds, chunks):
        """y = x correlated with w, plus bias (O,); packed (group, tiles, terms, WB) is room for the weights. `other`
        lies as y does.

        Each row's tiles are cut into `chunks` units of work.
        """
        B, D, H, G = y.shape[0], y.shape[2], y.shape[3], w.shape[0]
        kernel = w.shape[1:]
        tiles = packed.shape[1]
        if packs:
            for u in prange(G * tiles):
                u = np.int64(u)
                pack(w, packed[u // tiles, u % tiles], u // tiles, WB, u % tiles)
        for u in prange(B * G * D * H * chunks):
            u = np.int64(u)
            rest, chunk = u // chunks, u % chunks
            rest, h = rest // H, rest % H
            rest, d = rest // D, rest % D
            b, g = rest // G, rest % G
            first, last = chunk * tiles // chunks, (chunk + 1) * tiles // chunks
            weights = packed[g] if packs else w
            ends = y, other, adds
            conv_row(x, weights, bias, *ends, b, g, d, h, first, last, kernel, stride, dilation, before, relu)

    return conv


@functools.cache
def conv_max_pool_of(OB: int, QB: int, KW: int):
    """Convolution, ReLU and 2x2 max pooling of stride 2 in one pass, with tiles of OB channels by 2 lines of QB pixels.

    Stride 1, dilation 1, an even QB and D = 1 (two dimensions); otherwise like conv_of with packed weights. The map
    before pooling is never stored: the four pixels of a window are in registers at once.
    """
    zeros = zeros_of(OB * 2 * QB)
    step, _, edge_step = broadcast_tile(OB, QB, lines=2, w_row=1, x_column=LANES)

    @inner
    def pooled_row(x, w, bias, y, where, block, g, h, first_tile, last_tile, kernel, before):
        """Row h of the pooled maps: rows 2h and 2h + 1 of the convolution."""
        OG, CG, KH = kernel[0], kernel[1], kernel[3]
        width = KW if KW else kernel[4]
        H, W, Q = x.shape[3], x.shape[4], y.shape[4] * 2
        x_c, x_h = stride_of(x, 1), stride_of(x, 3)
        y_c, k_c = stride_of(y, 1), stride_of(where, 1)
        in_h = 2 * h - before[1]
        # Taps that the upper and the lower line have inside the image; both have r_both..r_both_high.
        r_both, r_high = taps_inside(in_h, 1, KH, H)
        r_low, r_both_high = taps_inside(in_h + 1, 1, KH, H)
        x_first = block * stride_of(x, 0) + g * CG * x_c + in_h * x_h
        y_first = block * stride_of(y, 0) + g * OG * y_c + h * stride_of(y, 3)
        k_first = block * stride_of(where, 0) + g * OG * k_c + h * stride_of(where, 3)
        for tile in range(first_tile, last_tile):
            o = min(tile * OB, OG - OB)
            for q in range(0, Q, QB):
                q = min(q, Q - QB)
                column = q - before[2]
                low, s_high = taps_inside(column, 1, width, W)
                s_low, high = taps_inside(column + QB - 1, 1, width, W)
                acc = zeros()
                for c in range(CG):
                    for r in range(r_low, r_high):
                        xi = x_first + c * x_c + r * x_h + column * LANES
                        wi = ((tile * CG + c) * KH + r) * width * OB
                        if r_both <= r < r_both_high and low == 0 and high == width:
                            for s in range(width):
                                acc = step(acc, w, wi + s * OB, 1, x, xi + s * LANES, x_h, LANES)
                        else:
                            for s in range(s_low, s_high):
                                edge = in_h + r, 1, H, column + s, 1, W
                                acc = edge_step(acc, w, wi + s * OB, 1, x, xi + s * LANES, x_h, LANES, *edge)
                for i in range(OB):
                    b = splat(bias[g * OG + o + i])
                    for j in range(0, QB, 2):
                        t = i * 2 * QB + j
                        upper = biased(acc[t], b, False), biased(acc[t + 1], b, False)
                        lower = biased(acc[t + QB], b, False), biased(acc[t + QB + 1], b, False)
                        best, tap = largest_of_four(upper[0], upper[1], lower[0], lower[1])
                        pixel = (q + j) // 2 * LANES
                        store(y, y_first + (o + i) * y_c + pixel, rectified(best))
                        store(where, k_first + (o + i) * k_c + pixel, tap)

    @kernel(f"conv with max pool {OB}x2x{QB}, kernel width {KW or 'any'}")
    def conv_max_pool(x, w, bias, y, where, packed, before, chunks):
        """y, where (block, O, 1, H, W, lane), contiguous: the pooled map, and the tap 0..3 of each maximum."""
        B, H, G = y.shape[0], y.shape[3], w.shape[0]
        kernel = w.shape[1:]
        tiles = packed.shape[1]
        for u in prange(G * tiles):
            u = np.int64(u)
            pack(w, packed[u // tiles, u % tiles], u // tiles, OB, u % tiles)
        for u in prange(B * G * H * chunks):
            u = np.int64(u)
            rest, chunk = u // chunks, u % chunks
            rest, h = rest // H, rest % H
            b, g = rest // G, rest % G
            first, last = chunk * tiles // chunks, (chunk + 1) * tiles // chunks
            pooled_row(x, packed[g], bias, y, where, b, g, h, first, last, kernel, before)

    return conv_max_pool


def halves_of(halves: int) -> str:
    """The name's end of a kernel that computes so many halves of vectors, or whole ones if 0."""
    return f", {halves} of 2 halves" * (halves > 0)


def over_lanes_of(count: int, sums, halves: int):
    """The function that makes all lanes of `count` vectors by `sums(lane, ...)`, which makes those from `lane` on: all
    of them, or 8 if there are `halves`. The second half is +0 if there is one.
    """
    if halves == 0:

        @inner
        def all_lanes(*arguments):
            return sums(0, *arguments)

        return all_lanes
    joined, zeros = joined_of(count), zeros_of(count, True)

    if halves == 1:

        @inner
        def first_half(*arguments):
            return joined(sums(0, *arguments), zeros())

        return first_half

    @inner
    def both_halves(*arguments):
        return joined(sums(0, *arguments), sums(LANES // 2, *arguments))

    return both_halves


@functools.cache
def conv_weight_gradient_of(OB: int, CB: int, SB: int, dense_taps: bool, pairs: bool, halves: int):
    """The weight gradient with tiles of OB output channels, or pairs of them, by CB input channels by SB taps of one
    kernel row.

    O/group >= the output channels of a tile, C/group >= CB, W of the kernel >= SB; `dense_taps`: neighboring taps see
    neighboring vectors of the input (dilation 1). `halves`: see over_lanes_of.
    """
    count = OB * CB * SB
    zeros = zeros_of(count, halves > 0)
    run, edge_step = product_tile(OB, CB, SB, x_tap=LANES if dense_taps else None, pairs=pairs, halves=halves > 0)
    masked = keep_first_of(count)
    trees = lane_trees_of(count, pairs)
    vectors, push_all, PAIR = len(trees), push_all_of(trees), 2 if pairs else 1

    @inner
    def lanes_sum(lane, dy, x, di, xi, d, h, last, in_d, in_h, column, stride, dilation):
        """The chains over one band's rows, from (d, h) to before row `last`, for one tile, from `lane` on: rule 3a.

        Output row (d, h) sees input row (d * stride + in_d, h * stride + in_h), its first pixel input pixel `column`.
        """
        H_out, Q = dy.shape[3], dy.shape[4]
        D, H, W = x.shape[2], x.shape[3], x.shape[4]
        y_c, y_d, y_h, y_w = stride_of(dy, 1), stride_of(dy, 2), stride_of(dy, 3), stride_of(dy, 4)
        x_c, x_d, x_h, x_w = stride_of(x, 1), stride_of(x, 2), stride_of(x, 3), stride_of(x, 4)
        x_s, x_q = dilation[2] * x_w, stride[2] * x_w
        # Pixels for which the leftmost and the rightmost tap of the tile are inside the image.
        low, q_high = taps_inside(column, stride[2], Q, W)
        q_low, high = taps_inside(column + (SB - 1) * dilation[2], stride[2], Q, W)
        low, high = min(low, q_high), max(high, q_low)
        high = max(low, high)
        acc = zeros()
        row = d * H_out + h
        while row < last:
            at_d, at_h = d * stride[0] + in_d, h * stride[1] + in_h
            if 0 <= at_d < D and 0 <= at_h < H:
                g = di + d * y_d + h * y_h + lane
                e = xi + at_d * x_d + at_h * x_h + column * x_w + lane
                for q in range(q_low, low):
                    left = column + q * stride[2]
                    acc = edge_step(acc, dy, g + q * y_w, y_c, x, e + q * x_q, x_c, x_s, left, dilation[2], W)
                acc = run(acc, high - low, dy, g + low * y_w, y_c, y_w, x, e + low * x_q, x_c, x_s, x_q)
                for q in range(high, q_high):
                    left = column + q * stride[2]
                    acc = edge_step(acc, dy, g + q * y_w, y_c, x, e + q * x_q, x_c, x_s, left, dilation[2], W)
            row += 1
            h += 1
            if h == H_out:
                d, h = d + 1, 0
        return acc

    band_sum = over_lanes_of(count, lanes_sum, halves)

    @inner
    def block_sum(dy, x, part, slots, b, g, first, last, band, lanes, corners, stride, dilation, before):
        """The weight gradients of block b for tiles first..last - 1 of group g: rules 3a to 3c,
        into part (O, C, *K).
        """
        H_out = dy.shape[3]
        rows = dy.shape[2] * H_out
        bands = (rows + band - 1) // band
        level = (last - first) * vectors * LANES
        group = g * (part.shape[0] // (x.shape[1] // part.shape[1]))  # the group's first output channel
        y_first = b * stride_of(dy, 0) + group * stride_of(dy, 1)
        x_first = b * stride_of(x, 0) + g * part.shape[1] * stride_of(x, 1)
        for t in range(bands):
            d, h = t * band // H_out, t * band % H_out
            for tile in range(first, last):
                o, c, a, r, s = corners[tile, 0], corners[tile, 1], corners[tile, 2], corners[tile, 3], corners[tile, 4]
                di, xi = y_first + o * stride_of(dy, 1), x_first + c * stride_of(x, 1)
                in_d, in_h = a * dilation[0] - before[0], r * dilation[1] - before[1]
                column = s * dilation[2] - before[2]
                acc = band_sum(dy, x, di, xi, d, h, min((t + 1) * band, rows), in_d, in_h, column, stride, dilation)
                acc = acc if lanes == LANES else masked(acc, lanes)
                slot = (tile - first) * vectors * LANES
                push_all(slots, slot, level, t, acc)
        for tile in range(first, last):
            o, c, a, r, s = corners[tile, 0], corners[tile, 1], corners[tile, 2], corners[tile, 3], corners[tile, 4]
            slot = (tile - first) * vectors * LANES
            for v in range(vectors):
                store(slots, slot + v * LANES, total(slots, slot + v * LANES, level, bands))
            for i in range(OB):
                for p in range(PAIR):
                    for j in range(CB):
                        for k in range(SB):
                            value = slots[slot + ((i * CB + j) * SB + k) * PAIR + p]
                            part[group + o + PAIR * i + p, c + j, a, r, s + k] = value

    name = f"conv weight gradient {OB}x{CB}x{SB}, {'dense' if dense_taps else 'dilated'} taps"

    @kernel(name + ", pairs" * pairs + halves_of(halves))
    def conv_weight_gradient(dy, x, part, scratch, corners, images, groups, band, stride, dilation, before, chunks):
        """part[b] (O, C/group, *K) = the gradient of block b; corners (tiles, 5) their (o, c, a, r, s) in a group.

        scratch (threads, slots).
        """
        tiles = len(corners)
        for u in prange(dy.shape[0] * groups * chunks):
            u = np.int64(u)
            rest, chunk = u // chunks, u % chunks
            b, g = rest // groups, rest % groups
            first, last = chunk * tiles // chunks, (chunk + 1) * tiles // chunks
            lanes = PAIR * min(LANES // PAIR, images - b * LANES)
            slots = scratch[get_thread_id()]
            block_sum(dy, x, part[b], slots, b, g, first, last, band, lanes, corners, stride, dilation, before)

    return conv_weight_gradient
