"""Convolution as in deep learning, and its transpose."""

from typing import Any

import numpy as np

from gpucnn.arguments import integer
from gpucnn.errors import ShapeError
from gpucnn.functional.arrays import Name, backward, built, expect, expect_output, forward, images
from gpucnn.geometry import Padding, PerAxis
from gpucnn.layers import Convolution, TransposedConvolution

__all__ = ["conv", "conv_backward", "conv_transpose", "conv_transpose_backward"]


def conv(
    x,
    w,
    bias=None,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
    strict: bool = False,
    backend: Name = None,
    math: Name = None,
) -> np.ndarray:
    """Convolution as in deep learning (cross-correlation: the filter is not flipped).

    y[n, o, p] = bias[o] + the sum over c and k of w[o, c, k] * x[n, g*C/groups + c, p*stride + k*dilation - before],
    with g the group of o. padding_mode fills the padding: "zeros", "constant" (padding_value),
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
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
    strict: bool = False,
    backend: Name = None,
    math: Name = None,
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
