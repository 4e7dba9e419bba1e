"""Convolution as deep learning has it, its transpose, and true convolution."""

import math as _math
from typing import Any

import numpy as np

from gpucnn.arguments import integer, one_of
from gpucnn.errors import ShapeError
from gpucnn.functional.arrays import backend_for, backward, built, expect, expect_output, floats, forward, images
from gpucnn.geometry import window
from gpucnn.layers import Convolution, TransposedConvolution

__all__ = ["conv", "conv_backward", "conv_transpose", "conv_transpose_backward", "convolve", "convolve_backward"]


def conv(
    x,
    w,
    bias=None,
    *,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    padding_mode="zeros",
    padding_value=0.0,
    strict=False,
    backend=None,
    math=None,
) -> np.ndarray:
    """Convolution as deep learning has it (cross-correlation: the filter is not flipped).

    y[n, o, p] = bias[o] + the sum over c and k of w[o, c, k] * x[n, g*C/groups + c, p*stride + k*dilation - before],
    with g the group of o. What lies outside the image, padding_mode says: "zeros", "constant" (padding_value),
    "reflect" (the image mirrored at its edge pixels), "replicate" (the edge pixels repeated), "circular" (the opposite
    edge).

    x is (N, C, *I), w (O, C/groups, *K), bias (O,) or None; returns (N, O, *P), P by the formula in gpucnn.geometry.
    stride and dilation are an integer or one per axis; padding is "valid", "same", an integer, one per axis, or
    (before, after) per axis. groups divides C and O. strict refuses a stride that leaves pixels over.
    """
    x, w, bias = images(x=x, w=w, bias=bias)
    modes = {"padding_mode": padding_mode, "padding_value": padding_value, "strict": strict}
    sizes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    layer = _convolution(x, w, bias is not None, **sizes, **modes)
    _expect_bias(layer, bias)
    return forward(layer, backend, math, x, weight=w, bias=bias)


def conv_backward(
    dy,
    x,
    w,
    *,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    padding_mode="zeros",
    padding_value=0.0,
    strict=False,
    backend=None,
    math=None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dx, dw, db) of `conv` with the same settings: the gradients of x (N, C, *I), w (O, C/groups, *K) and bias (O,).

    dy is (N, O, *P), as conv returns y.
    """
    dy, x, w = images(dy=dy, x=x, w=w)
    modes = {"padding_mode": padding_mode, "padding_value": padding_value, "strict": strict}
    sizes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    layer = _convolution(x, w, True, **sizes, **modes)
    expect_output(layer, dy, x, "conv")
    return backward(layer, backend, math, dy, x, weight=w)


def conv_transpose(
    x, w, bias=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1, backend=None, math=None
) -> np.ndarray:
    """Transposed convolution: the gradient of a convolution with respect to its input, here run forwards.

    Every value x[n, c, i] adds w[c, o, k] * x[n, c, i] to the output pixel i*stride + k*dilation - before of channel
    g*O/groups + o, with g the group of c; overlapping patches add up, then comes bias.

    x is (N, C, *I), w (C, O/groups, *K), bias (O,) or None; returns (N, O, *P) with P = (I - 1)*stride - before - after
    + dilation*(K - 1) + output_padding + 1 (gpucnn.geometry). stride, dilation and output_padding are an integer or one
    per axis, output_padding less than stride or dilation; padding, which is cut off, is an integer, one per axis, or
    (before, after) per axis. groups divides C.
    """
    x, w, bias = images(x=x, w=w, bias=bias)
    sizes = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    layer = _transposed(x, w, bias is not None, groups, **sizes)
    _expect_bias(layer, bias)
    return forward(layer, backend, math, x, weight=w, bias=bias)


def conv_transpose_backward(
    dy, x, w, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1, backend=None, math=None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dx, dw, db) of `conv_transpose` with the same settings: the gradients of x, w (C, O/groups, *K) and bias (O,).

    dy is (N, O, *P), as conv_transpose returns y.
    """
    dy, x, w = images(dy=dy, x=x, w=w)
    sizes = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    layer = _transposed(x, w, True, groups, **sizes)
    expect_output(layer, dy, x, "conv_transpose")
    return backward(layer, backend, math, dy, x, weight=w)


