"""Gradients of depthwise convolutions of up to two spatial axes, a filter at a time: of weights, and of inputs under a
stride.

Arrays as in conv.py. Nothing is shared among channels, so a unit of work is a channel of a block of images. Its map is
first copied into a map with its border of zeros; then all taps of the filter are one register tile. A product with a
zero of the border adds nothing that rule 3 would see.
"""

import functools

import numpy as np
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.conv import stride_of
from gpucnn.kernels.numba.norm import read
from gpucnn.kernels.numba.register_tiles import keep_first_of, lane_trees_of, product_tile, zeros_of
from gpucnn.kernels.numba.simd import LANES, add, fma, load, splat, store
from gpucnn.kernels.numba.sums import push_all_of, total
from gpucnn.kernels.numba.team import get_thread_id, prange


@inner
def bordered(x, at, height, width, padded, tall, wide, above, left, known, norm, c):
    """padded (tall, wide, lane) = the map of channel c at x.base[at], `above` and `left` pixels from its corner, else
    zeros; with `norm` its batch norm and ReLU, by the constants `known`.
    """
    nothing = splat(np.float32(0))
    for h in range(tall):
        row, inside = at + (h - above) * width * LANES, 0 <= h - above < height
        for w in range(wide):
            v = nothing
            if inside and 0 <= w - left < width:
                v = read(x, row + (w - left) * LANES, known, c, norm)
            store(padded, (h * wide + w) * LANES, v)


@functools.cache
def gradient_maps_of(KH: int, KW: int):
    """The kernel for filters of KH by KW, which must fit in registers."""
    zeros, masked, trees = zeros_of(KH * KW), keep_first_of(KH * KW), lane_trees_of(KH * KW)
    run, _ = product_tile(1, KH, KW, x_tap=LANES)
    vectors, push_all = len(trees), push_all_of(trees)

    @kernel(f"weight gradient of maps, {KH}x{KW}")
    def gradient_maps(dy, x, part, maps, scratch, images, band, stride, before, known, norm):
        """part[b] (O, 1, 1, KH, KW) = the gradient of block b.

        maps (threads, tall, wide, 16) is room for a map with its border, scratch (threads, slots) for waiting sums.
        """
        B, O, H, Q = dy.shape[0], dy.shape[1], dy.shape[3], dy.shape[4]
        tall, wide, level = maps.shape[1], maps.shape[2], vectors * LANES
        for u in prange(B * O):
            u = np.int64(u)
            b, o = u // O, u % O
            padded, slots = maps[get_thread_id()], scratch[get_thread_id()]
            c = o // (O // x.shape[1])
            x_at = b * stride_of(x, 0) + c * stride_of(x, 1)
            bordered(x, x_at, x.shape[3], x.shape[4], padded, tall, wide, before[1], before[2], known, norm, c)
            y_at, bands = b * stride_of(dy, 0) + o * stride_of(dy, 1), 0
            for top in range(0, H, band):
                acc = zeros()
                for h in range(top, min(top + band, H)):
                    y_h, x_h = y_at + h * Q * LANES, h * stride[1] * wide * LANES
                    acc = run(acc, Q, dy, y_h, 0, LANES, padded, x_h, wide * LANES, LANES, stride[2] * LANES)
                push_all(slots, 0, level, bands, masked(acc, min(LANES, images - b * LANES)))
                bands += 1
            for v in range(vectors):
                store(slots, v * LANES, total(slots, v * LANES, level, bands))
            for k in range(KH * KW):
                part[b, o, 0, 0, k // KW, k % KW] = slots[k]

    return gradient_maps


@functools.cache
def input_gradient_maps_of(KH: int, KW: int, SH: int, SW: int):
    """The kernel of the input gradient for filters of KH by KW and strides SH and SW: a pixel sees A by E outputs."""
    A, E = -(-KH // SH), -(-KW // SW)

    @kernel(f"input gradient of maps, {KH}x{KW}, stride {SH}x{SW}")
    def input_gradient_maps(dy, w, dx, maps, factors, before):
        """dx (block, C, 1, H, W, lane) from dy and w (C, KH, KW); all contiguous.

        maps (threads, tall, wide, 16) is room for a map of dy with zeros around it, factors (threads, SH * SW * A * E)
        for a filter as each kind of pixel sees it, with zeros where that is fewer outputs.
        """
        B, C, H, W = dx.shape[0], dx.shape[1], dx.shape[3], dx.shape[4]
        tall, wide = maps.shape[1], maps.shape[2]
        for u in prange(B * C):
            u = np.int64(u)
            b, c = u // C, u % C
            padded, own = maps[get_thread_id()], factors[get_thread_id()]
            y_at = b * stride_of(dy, 0) + c * stride_of(dy, 1)
            bordered(dy, y_at, dy.shape[3], dy.shape[4], padded, tall, wide, A - 1, E - 1, w[0], False, c)
            for i in range(SH):
                for k in range(SW):
                    for j in range(A):
                        for e in range(E):
                            # Output p sees pixel h at row h + before - p * SH of its filter: rows descend.
                            r, s = i + SH * (A - 1 - j), k + SW * (E - 1 - e)
                            value = w[c, r, s] if r < KH and s < KW else np.float32(0)
                            own[((i * SW + k) * A + j) * E + e] = value
            for h in range(H):
                top, i = (h + before[1]) // SH, (h + before[1]) % SH
                for x in range(W):
                    left, k = (x + before[2]) // SW, (x + before[2]) % SW
                    acc = splat(np.float32(0))
                    for j in range(A):
                        for e in range(E):
                            v = load(padded, ((top + j) * wide + left + e) * LANES)
                            acc = fma(v, splat(own[((i * SW + k) * A + j) * E + e]), acc)
                    store(dx, ((u * H + h) * W + x) * LANES, add(acc, splat(np.float32(0))))

    return input_gradient_maps
