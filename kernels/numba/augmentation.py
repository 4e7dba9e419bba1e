"""Images into lanes, cropped or shifted, mirrored, normalized and cut out (rules 5 and 10). Plain loading and shifts
are in images.py."""

import numpy as np
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.conv import stride_of
from gpucnn.kernels.numba.random import CROP, CUTOUT, FLIP, SHIFT, word
from gpucnn.kernels.numba.simd import LANES, element, load, multiply, put, splat, store, subtract, transpose
from gpucnn.kernels.numba.team import get_thread_id, leads, prange


@inner
def normalise(a, i, b, j, count, mean, scale):
    """b.base[j : j + count] = (a.base[i : i + count] - mean) * scale; both contiguous."""
    if count >= LANES:
        m, s = splat(mean), splat(scale)
        for k in range(0, count, LANES):
            k = min(k, count - LANES)  # the last vector overlaps the one before
            store(b, j + k, multiply(subtract(load(a, i + k), m), s))
    else:
        for k in range(count):
            put(b, j + k, (element(a, i + k) - mean) * scale)


@inner
def draw24(seed, index, step, purpose):
    return np.int64(word(seed, index, step, purpose, 0) >> np.uint64(8))


@kernel("load augmented images")
def load_augmented(
    images, indices, y, count, shift, crops, flips, cutout, axes, draws, offset, seed, step, mean, scale, plan, scratch
):
    """y = images[indices[i]] for i < count, zeros behind; each cut, moved, mirrored, normalized, blanked as drawn.
    `offset` is the number of the first image in the whole batch.

    images (M, C, D, H, W) are contiguous, y (block, C, D, H, W, lane) may be smaller by the crop. plan (images rounded
    up, 10) int64 gets an image's origin along three axes, whether it is mirrored, and first and end of its cutout along
    three axes; scratch (threads, 16, W rounded up to 16). Without `draws` crops are from the middle and that is all.
    """
    B, C, D, H, W = y.shape[0], y.shape[1], y.shape[2], y.shape[3], y.shape[4]
    ID, IH, IW = images.shape[2], images.shape[3], images.shape[4]
    if leads():
        for i in range(count):
            for a in range(3):
                own = a - (3 - axes)  # the number of the axis; below 0 for those that the images do not have
                room, size = images.shape[2 + a] - y.shape[2 + a], y.shape[2 + a]
                origin, first, end = room // 2, 0, 0
                if draws and own >= 0:
                    if crops:
                        origin = (
                            (draw24(seed, (offset + i) * axes + own, step[0], CROP) * (room + 2 * shift + 1)) >> 24
                        ) - shift
                    elif shift > 0:
                        origin = shift - (
                            (draw24(seed, (offset + i) * axes + own, step[0], SHIFT) * (2 * shift + 1)) >> 24
                        )
                if draws and cutout > 0:
                    if own >= 0:
                        first = ((draw24(seed, (offset + i) * axes + own, step[0], CUTOUT) * size) >> 24) - cutout // 2
                        end = first + cutout
                    else:
                        end = 1
                plan[i, a], plan[i, 4 + a], plan[i, 7 + a] = origin, first, end
            mirrored = draws and flips and (draw24(seed, offset + i, step[0], FLIP) >> 23) == 1
            plan[i, 3] = 1 if mirrored else 0
    for u in prange(B * C * D):
        u = np.int64(u)
        rest, d = u // D, u % D
        b, c = rest // C, rest % C
        rows = scratch[get_thread_id()]
        line = rows.shape[1]
        for h in range(H):
            for lane in range(LANES):
                i, row = b * LANES + lane, lane * line
                there = i < count
                from_d, from_h, by = d, h, 0
                if there:
                    from_d, from_h, by = d + plan[i, 0], h + plan[i, 1], plan[i, 2]
                    there = 0 <= from_d < ID and 0 <= from_h < IH
                first, end = max(0, -by), min(W, IW - by)  # the outputs that show a pixel, before mirroring
                if not there or first > 0 or end < W:
                    for w in range(0, line, LANES):
                        store(rows, row + w, splat(np.float32(0)))
                if not there or first >= end:
                    continue
                at = indices[i] * stride_of(images, 0) + c * stride_of(images, 1) + from_d * stride_of(images, 2)
                at += from_h * stride_of(images, 3)
                normalise(images, at + first + by, rows, row + first, end - first, mean[c], scale[c])
                if plan[i, 3] == 1:
                    for w in range(W // 2):
                        left, right = element(rows, row + w), element(rows, row + W - 1 - w)
                        put(rows, row + w, right)
                        put(rows, row + W - 1 - w, left)
                if plan[i, 4] <= d < plan[i, 7] and plan[i, 5] <= h < plan[i, 8]:
                    for w in range(max(0, plan[i, 6]), min(W, plan[i, 9])):
                        put(rows, row + w, np.float32(0))
            at = b * stride_of(y, 0) + c * stride_of(y, 1) + d * stride_of(y, 2) + h * stride_of(y, 3)
            if W >= LANES:
                for w in range(0, W, LANES):
                    w = min(w, W - LANES)  # the last square overlaps the one before
                    transpose(rows, w, line, y, at + w * LANES, LANES)
            else:
                for w in range(W):
                    for lane in range(LANES):
                        put(y, at + w * LANES + lane, element(rows, lane * line + w))
