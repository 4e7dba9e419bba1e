"""Images between their resting layout (N, C, D, H, W) and lanes (block, C, D, H, W, lane)."""

import numpy as np
from gpucnn.kernels.numba_cuda.arithmetic import ZERO
from gpucnn.kernels.numba_cuda.compiler import LANES, kernel
from gpucnn.kernels.numba_cuda.indexing import place
from gpucnn.kernels.numba_cuda.random import SHIFT, word
from gpucnn.kernels.numba_cuda.sums import there
from numba import cuda


@kernel
def draw_moves(moves, shift, axes, offset, seed, step):
    """moves (images, 3) = how many pixels each image moves along its last `axes` axes. One thread an image and axis.

    `offset` is the number of the first image in the whole batch.
    """
    i = cuda.grid(1)
    if i < moves.shape[0] * axes:
        draw = np.int64(word(seed, offset * axes + i, step[0], SHIFT, 0) >> np.uint64(8))
        moves[i // axes, 3 - axes + i % axes] = ((draw * (2 * shift + 1)) >> 24) - shift


@kernel
def load_images(images, indices, y, moves):
    """y = images[indices[n]] for n < len(moves), moved, zeros moving in; zeros behind. One thread per value of y."""
    i = cuda.grid(1)
    if i >= y.size:
        return
    b, c, d, h, w, lane = place(i, y.shape)
    _, _, D, H, W, _ = y.shape
    n = b * LANES + lane
    value = ZERO
    if there(n, moves.shape[0]):
        from_d, from_h, from_w = d - moves[n, 0], h - moves[n, 1], w - moves[n, 2]
        if 0 <= from_d < D and 0 <= from_h < H and 0 <= from_w < W:
            value = images[indices[n], c, from_d, from_h, from_w]
    y[b, c, d, h, w, lane] = value


@kernel
def load_labels(labels, indices, y, count):
    """y (block, lane) = labels[indices[n]] for n < count, -1 behind."""
    n = cuda.grid(1)
    if n < y.size:
        y[n // LANES, n % LANES] = labels[indices[n]] if n < count else -1


@kernel
def unpack(x, images):
    """images (N, values) from x (block, values, lane). One thread per value."""
    i = cuda.grid(1)
    if i < images.size:
        n, k = i // images.shape[1], i % images.shape[1]
        images[n, k] = x[n // LANES, k, n % LANES]
