"""The weight gradient where an image has one position: a dense layer, or a convolution down to 1x1.

Rule 3 sums such a gradient over the 16 images of a block as one fma chain in their order. That is a matrix product
whose inner dimension is the lane, so the lanes must leave the vectors: `patches` turns each block of the input by 16x16
transposes into (lane, k), k running over (in_channel, kernel position), and a tile of OB outputs by CB vectors of 16
k's walks the lanes. The forward pass and the input gradient of a dense layer are those of conv.py, blocks standing in
for pixels.
"""

import functools

import numpy as np
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.conv import stride_of
from gpucnn.kernels.numba.register_tiles import broadcast_tile, zeros_of
from gpucnn.kernels.numba.simd import LANES, load, splat, store, transpose
from gpucnn.kernels.numba.sums import push, total
from gpucnn.kernels.numba.team import get_thread_id, prange


@kernel("patches")
def patches(x, window, dilation, before, turned, scratch):
    """turned[b, lane, k] = what tap k of the only window holds; zero in the padding and where k fills up a vector.

    x (block, C, D, H, W, lane); window (KD, KH, KW); turned (block, lane, K rounded up); scratch (threads, 256).
    """
    KD, KH, KW = window
    D, H, W = x.shape[2], x.shape[3], x.shape[4]
    terms = x.shape[1] * KD * KH * KW
    vectors = turned.shape[2] // LANES
    for u in prange(x.shape[0] * vectors):
        u = np.int64(u)
        b, first = u // vectors, u % vectors * LANES
        square = scratch[get_thread_id()]
        if KD * KH * KW * D * H * W == 1 and first + LANES <= terms:  # a dense layer: the terms are the channels
            at = b * stride_of(x, 0) + first * stride_of(x, 1)
            transpose(x, at, stride_of(x, 1), turned, b * stride_of(turned, 0) + first, stride_of(turned, 1))
            continue
        for j in range(LANES):
            k = first + j
            rest, s = k // KW, k % KW * dilation[2] - before[2]
            rest, r = rest // KH, rest % KH * dilation[1] - before[1]
            c, a = rest // KD, rest % KD * dilation[0] - before[0]
            if k < terms and 0 <= a < D and 0 <= r < H and 0 <= s < W:
                at = b * stride_of(x, 0) + c * stride_of(x, 1) + a * stride_of(x, 2) + r * stride_of(x, 3)
                store(square, j * LANES, load(x, at + s * stride_of(x, 4)))
            else:
                store(square, j * LANES, splat(np.float32(0)))
        transpose(square, 0, LANES, turned, b * stride_of(turned, 0) + first, stride_of(turned, 1))


@functools.cache
def dense_weight_gradient_of(OB: int, CB: int):
    """The weight gradient in tiles of OB outputs by CB vectors of terms; O/group >= OB, K rounded up >= 16 * CB."""
    zeros = zeros_of(OB * CB)
    _, run, _ = broadcast_tile(OB, CB, x_column=LANES)

    @inner
    def tile_sum(dy, turned, slots, o, k, images):
        """The tree over the blocks of the chains over their images, into slots (levels, OB * CB * 16)."""
        blocks, level = dy.shape[0], OB * CB * LANES
        dy_b, dy_o, turned_b, turned_l = stride_of(dy, 0), stride_of(dy, 1), stride_of(turned, 0), stride_of(turned, 1)
        for b in range(blocks):
            di, xi = b * dy_b + o * dy_o, b * turned_b + k
            acc = run(zeros(), min(LANES, images - b * LANES), dy, di, dy_o, 1, turned, xi, LANES, turned_l)
            for t in range(OB * CB):
                push(slots, t * LANES, level, b, acc[t])
        for t in range(OB * CB):
            store(slots, t * LANES, total(slots, t * LANES, level, blocks))

    @kernel(f"dense weight gradient {OB}x{CB}")
    def dense_weight_gradient(dy, turned, out, scratch, images, groups):
        """out (O, K/group) from dy (block, O, lane) and turned (block, lane, K); scratch (threads, slots)."""
        O, K = out.shape
        OG = O // groups
        o_tiles = (OG + OB - 1) // OB
        k_tiles = (K + CB * LANES - 1) // (CB * LANES)
        for u in prange(groups * o_tiles * k_tiles):
            u = np.int64(u)
            rest, k = u // k_tiles, u % k_tiles * CB * LANES
            g, o = rest // o_tiles, min(rest % o_tiles * OB, OG - OB)
            slots = scratch[get_thread_id()]
            tile_sum(dy, turned, slots, g * OG + o, g * K + k, images)
            for i in range(OB):
                for j in range(min(CB * LANES, K - k)):
                    out[g * OG + o + i, k + j] = slots[i * CB * LANES + j] + np.float32(0)

    return dense_weight_gradient
