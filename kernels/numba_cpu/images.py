"""Images between their resting layout (N, C, D, H, W) and lanes (block, C, D, H, W, lane)."""

import numpy as np
from numba import prange

from .compiler import kernel
from .random import SHIFT, word
from .simd import LANES


@kernel("load images")
def load_images(images, indices, y, count, shift, axes, seed, step):
    """y = images[indices[i]] for i < count, zeros behind; each moved by a draw in [-shift, shift] along its last axes."""
    C, D, H, W = y.shape[1], y.shape[2], y.shape[3], y.shape[4]
    for u in prange(y.shape[0]):
        b = np.int64(u)
        for lane in range(LANES):
            i = b * LANES + lane
            if i < count:
                n = indices[i]
                moved = np.zeros(3, np.int64)
                if shift > 0:
                    for a in range(axes):
                        draw = np.int64(word(seed, i * axes + a, step[0], SHIFT, 0) >> np.uint64(8))
                        moved[3 - axes + a] = ((draw * (2 * shift + 1)) >> 24) - shift
                for c in range(C):
                    for d in range(D):
                        for h in range(H):
                            inside = 0 <= d - moved[0] < D and 0 <= h - moved[1] < H
                            for w in range(W):
                                if inside and 0 <= w - moved[2] < W:
                                    y[b, c, d, h, w, lane] = images[n, c, d - moved[0], h - moved[1], w - moved[2]]
                                else:
                                    y[b, c, d, h, w, lane] = np.float32(0)
            else:
                y[b, :, :, :, :, lane] = np.float32(0)


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
