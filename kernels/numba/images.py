"""Images between their resting layout (N, C, D, H, W) and lanes (block, C, D, H, W, lane)."""

import numpy as np
from gpucnn.kernels.numba.compiler import kernel
from gpucnn.kernels.numba.conv import stride_of
from gpucnn.kernels.numba.random import SHIFT, word
from gpucnn.kernels.numba.simd import (
    LANES,
    element,
    load,
    load_between,
    multiply,
    prefetch,
    put,
    store,
    subtract,
    transpose,
)
from gpucnn.kernels.numba.team import get_thread_id, leads, prange

# Values of an image that are turned at once: so many lines of 16 images fit in the first cache.
CHUNK = 64
# Of a unit of work.
_PART = 4 * CHUNK


@kernel("load images")
def load_images(images, indices, y, count, mean, scale, scratch):
    """y = images[indices[i]] for i < count, zeros behind; normalized to (x - mean) * scale unless those are empty.

    images (M, V) are contiguous, y is (block, V, lane), mean and scale (V,); scratch (threads, 16, CHUNK).
    """
    B, V = y.shape[0], y.shape[1]
    parts = (V + _PART - 1) // _PART
    for u in prange(B * parts):
        u = np.int64(u)
        b, start = u // parts, u % parts * _PART
        rows = scratch[get_thread_id()]
        for first in range(start, min(V, start + _PART), CHUNK):
            end = min(V, first + CHUNK)
            for lane in range(LANES):
                i = b * LANES + lane
                at = indices[i] * V if i < count else np.int64(0)
                for k in range(first, end, LANES):
                    if i + LANES < count:  # the images may be anywhere in memory: the next block's is on its way
                        prefetch(images, indices[i + LANES] * V + k)
                    v = load_between(images, at + k, 0, V - k if i < count else 0)
                    if len(mean) and i < count:
                        v = multiply(subtract(v, load_between(mean, k, 0, V - k)), load_between(scale, k, 0, V - k))
                    store(rows, lane * CHUNK + k - first, v)
            for k in range(first, end, LANES):
                at = (b * V + k) * LANES
                if k + LANES <= V:
                    transpose(rows, k - first, CHUNK, y, at, LANES)
                else:
                    transpose(rows, k - first, CHUNK, rows, 0, LANES)
                    for j in range(V - k):
                        store(y, at + j * LANES, load(rows, j * LANES))


@kernel("load shifted images")
def load_shifted(images, indices, y, count, shift, axes, offset, seed, step, moves, scratch):
    """y = images[indices[i]] for i < count, zeros behind; each moved by a draw in [-shift, shift] along its last axes.
    `offset` is the number of the first image in the whole batch.

    Rows of 16 images are laid one below the other, in whole vectors so that the turn can take them before they have
    left for the cache, and turned by 16x16 transposes. images are contiguous; moves (images
    rounded up, 3) int64 gets the offsets; scratch (threads, 16, W rounded up to 16).
    """
    B, C, D, H, W = y.shape[0], y.shape[1], y.shape[2], y.shape[3], y.shape[4]
    if leads():
        for i in range(count):
            for a in range(axes):
                draw = np.int64(word(seed, (offset + i) * axes + a, step[0], SHIFT, 0) >> np.uint64(8))
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
                # Pixel w of the output shows pixel w - by of the input, for w from low to high - 1.
                at, low, high = np.int64(0), np.int64(0), np.int64(0)
                if i < count and 0 <= from_d < D and 0 <= from_h < H:
                    low, high = max(0, by), min(W, W + by)
                    at = indices[i] * stride_of(images, 0) + c * stride_of(images, 1) + from_d * stride_of(images, 2)
                    at += from_h * stride_of(images, 3) - by
                if i + LANES < count:
                    # The images may be anywhere in memory: the same row of the next block's is on its way meanwhile.
                    following = indices[i + LANES] * stride_of(images, 0) + c * stride_of(images, 1)
                    following += d * stride_of(images, 2) + h * stride_of(images, 3)
                    for k in range(0, W, LANES):
                        prefetch(images, following + k)
                for k in range(0, line, LANES):
                    w = min(k, max(W - LANES, 0))  # the last vector overlaps the one before
                    store(rows, lane * line + k, load_between(images, at + w, low - w, high - w))
            at = b * stride_of(y, 0) + c * stride_of(y, 1) + d * stride_of(y, 2) + h * stride_of(y, 3)
            if W >= LANES:
                for k in range(0, line, LANES):
                    transpose(rows, k, line, y, at + min(k, W - LANES) * LANES, LANES)
            else:
                for w in range(W):
                    for lane in range(LANES):
                        put(y, at + w * LANES + lane, element(rows, lane * line + w))


@kernel("load labels")
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
