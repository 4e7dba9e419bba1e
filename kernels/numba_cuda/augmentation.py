"""Images into lanes, cropped or shifted, mirrored, normalized and cut out (rules 5 and 10)."""

import numpy as np
from gpucnn.kernels.numba_cuda.arithmetic import ZERO, multiply, subtract
from gpucnn.kernels.numba_cuda.compiler import LANES, device, kernel
from gpucnn.kernels.numba_cuda.indexing import place
from gpucnn.kernels.numba_cuda.random import CROP, CUTOUT, FLIP, SHIFT, word
from gpucnn.kernels.numba_cuda.sums import there
from numba import cuda

# What is drawn for one image: the output's origin and the cutout's first pixel along three axes, whether it is
# mirrored.
FIRST, MIRRORED, DRAWS = 3, 6, 7


@device
def draw24(seed, index, step, purpose):
    """24 random bits."""
    return np.int64(word(seed, index, step, purpose, 0) >> np.uint64(8))


@kernel
def draw(plan, input_sizes, output_sizes, shift, crops, flips, cutout, axes, offset, seed, step):
    """plan (images, 7) = what is drawn for each image. One thread per number.

    The images' own axes are the last `axes` of three; `offset` is the number of the first image in the whole batch.
    """
    t = cuda.grid(1)
    if t >= plan.size:
        return
    i, kind = t // DRAWS, t % DRAWS
    axis = kind % 3
    own = axis - (3 - axes)  # below 0 for an axis that the images do not have
    room, size = input_sizes[axis] - output_sizes[axis], output_sizes[axis]
    value = 0
    if kind == MIRRORED:
        if flips:
            value = draw24(seed, offset + i, step[0], FLIP) >> 23
    elif own >= 0 and kind >= FIRST:
        value = ((draw24(seed, (offset + i) * axes + own, step[0], CUTOUT) * size) >> 24) - cutout // 2
    elif own >= 0 and crops:
        value = ((draw24(seed, (offset + i) * axes + own, step[0], CROP) * (room + 2 * shift + 1)) >> 24) - shift
    elif own >= 0:
        value = shift - ((draw24(seed, (offset + i) * axes + own, step[0], SHIFT) * (2 * shift + 1)) >> 24)
    plan[i, kind] = value


@kernel
def load_augmented(images, indices, y, plan, cutout, mean, scale):
    """y = (images[indices[n]] - mean) * scale for n < len(plan), as planned; +0 outside, cut out and behind.

    One thread per value of y.
    """
    i = cuda.grid(1)
    if i >= y.size:
        return
    b, c, d, h, w, lane = place(i, y.shape)
    n = b * LANES + lane
    value = ZERO
    if there(n, plan.shape[0]):
        from_d, from_h, from_w = d + plan[n, 0], h + plan[n, 1], w + plan[n, 2]
        if plan[n, MIRRORED] == 1:
            from_w = y.shape[4] - 1 - w + plan[n, 2]
        shown = 0 <= from_d < images.shape[2] and 0 <= from_h < images.shape[3] and 0 <= from_w < images.shape[4]
        if (
            0 <= d - plan[n, FIRST] < cutout
            and 0 <= h - plan[n, FIRST + 1] < cutout
            and 0 <= w - plan[n, FIRST + 2] < cutout
        ):
            shown = False
        if shown:
            value = multiply(subtract(images[indices[n], c, from_d, from_h, from_w], mean[c]), scale[c])
    y[b, c, d, h, w, lane] = value
