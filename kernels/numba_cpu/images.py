"""Images between their resting layout (N, C, D, H, W) and lanes (block, C, D, H, W, lane)."""

import numpy as np
from numba import get_thread_id, prange

from .compiler import inner, kernel
from .conv import stride_of
from .random import SHIFT, word
from .simd import LANES, element, load, put, splat, store, transpose


@inner
def copy(a, i, b, j, count):
    """b.base[j : j + count] = a.base[i : i + count]; both lie along a line."""
    if count >= LANES:
        for k in range(0, count, LANES):
            k = min(k, count - LANES)  # the last vector overlaps the one before
            store(b, j + k, load(a, i + k))
    else:
        for k in range(count):
            put(b, j + k, element(a, i + k))


@kernel("load images")
def load_images(images, indices, y, count, shift, axes, seed, step, moves, scratch):
    """y = images[indices[i]] for i < count, zeros behind; each moved by a draw in [-shift, shift] along its last axes.

    Rows of 16 images are laid one below the other and turned by 16x16 transposes. images are contiguous; moves (images
    rounded up, 3) int64 gets the offsets; scratch (threads, 16, W rounded up to 16).
    """
    B, C, D, H, W = y.shape[0], y.shape[1], y.shape[2], y.shape[3], y.shape[4]
    for i in range(count):
        for a in range(axes):
            draw = np.int64(word(seed, i * axes + a, step[0], SHIFT, 0) >> np.uint64(8))
            moves[i, 3 - axes + a] = ((draw * (2 * shift + 1)) >> 24) - shift
    for u in prange(B * C * D):
        u = np.int64(u)
        rest, d = u // D, u % D
        b, c = rest // C, rest % C
        rows = scratch[get_thread_id()]
        line = rows.shape[1]
        for h in range(H):
            for lane in range(LANES):
                i = b * LANES + lane
                from_d, from_h, by = d - moves[i, 0], h - moves[i, 1], moves[i, 2]
                inside = i < count and 0 <= from_d < D and 0 <= from_h < H
                if not inside or by != 0:
                    for w in range(0, line, LANES):
                        store(rows, lane * line + w, splat(np.float32(0)))
                if inside:
                    at = indices[i] * stride_of(images, 0) + c * stride_of(images, 1) + from_d * stride_of(images, 2)
                    at += from_h * stride_of(images, 3)
                    copy(images, at + max(0, -by), rows, lane * line + max(0, by), max(0, W - abs(by)))
            at = b * stride_of(y, 0) + c * stride_of(y, 1) + d * stride_of(y, 2) + h * stride_of(y, 3)
            if W >= LANES:
                for w in range(0, W, LANES):
                    w = min(w, W - LANES)  # the last square overlaps the one before
                    transpose(rows, w, line, y, at + w * LANES, LANES)
            else:
                for w in range(W):
                    for lane in range(LANES):
                        put(y, at + w * LANES + lane, element(rows, lane * line + w))


@kernel("load labels", parallel=False)
def load_labels(labels, indices, y, count):
    """y (block, lane) = labels[indices[i]] for i < count, -1 behind."""
    for b in range(y.shape[0]):
        for lane in range(LANES):
            i = b * LANES + lane
            y[b, lane] = labels[indices[i]] if i < count else -1


@kernel("unpack")
def unpack(x, images):
    """images (N, C, values) from x (block, C, values, lane)."""
    N, C, V = images.shape
    for u in prange(N):
        n = np.int64(u)
        for c in range(C):
            for v in range(V):
                images[n, c, v] = x[n // LANES, c, v, n % LANES]
