"""A bias for each channel, and channels moved from one batch to another: one thread per value."""

from gpucnn.kernels.numba_cuda.arithmetic import ZERO, add
from gpucnn.kernels.numba_cuda.compiler import kernel
from numba import cuda


@kernel
def add_bias(x, bias, y, pixels, rectified):
    """y = (x + bias) + 0, or its ReLU; x and y flat, `pixels` values a channel of a block."""
    i = cuda.grid(1)
    if i < y.size:
        value = add(add(x[i], bias[i // pixels % bias.size]), ZERO)
        y[i] = ZERO if rectified and not value > ZERO else value


@kernel
def copy_channels(x, y, first_x, first_y, values):
    """y[b, first_y : first_y + values] = x[b, first_x : first_x + values] for each block b of images."""
    i = cuda.grid(1)
    if i < x.shape[0] * values:
        b, k = i // values, i % values
        y[b, first_y + k] = x[b, first_x + k]