def convolve(x, kernel, mode="full", *, backend=None, math=None) -> np.ndarray:
    """True convolution, with the kernel flipped, of two arrays with the same number of axes, any number from 1 on.

    y[p] = the sum over k of kernel[k] * x[p - k], with zeros outside both. It is commutative, associative, distributes
    over addition, lets scalars out, and the unit impulse is its identity. Shapes are scipy.signal.convolve's:

        "full"   every p where the two overlap: x.shape + kernel.shape - 1
        "same"   the middle of that, of x's shape; of an odd pixel more, it begins one later
        "valid"  where one lies wholly within the other, which is as large or larger in all axes: the difference of the
                 shapes + 1

    The array with fewer values slides (of equals, `kernel`). In exact math each value is one chain by rule 2 of the
    contract over the sliding array's positions, backwards from its last. More than three axes are folded: positions
    along the leading ones become images, taps along them channels, in row-major order.
    """
    x, kernel = floats(x=x, kernel=kernel)
    places = _places(x, kernel, mode)
    if kernel.size > x.size:
        x, kernel = kernel, x
    # Of each axis, the pixels that the chosen outputs meet, and zeros where these lie outside.
    part, pads = [], []
    for size, k, (first, count) in zip(x.shape, kernel.shape, places):
        start, stop = first - k + 1, first + count
        part.append(slice(max(start, 0), min(stop, size)))
        pads.append((max(-start, 0), max(stop - size, 0)))
    folded = max(x.ndim - 3, 0)
    padded = np.pad(x[tuple(part)], [*pads[:folded], *[(0, 0)] * (x.ndim - folded)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:folded], tuple(range(folded)))
    # (*P, *rest, *K) of the folded axes' P and K to (P, K, *rest): positions are images, taps are channels.
    windows = np.moveaxis(windows, range(x.ndim, x.ndim + folded), range(folded, 2 * folded))
    taps = _math.prod(kernel.shape[:folded])
    folds = np.ascontiguousarray(windows).reshape(-1, taps, *padded.shape[folded:])
    filters = np.ascontiguousarray(np.flip(kernel)).reshape(1, taps, *kernel.shape[folded:])
    engine = backend_for(x, backend, math)
    fit = window(folds.shape[2:], filters.shape[2:], padding=pads[folded:])
    y = engine.conv(engine.pack(folds), engine.array(filters), None, fit)
    return engine.unpack(y).reshape([count for _, count in places])


def convolve_backward(dy, x, kernel, mode="full", *, backend=None, math=None) -> tuple[np.ndarray, np.ndarray]:
    """(dx, dkernel) of `convolve` with the same mode: dx[i] = the sum over k of kernel[k] * dy[i + k], and dkernel
    likewise. dy has the shape of convolve's output."""
    dy, x, kernel = floats(dy=dy, x=x, kernel=kernel)
    places = _places(x, kernel, mode)
    expect("dy", dy, tuple(count for _, count in places), "the shape of convolve's output")
    full = np.zeros([i + k - 1 for i, k in zip(x.shape, kernel.shape)], dy.dtype)
    full[tuple(slice(first, first + count) for first, count in places)] = dy
    on = {"mode": "valid", "backend": backend, "math": math}
    return convolve(full, np.flip(kernel), **on), convolve(full, np.flip(x), **on)


def _convolution(x: np.ndarray, w: np.ndarray, biased: bool, **settings: Any) -> Convolution:
    if w.ndim != x.ndim:
        raise ShapeError(
            f"w has shape {w.shape}, {w.ndim} axes, for x of shape {x.shape}; expected {x.ndim} axes, (O, C/groups, *K)"
        )
    layer = built(Convolution(w.shape[0], w.shape[2:], bias=biased, **settings), x)
    expect("w", w, layer.weight.shape, f"since x has {x.shape[1]} channels in {layer.groups} group(s)")
    return layer


def _transposed(x: np.ndarray, w: np.ndarray, biased: bool, groups: Any, **settings: Any) -> TransposedConvolution:
    if w.ndim != x.ndim or w.shape[0] != x.shape[1]:
        raise ShapeError(
            f"w has shape {w.shape} for x of shape {x.shape}; expected {x.ndim} axes, ({x.shape[1]}, O/groups, *K)"
        )
    groups = integer("groups", groups)
    return built(TransposedConvolution(w.shape[1] * groups, w.shape[2:], groups=groups, bias=biased, **settings), x)


def _expect_bias(layer: Convolution | TransposedConvolution, bias: np.ndarray | None) -> None:
    if bias is not None:
        expect("bias", bias, (layer.out_channels,), "one value per output channel")


def _places(x: np.ndarray, kernel: np.ndarray, mode: Any) -> list[tuple[int, int]]:
    """(first, count) of the full convolution's positions along each axis that `mode` keeps."""
    if x.ndim != kernel.ndim or x.ndim == 0:
        raise ShapeError(
            f"x has shape {x.shape} and kernel {kernel.shape}; expected two arrays with the same number of axes, 1 or "
            "more"
        )
    sizes = list(zip(x.shape, kernel.shape, strict=True))
    if one_of("mode", mode, ("full", "same", "valid")) == "full":
        return [(0, i + k - 1) for i, k in sizes]
    if mode == "same":
        return [((k - 1) // 2, i) for i, k in sizes]
    if any(i < k for i, k in sizes) and any(i > k for i, k in sizes):
        raise ShapeError(
            f'x has shape {x.shape} and kernel {kernel.shape}: neither lies within the other; for mode="valid" one '
            'must be as large or larger in all axes (mode="full" takes any)'
        )
    return [(min(i, k) - 1, abs(i - k) + 1) for i, k in sizes]
