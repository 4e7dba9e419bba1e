"""Which value a thread computes, which pixel an output sees through a tap, and which outputs a pixel belongs to."""

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


@device
def outputs_around(d, h, w, kernel, stride, dilation, before, shape):
    """(first, stop) along each of three axes of the outputs, in an array of this shape, whose windows reach a pixel."""
    along_d = outputs_holding(d, before[0], kernel[0], stride[0], dilation[0], shape[2])
    along_h = outputs_holding(h, before[1], kernel[1], stride[1], dilation[1], shape[3])
    along_w = outputs_holding(w, before[2], kernel[2], stride[2], dilation[2], shape[4])
    return along_d, along_h, along_w


@device
def pixel_seen(d, h, w, a, r, s, stride, dilation, before):
    """(d, h, w) of the pixel that output (d, h, w) sees through tap (a, r, s); it may be outside the image."""
    in_d = d * stride[0] + a * dilation[0] - before[0]
    in_h = h * stride[1] + r * dilation[1] - before[1]
    in_w = w * stride[2] + s * dilation[2] - before[2]
    return in_d, in_h, in_w


@device
def inside(d, h, w, shape):
    """Whether a pixel is in the image of an array (block, C, D, H, W, 32)."""
    return 0 <= d < shape[2] and 0 <= h < shape[3] and 0 <= w < shape[4]


@device
def tap_between(d, h, w, out_d, out_h, out_w, stride, dilation, before):
    """(whether there is one, a, r, s): the tap through which an output whose window reaches a pixel sees it."""
    in_d = d + before[0] - out_d * stride[0]
    in_h = h + before[1] - out_h * stride[1]
    in_w = w + before[2] - out_w * stride[2]
    there = in_d % dilation[0] == 0 and in_h % dilation[1] == 0 and in_w % dilation[2] == 0
    return there, in_d // dilation[0], in_h // dilation[1], in_w // dilation[2]
