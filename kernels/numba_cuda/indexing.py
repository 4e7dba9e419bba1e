"""Which value a thread computes, and which outputs a pixel belongs to."""

from gpucnn.kernels.numba_cuda.compiler import LANES, device


@device
def place(i, shape):
    """(block, channel, d, h, w, lane) of value number i of an array (block, C, D, H, W, 32)."""
    _, C, D, H, W, _ = shape
    lane, i = i % LANES, i // LANES
    w, i = i % W, i // W
    h, i = i % H, i // H
    d, i = i % D, i // D
    return i // C, i % C, d, h, w, lane


@device
def outputs_holding(pixel, before, kernel, stride, dilation, size):
    """Along one axis, (first, stop) of the outputs whose windows reach an input pixel.

    Output p sees the pixels p * stride - before + r * dilation with 0 <= r < kernel. With a dilation the pixel may
    still fall between two taps.
    """
    last = pixel + before
    reach = (kernel - 1) * dilation
    first = 0 if last <= reach else (last - reach + stride - 1) // stride
    return first, min(last // stride + 1, size)
