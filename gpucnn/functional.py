"""Single operations on plain arrays: checked, computed on the backend of your choice, and returned as NumPy arrays.

    from gpucnn import functional
    y = functional.conv(x, w, bias, stride=2, padding="same")
    dx, dw, db = functional.conv_backward(dy, x, w, stride=2, padding="same", backend="numba")

Images are (N, C, *spatial) with 1 to 3 spatial axes, as many as the arrays have; weights are (O, C/groups, *K). Arrays
may be NumPy arrays or anything with `__dlpack__` (PyTorch, CuPy, JAX) or `__array__`. All of one call have one type:
float32, or float64 where the backend's math takes it (numpy fast). Results come in that type.

Every function takes `backend` (a name of `gpucnn.backends`; None is the fastest usable one) and `math` ("exact", "fast"
or None, the backend's default) last. Every function raises ShapeError for sizes that do not fit, DTypeError for types,
ConfigurationError for settings out of their range, and BackendError for a backend that is unknown, not usable here, or
lacks the math. Gradients are of a sum that weighs each output by `dy`: the chain rule's next factor.

NaN and infinity are computed with, not refused; their bits are outside the exact math's guarantee.
"""

import math as _math
import operator
from typing import Any

import numpy as np

from gpucnn import losses
from gpucnn.arguments import number as finite
from gpucnn.arguments import truth
from gpucnn.backends import get_backend
from gpucnn.backends.protocol import Backend
from gpucnn.errors import ConfigurationError, DataError, DTypeError, ShapeError
from gpucnn.geometry import Window, pads_of, pool_window, transposed_window, window
from gpucnn.resampling import (
    Taps,
    adaptive_sizes,
    check_padding_mode,
    check_upsampling,
    padded_sizes,
    padding_taps,
    unpadded_window,
    upsampling_taps,
)

__all__ = [
    "adaptive_avg_pool",
    "adaptive_avg_pool_backward",
    "adaptive_max_pool",
    "adaptive_max_pool_backward",
    "avg_pool",
    "avg_pool_backward",
    "batch_norm",
    "batch_norm_backward",
    "binary_cross_entropy",
    "concatenate",
    "conv",
    "conv_backward",
    "conv_transpose",
    "conv_transpose_backward",
    "convolve",
    "dense",
    "dense_backward",
    "gelu",
    "gelu_backward",
    "global_avg_pool",
    "global_avg_pool_backward",
    "global_max_pool",
    "global_max_pool_backward",
    "group_norm",
    "group_norm_backward",
    "huber",
    "layer_norm",
    "layer_norm_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "max_pool",
    "max_pool_backward",
    "mean_absolute",
    "mean_squared",
    "pad",
    "pad_backward",
    "relu",
    "sigmoid",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
    "tanh",
    "upsample",
    "upsample_backward",
]

_IMAGES = "images (N, C, *spatial) with 1 to 3 spatial axes"


def conv(
    x,
    w,
    bias=None,
    *,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
    strict: bool = False,
    backend: str | None = None,
    math: str | None = None,
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
    x, w, bias = _floats(x=x, w=w, bias=bias)
    fit, groups = _conv_window(x, w, stride, padding, dilation, groups, strict)
    maps, fit = _conv_padding(fit, padding_mode, padding_value)
    if bias is not None:
        _expect("bias", bias, (w.shape[0],), "one value per filter")
    engine = _engine(backend, math, x.dtype)
    device_bias = None if bias is None else engine.array(bias)
    lanes = engine.resample(engine.pack(x), maps)
    return engine.unpack(engine.conv(lanes, engine.array(w), device_bias, fit, groups))


def conv_backward(
    dy,
    x,
    w,
    *,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
    strict: bool = False,
    backend: str | None = None,
    math: str | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dx, dw, db) of `conv` with the same settings: the gradients of x (N, C, *I), w (O, C/groups, *K) and bias (O,).

    dy is (N, O, *P), as conv returns y.
    """
    dy, x, w = _floats(dy=dy, x=x, w=w)
    fit, groups = _conv_window(x, w, stride, padding, dilation, groups, strict)
    maps, fit = _conv_padding(fit, padding_mode, padding_value)
    _expect("dy", dy, (x.shape[0], w.shape[0], *fit.output), "the shape of conv's output")
    engine = _engine(backend, math, x.dtype)
    dy_lanes, dw, db = engine.pack(dy), engine.zeros(w.shape), engine.zeros(w.shape[:1])
    dx = engine.resample_gradient(engine.conv_input_gradient(dy_lanes, engine.array(w), fit, groups), maps)
    engine.conv_weight_gradient(dy_lanes, engine.resample(engine.pack(x), maps), fit, groups, dw)
    engine.bias_gradient(dy_lanes, db)
    return engine.unpack(dx), engine.host(dw), engine.host(db)


def conv_transpose(
    x,
    w,
    bias=None,
    *,
    stride=1,
    padding=0,
    output_padding=0,
    dilation=1,
    groups=1,
    backend: str | None = None,
    math: str | None = None,
) -> np.ndarray:
    """Transposed convolution: the gradient of a convolution with respect to its input, here run forwards.

    Every value x[n, c, i] adds w[c, o, k] * x[n, c, i] to the output pixel i*stride + k*dilation - before of channel
    g*O/groups + o, with g the group of c; overlapping patches add up, then comes bias.

    x is (N, C, *I), w (C, O/groups, *K), bias (O,) or None; returns (N, O, *P) with P = (I - 1)*stride - before - after
    + dilation*(K - 1) + output_padding + 1 (gpucnn.geometry). stride, dilation and output_padding are an integer or one
    per axis, output_padding less than stride or dilation; padding, which is cut off, is an integer, one per axis, or
    (before, after) per axis. groups divides C.
    """
    x, w, bias = _floats(x=x, w=w, bias=bias)
    fit, groups, outputs = _transposed(x, w, stride, padding, output_padding, dilation, groups)
    if bias is not None:
        _expect("bias", bias, (outputs,), "one value per output channel")
    engine = _engine(backend, math, x.dtype)
    y = engine.conv_input_gradient(engine.pack(x), engine.array(w), fit, groups)
    return engine.unpack(y if bias is None else engine.add_bias(y, engine.array(bias)))


def conv_transpose_backward(
    dy,
    x,
    w,
    *,
    stride=1,
    padding=0,
    output_padding=0,
    dilation=1,
    groups=1,
    backend: str | None = None,
    math: str | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dx, dw, db) of `conv_transpose` with the same settings: the gradients of x, w (C, O/groups, *K) and bias (O,).

    dy is (N, O, *P), as conv_transpose returns y.
    """
    dy, x, w = _floats(dy=dy, x=x, w=w)
    fit, groups, outputs = _transposed(x, w, stride, padding, output_padding, dilation, groups)
    _expect("dy", dy, (x.shape[0], outputs, *fit.input), "the shape of conv_transpose's output")
    engine = _engine(backend, math, x.dtype)
    dy_lanes, dw, db = engine.pack(dy), engine.zeros(w.shape), engine.zeros((outputs,))
    dx = engine.conv(dy_lanes, engine.array(w), None, fit, groups)
    engine.conv_weight_gradient(engine.pack(x), dy_lanes, fit, groups, dw)
    engine.bias_gradient(dy_lanes, db)
    return engine.unpack(dx), engine.host(dw), engine.host(db)


def convolve(x, kernel, mode: str = "full", *, backend: str | None = None, math: str | None = None) -> np.ndarray:
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
    x, kernel = _floats(x=x, kernel=kernel)
    if x.ndim != kernel.ndim or x.ndim == 0:
        raise ShapeError(
            f"x has shape {x.shape} and kernel {kernel.shape}; expected two arrays with the same number of axes, 1 or "
            "more"
        )
    wanted = _convolved(x.shape, kernel.shape, mode)
    if kernel.size > x.size:
        x, kernel = kernel, x
    # Of each axis, the pixels that the wanted outputs meet, and zeros where these lie outside.
    part, pads = [], []
    for size, k, (first, count) in zip(x.shape, kernel.shape, wanted):
        start, stop = first - k + 1, first + count
        part.append(slice(max(start, 0), min(stop, size)))
        pads.append((max(-start, 0), max(stop - size, 0)))
    folded = max(x.ndim - 3, 0)
    images = np.pad(x[tuple(part)], [*pads[:folded], *[(0, 0)] * (x.ndim - folded)])
    windows = np.lib.stride_tricks.sliding_window_view(images, kernel.shape[:folded], tuple(range(folded)))
    # (*P, *rest, *K) of the folded axes' P and K to (P, K, *rest): positions are images, taps are channels.
    windows = np.moveaxis(windows, range(x.ndim, x.ndim + folded), range(folded, 2 * folded))
    taps = _math.prod(kernel.shape[:folded])
    images = np.ascontiguousarray(windows).reshape(-1, taps, *images.shape[folded:])
    filters = np.ascontiguousarray(np.flip(kernel)).reshape(1, taps, *kernel.shape[folded:])
    fit = window(images.shape[2:], filters.shape[2:], padding=pads[folded:])
    engine = _engine(backend, math, x.dtype)
    y = engine.conv(engine.pack(images), engine.array(filters), None, fit)
    return engine.unpack(y).reshape([count for _, count in wanted])


def concatenate(arrays, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """Arrays (N, C1, *spatial), (N, C2, *spatial) ..., or flat (N, C1), (N, C2) ..., side by side along the channels.

    Returns (N, C1 + C2 + ..., *spatial). Its gradient is `dy` cut apart: dy[:, :C1], dy[:, C1 : C1 + C2] ...
    """
    try:
        arrays = list(arrays)
    except TypeError:
        raise DTypeError(f"arrays is a {type(arrays).__name__}; give a list of arrays") from None
    arrays = _floats(**{f"arrays[{i}]": array for i, array in enumerate(arrays)})
    if not arrays:
        raise ShapeError("there are no arrays to concatenate; give at least one")
    first = arrays[0]
    if not 2 <= first.ndim <= 5:
        raise ShapeError(f"arrays[0] has shape {first.shape}; expected (N, C) or {_IMAGES}")
    for i, array in enumerate(arrays):
        if (array.shape[:1], array.shape[2:]) != (first.shape[:1], first.shape[2:]) or array.ndim != first.ndim:
            raise ShapeError(
                f"arrays[{i}] has shape {array.shape} and arrays[0] {first.shape}; all sizes but the channels must "
                "agree"
            )
    engine = _engine(backend, math, first.dtype)
    return engine.unpack(engine.concatenate([engine.pack(array) for array in arrays]))


def max_pool(
    x,
    size,
    *,
    stride=None,
    padding=0,
    ceil_mode: bool = False,
    strict: bool = False,
    backend: str | None = None,
    math: str | None = None,
) -> np.ndarray:
    """The largest value in each window of x (N, C, *I): (N, C, *P), P by the formula in gpucnn.geometry.

    size, stride (size unless given), padding and strict as in `conv`; padding is at most half of size and never wins.
    ceil_mode keeps a last window that reaches past the image and its padding.
    """
    (x,) = _floats(x=x)
    fit = _pool_window(x, size, stride, padding, ceil_mode, strict)
    engine = _engine(backend, math, x.dtype)
    return engine.unpack(engine.max_pool(engine.pack(x), fit)[0])


def max_pool_backward(
    dy,
    x,
    size,
    *,
    stride=None,
    padding=0,
    ceil_mode: bool = False,
    strict: bool = False,
    backend: str | None = None,
    math: str | None = None,
) -> np.ndarray:
    """dx (N, C, *I) of `max_pool` with the same settings: each dy goes to the first largest pixel of its window.

    dy is (N, C, *P), as max_pool returns y.
    """
    dy, x = _floats(dy=dy, x=x)
    fit = _pool_window(x, size, stride, padding, ceil_mode, strict)
    _expect("dy", dy, (*x.shape[:2], *fit.output), "the shape of max_pool's output")
    engine = _engine(backend, math, x.dtype)
    _, where = engine.max_pool(engine.pack(x), fit)
    return engine.unpack(engine.max_pool_gradient(engine.pack(dy), where, fit))


def avg_pool(
    x,
    size,
    *,
    stride=None,
    padding=0,
    count_include_pad: bool = True,
    ceil_mode: bool = False,
    strict: bool = False,
    backend: str | None = None,
    math: str | None = None,
) -> np.ndarray:
    """The mean of each window of x (N, C, *I): (N, C, *P), P by the formula in gpucnn.geometry.

    size, stride (size unless given), padding and strict as in `conv`; padding is at most half of size. Padding counts
    as zeros (PyTorch's default), or with `count_include_pad=False` not at all: the sum is divided by the pixels in the
    image. ceil_mode keeps a last window that reaches past the image and its padding; what it reaches there never
    counts.
    """
    (x,) = _floats(x=x)
    fit = _pool_window(x, size, stride, padding, ceil_mode, strict)
    include = truth("count_include_pad", count_include_pad)
    engine = _engine(backend, math, x.dtype)
    return engine.unpack(engine.avg_pool(engine.pack(x), fit, include))


def avg_pool_backward(
    dy,
    x,
    size,
    *,
    stride=None,
    padding=0,
    count_include_pad: bool = True,
    ceil_mode: bool = False,
    strict: bool = False,
    backend: str | None = None,
    math: str | None = None,
) -> np.ndarray:
    """dx (N, C, *I) of `avg_pool` with the same settings: each dy, divided by the count, to every pixel of its window.

    dy is (N, C, *P), as avg_pool returns y; of x only the shape matters.
    """
    dy, x = _floats(dy=dy, x=x)
    fit = _pool_window(x, size, stride, padding, ceil_mode, strict)
    include = truth("count_include_pad", count_include_pad)
    _expect("dy", dy, (*x.shape[:2], *fit.output), "the shape of avg_pool's output")
    engine = _engine(backend, math, x.dtype)
    return engine.unpack(engine.avg_pool_gradient(engine.pack(dy), fit, include))


def global_avg_pool(x, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """The mean of each map of x (N, C, *I): (N, C)."""
    (x,) = _images(x=x)
    engine = _engine(backend, math, x.dtype)
    return engine.unpack(engine.global_avg_pool(engine.pack(x)))


def global_avg_pool_backward(dy, x, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """dx (N, C, *I) of `global_avg_pool` from dy (N, C); of x only the shape matters."""
    dy, x = _images(dy=dy, x=x)
    _expect("dy", dy, x.shape[:2], "the shape of global_avg_pool's output")
    engine = _engine(backend, math, x.dtype)
    return engine.unpack(engine.global_avg_pool_gradient(engine.pack(dy), x.shape[2:]))


def global_max_pool(x, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """The largest value of each map of x (N, C, *I): (N, C)."""
    (x,) = _images(x=x)
    return max_pool(x, x.shape[2:], backend=backend, math=math).reshape(x.shape[:2])


def global_max_pool_backward(dy, x, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """dx (N, C, *I) of `global_max_pool` from dy (N, C): each dy goes to the first largest pixel of its map."""
    dy, x = _images(dy=dy, x=x)
    _expect("dy", dy, x.shape[:2], "the shape of global_max_pool's output")
    whole = (*dy.shape, *(1 for _ in x.shape[2:]))
    return max_pool_backward(dy.reshape(whole), x, x.shape[2:], backend=backend, math=math)


def adaptive_avg_pool(x, output_size, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """Means of x (N, C, *I) over windows that share out each axis: (N, C, *O), O = output_size, one or one per axis.

    Window p goes from pixel floor(p * I / O) to before ceil((p + 1) * I / O), so neighbours may share one.
    """
    (x,) = _images(x=x)
    output = adaptive_sizes(x.shape[2:], output_size)
    engine = _engine(backend, math, x.dtype)
    return engine.unpack(engine.adaptive_avg_pool(engine.pack(x), output))


def adaptive_avg_pool_backward(
    dy, x, output_size, *, backend: str | None = None, math: str | None = None
) -> np.ndarray:
    """dx (N, C, *I) of `adaptive_avg_pool` from dy (N, C, *O); of x only the shape matters."""
    dy, x = _images(dy=dy, x=x)
    output = adaptive_sizes(x.shape[2:], output_size)
    _expect("dy", dy, (*x.shape[:2], *output), "the shape of adaptive_avg_pool's output")
    engine = _engine(backend, math, x.dtype)
    return engine.unpack(engine.adaptive_avg_pool_gradient(engine.pack(dy), x.shape[2:]))


def adaptive_max_pool(x, output_size, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """The largest values of x (N, C, *I) in the windows of `adaptive_avg_pool`: (N, C, *O)."""
    (x,) = _images(x=x)
    output = adaptive_sizes(x.shape[2:], output_size)
    engine = _engine(backend, math, x.dtype)
    return engine.unpack(engine.adaptive_max_pool(engine.pack(x), output)[0])


def adaptive_max_pool_backward(
    dy, x, output_size, *, backend: str | None = None, math: str | None = None
) -> np.ndarray:
    """dx (N, C, *I) of `adaptive_max_pool` from dy (N, C, *O):
    each dy goes to the first largest pixel of its window.
    """
    dy, x = _images(dy=dy, x=x)
    output = adaptive_sizes(x.shape[2:], output_size)
    _expect("dy", dy, (*x.shape[:2], *output), "the shape of adaptive_max_pool's output")
    engine = _engine(backend, math, x.dtype)
    _, where = engine.adaptive_max_pool(engine.pack(x), output)
    return engine.unpack(engine.adaptive_max_pool_gradient(engine.pack(dy), where, x.shape[2:]))


def pad(
    x, padding, mode: str = "zeros", value: float = 0.0, *, backend: str | None = None, math: str | None = None
) -> np.ndarray:
    """x (N, C, *I) with pixels around each map: (N, C, *O), O = before + I + after along each axis.

    padding is an integer, one per axis, or (before, after) per axis, in the order of the axes; mode as padding_mode in
    `conv`, value for "constant". "reflect" needs more pixels than padding, "circular" as many.
    """
    (x,) = _images(x=x)
    maps, _ = _pad_taps(x, padding, mode, value)
    engine = _engine(backend, math, x.dtype)
    return engine.unpack(engine.resample(engine.pack(x), maps))


def pad_backward(
    dy, x, padding, mode: str = "zeros", value: float = 0.0, *, backend: str | None = None, math: str | None = None
) -> np.ndarray:
    """dx (N, C, *I) of `pad` from dy (N, C, *O): each pixel adds the dy of all places that show it; of x only the shape
    matters."""
    dy, x = _images(dy=dy, x=x)
    maps, sizes = _pad_taps(x, padding, mode, value)
    _expect("dy", dy, (*x.shape[:2], *sizes), "the shape of pad's output")
    engine = _engine(backend, math, x.dtype)
    return engine.unpack(engine.resample_gradient(engine.pack(dy), maps))


def upsample(
    x,
    scale=None,
    *,
    size=None,
    mode: str = "nearest",
    align_corners: bool = False,
    backend: str | None = None,
    math: str | None = None,
) -> np.ndarray:
    """x (N, C, *I) at `scale` times its size or at `size`, one integer or one per axis: (N, C, *O).

    mode "nearest" repeats pixels; "linear" interpolates, linearly along each axis, with `align_corners` so that the
    corner pixels of both maps lie at the same place (PyTorch's interpolate).
    """
    (x,) = _images(x=x)
    check_upsampling(scale, size, mode, align_corners)
    maps = upsampling_taps(x.shape[2:], scale, size, mode, align_corners)
    engine = _engine(backend, math, x.dtype)
    return engine.unpack(engine.resample(engine.pack(x), maps))


def upsample_backward(
    dy,
    x,
    scale=None,
    *,
    size=None,
    mode: str = "nearest",
    align_corners: bool = False,
    backend: str | None = None,
    math: str | None = None,
) -> np.ndarray:
    """dx (N, C, *I) of `upsample` with the same settings, from dy (N, C, *O); of x only the shape matters."""
    dy, x = _images(dy=dy, x=x)
    check_upsampling(scale, size, mode, align_corners)
    maps = upsampling_taps(x.shape[2:], scale, size, mode, align_corners)
    output = (i if table is None else table.output for i, table in zip(x.shape[2:], maps))
    _expect("dy", dy, (*x.shape[:2], *output), "the shape of upsample's output")
    engine = _engine(backend, math, x.dtype)
    return engine.unpack(engine.resample_gradient(engine.pack(dy), maps))


def dense(x, w, bias=None, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """x (N, in) times w (out, in), plus bias (out,): y[n, o] = bias[o] + the sum over i of w[o, i] * x[n, i]."""
    x, w, bias = _floats(x=x, w=w, bias=bias)
    _dense_shapes(x, w)
    if bias is not None:
        _expect("bias", bias, (w.shape[0],), "one value per output")
    engine = _engine(backend, math, x.dtype)
    device_bias = None if bias is None else engine.array(bias)
    return engine.unpack(engine.dense(engine.pack(x), engine.array(w), device_bias))


def dense_backward(
    dy, x, w, *, backend: str | None = None, math: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dx, dw, db) of `dense`: the gradients of x (N, in), w (out, in) and bias (out,). dy is (N, out)."""
    dy, x, w = _floats(dy=dy, x=x, w=w)
    _dense_shapes(x, w)
    _expect("dy", dy, (x.shape[0], w.shape[0]), "the shape of dense's output")
    engine = _engine(backend, math, x.dtype)
    dy_lanes, dw, db = engine.pack(dy), engine.zeros(w.shape), engine.zeros(w.shape[:1])
    dx = engine.dense_input_gradient(dy_lanes, engine.array(w))
    engine.dense_weight_gradient(dy_lanes, engine.pack(x), dw)
    engine.bias_gradient(dy_lanes, db)
    return engine.unpack(dx), engine.host(dw), engine.host(db)


def relu(x, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """x where it is positive, else +0; an array of any shape."""
    return _elementwise("relu", x, backend, math)


def tanh(x, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """The hyperbolic tangent of an array of any shape."""
    return _elementwise("tanh", x, backend, math)


def sigmoid(x, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """1 / (1 + exp(-x)) of an array of any shape."""
    return _elementwise("sigmoid", x, backend, math)


def batch_norm(
    x, gamma, beta, *, eps: float = 1e-5, backend: str | None = None, math: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, mean, var): x normalised by the batch's own statistics, y = gamma * (x - mean) / sqrt(var + eps) + beta.

    x is (N, C) or (N, C, *spatial); gamma, beta, mean and var are (C,), over images and positions. var is the biased
    variance (divided by the count), as it is used. eps is 0 or more.
    """
    x, gamma, beta = _floats(x=x, gamma=gamma, beta=beta)
    eps = _norm_settings(x, gamma, eps)
    _expect("beta", beta, (x.shape[1],), "one value per channel")
    engine = _engine(backend, math, x.dtype)
    lanes = engine.pack(x)
    mean, var, _ = engine.batch_norm_statistics(lanes)
    y = engine.batch_norm(lanes, mean, var, engine.array(gamma), engine.array(beta), eps)
    return engine.unpack(y), engine.host(mean), engine.host(var)


def batch_norm_backward(
    dy, x, gamma, *, eps: float = 1e-5, backend: str | None = None, math: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dx, dgamma, dbeta) of `batch_norm` with the same eps, through the batch's own statistics. dy has x's shape."""
    dy, x, gamma = _floats(dy=dy, x=x, gamma=gamma)
    eps = _norm_settings(x, gamma, eps)
    _expect("dy", dy, x.shape, "the shape of x")
    engine = _engine(backend, math, x.dtype)
    lanes, dgamma, dbeta = engine.pack(x), engine.zeros(gamma.shape), engine.zeros(gamma.shape)
    mean, var, _ = engine.batch_norm_statistics(lanes)
    dx = engine.batch_norm_gradient(engine.pack(dy), lanes, mean, var, engine.array(gamma), eps, dgamma, dbeta)
    return engine.unpack(dx), engine.host(dgamma), engine.host(dbeta)


def leaky_relu(x, *, negative_slope: float = 0.01, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """x where it is positive, else negative_slope * x; an array of any shape."""
    return _elementwise("leaky_relu", x, backend, math, finite("negative_slope", negative_slope))


def leaky_relu_backward(
    dy, x, *, negative_slope: float = 0.01, backend: str | None = None, math: str | None = None
) -> np.ndarray:
    """dx of `leaky_relu` with the same slope: dy where x is positive, else negative_slope * dy. dy has x's shape."""
    return _elementwise_backward("leaky_relu", dy, x, backend, math, finite("negative_slope", negative_slope))


def gelu(x, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """x * Phi(x) of an array of any shape, Phi the normal distribution's cdf (not the approximation by tanh)."""
    return _elementwise("gelu", x, backend, math)


def gelu_backward(dy, x, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """dx of `gelu`: dy * (Phi(x) + x * phi(x)), phi the normal density. dy has x's shape."""
    return _elementwise_backward("gelu", dy, x, backend, math)


def silu(x, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """x / (1 + exp(-x)) of an array of any shape."""
    return _elementwise("silu", x, backend, math)


def silu_backward(dy, x, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """dx of `silu`: dy * s * (1 + x * (1 - s)), s the sigmoid of x. dy has x's shape."""
    return _elementwise_backward("silu", dy, x, backend, math)


def softmax(x, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """exp(x) / sum(exp(x)) along the channels, axis 1, of x (N, C) or (N, C, *spatial)."""
    (x,) = _floats(x=x)
    _channelled(x)
    engine = _engine(backend, math, x.dtype)
    return engine.unpack(engine.softmax(engine.pack(x)))


def softmax_backward(dy, x, *, backend: str | None = None, math: str | None = None) -> np.ndarray:
    """dx of `softmax`: (dy - sum(dy * y)) * y, y being softmax(x) and the sum along the channels. dy has x's shape."""
    dy, x = _floats(dy=dy, x=x)
    _channelled(x)
    _expect("dy", dy, x.shape, "the shape of x")
    engine = _engine(backend, math, x.dtype)
    return engine.unpack(engine.softmax_gradient(engine.pack(dy), engine.softmax(engine.pack(x))))


def group_norm(
    x, groups: int, gamma, beta, *, eps: float = 1e-5, backend: str | None = None, math: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, mean, var): each image's groups of channels normalised, y = gamma * (x - mean) / sqrt(var + eps) + beta.

    x is (N, C) or (N, C, *spatial), groups divides C, gamma and beta are (C,); mean and var (biased) are (N, groups),
    over the channels of a group and all positions. eps is 0 or more. With groups=C it is instance norm.
    """
    x, gamma, beta = _floats(x=x, gamma=gamma, beta=beta)
    eps, groups = _norm_settings(x, gamma, eps), _norm_groups(x, groups)
    _expect("beta", beta, (x.shape[1],), "one value per channel")
    engine = _engine(backend, math, x.dtype)
    lanes = engine.pack(x)
    mean, var = engine.group_norm_statistics(lanes, groups)
    y = engine.group_norm(lanes, mean, var, engine.array(gamma), engine.array(beta), eps)
    return engine.unpack(y), engine.unpack(mean), engine.unpack(var)


def group_norm_backward(
    dy, x, groups: int, gamma, *, eps: float = 1e-5, backend: str | None = None, math: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dx, dgamma, dbeta) of `group_norm` with the same groups and eps, through the statistics. dy has x's shape."""
    dy, x, gamma = _floats(dy=dy, x=x, gamma=gamma)
    eps, groups = _norm_settings(x, gamma, eps), _norm_groups(x, groups)
    _expect("dy", dy, x.shape, "the shape of x")
    engine = _engine(backend, math, x.dtype)
    lanes, dgamma, dbeta = engine.pack(x), engine.zeros(gamma.shape), engine.zeros(gamma.shape)
    mean, var = engine.group_norm_statistics(lanes, groups)
    dx = engine.group_norm_gradient(engine.pack(dy), lanes, mean, var, engine.array(gamma), eps, dgamma, dbeta)
    return engine.unpack(dx), engine.host(dgamma), engine.host(dbeta)


def layer_norm(
    x, gamma, beta, *, eps: float = 1e-5, backend: str | None = None, math: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, mean, var): each image normalised as a whole, y = gamma * (x - mean) / sqrt(var + eps) + beta.

    x is (N, C) or (N, C, *spatial), gamma and beta have the shape of one image; mean and var (biased) are (N,). eps is
    0 or more.
    """
    x, gamma, beta = _floats(x=x, gamma=gamma, beta=beta)
    _image_norm(x, gamma=gamma, beta=beta)
    flat, gamma, beta = x.reshape(len(x), -1), gamma.reshape(-1), beta.reshape(-1)
    y, mean, var = group_norm(flat, 1, gamma, beta, eps=eps, backend=backend, math=math)
    return y.reshape(x.shape), mean[:, 0], var[:, 0]


def layer_norm_backward(
    dy, x, gamma, *, eps: float = 1e-5, backend: str | None = None, math: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dx, dgamma, dbeta) of `layer_norm` with the same eps, through the statistics. dy has x's shape."""
    dy, x, gamma = _floats(dy=dy, x=x, gamma=gamma)
    _image_norm(x, gamma=gamma)
    _expect("dy", dy, x.shape, "the shape of x")
    flat = [array.reshape(len(x), -1) for array in (dy, x)]
    found = group_norm_backward(*flat, 1, gamma.reshape(-1), eps=eps, backend=backend, math=math)
    return tuple(array.reshape(shape) for array, shape in zip(found, (x.shape, gamma.shape, gamma.shape), strict=True))


def softmax_cross_entropy(
    logits,
    labels,
    *,
    label_smoothing: float = 0.0,
    class_weights=None,
    backend: str | None = None,
    math: str | None = None,
) -> tuple[np.floating, np.ndarray]:
    """(loss, dlogits): the mean over the batch of -log softmax(logits)[label], and its gradient (softmax - onehot) / N.

    logits are (N, classes), labels integers (N,) from 0 to classes - 1; the loss is a NumPy scalar of the logits' type.
    label_smoothing and class_weights (classes,) as gpucnn.losses.SoftmaxCrossEntropy has them.
    Raises DataError for a label out of range.
    """
    (logits,) = _floats(logits=logits)
    if logits.ndim != 2:
        raise ShapeError(f"logits have shape {logits.shape}; expected (N, classes)")
    labels = _labels(labels, *logits.shape)
    weights = None if class_weights is None else _host("class_weights", class_weights)
    criterion = losses.SoftmaxCrossEntropy(label_smoothing, weights)
    engine = _engine(backend, math, logits.dtype)
    loss, dlogits = criterion(engine.pack(logits), engine.pack_labels(labels))
    return engine.host(loss)[0], engine.unpack(dlogits)


def mean_squared(x, targets, *, backend: str | None = None, math: str | None = None) -> tuple[np.floating, np.ndarray]:
    """(loss, dx): the mean of (x - targets)**2 over all values, and its gradient. x is (N, C) or (N, C, *spatial)."""
    return _value_loss(losses.MeanSquared(), x, targets, backend, math)


def mean_absolute(x, targets, *, backend: str | None = None, math: str | None = None) -> tuple[np.floating, np.ndarray]:
    """(loss, dx): the mean of |x - targets| over all values, and its gradient. x is (N, C) or (N, C, *spatial)."""
    return _value_loss(losses.MeanAbsolute(), x, targets, backend, math)


def huber(
    x, targets, *, delta: float = 1.0, backend: str | None = None, math: str | None = None
) -> tuple[np.floating, np.ndarray]:
    """(loss, dx): with d = x - targets the mean of d**2 / 2 where |d| <= delta, of delta * (|d| - delta / 2) beyond.

    x is (N, C) or (N, C, *spatial), targets have its shape; dx is the loss's gradient.
    """
    return _value_loss(losses.Huber(delta), x, targets, backend, math)


def binary_cross_entropy(
    logits, targets, *, backend: str | None = None, math: str | None = None
) -> tuple[np.floating, np.ndarray]:
    """(loss, dlogits): the mean of -(t * log(p) + (1 - t) * log(1 - p)), p = sigmoid(logits), t the targets from 0 to
    1.

    logits are (N, C) or (N, C, *spatial), targets have their shape. Raises DataError for a target out of range.
    """
    return _value_loss(losses.BinaryCrossEntropy(), logits, targets, backend, math)


def _value_loss(criterion, x: Any, targets: Any, backend: str | None, math: str | None):
    x, targets = _floats(x=x, targets=targets)
    _channelled(x)
    engine = _engine(backend, math, x.dtype)
    loss, dx = criterion(engine.pack(x), targets)
    return engine.host(loss)[0], engine.unpack(dx)


def _channelled(x: np.ndarray) -> None:
    if not 2 <= x.ndim <= 5:
        raise ShapeError(f"x has shape {x.shape}; expected (N, C) or {_IMAGES}")


def _elementwise_backward(operation: str, dy: Any, x: Any, backend: str | None, math: str | None, *settings):
    dy, x = _floats(dy=dy, x=x)
    _expect("dy", dy, x.shape, "the shape of x")
    engine = _engine(backend, math, x.dtype)
    columns = (engine.pack(a.reshape(a.shape[0] if a.ndim else 1, -1)) for a in (dy, x))
    return engine.unpack(getattr(engine, f"{operation}_gradient")(*columns, *settings)).reshape(x.shape)


def _elementwise(operation: str, x: Any, backend: str | None, math: str | None, *settings) -> np.ndarray:
    (x,) = _floats(x=x)
    engine = _engine(backend, math, x.dtype)
    columns = x.reshape(x.shape[0] if x.ndim else 1, -1)  # any shape as (N, C): the operation sees single values
    return engine.unpack(getattr(engine, operation)(engine.pack(columns), *settings)).reshape(x.shape)


def _engine(backend: str | None, math: str | None, dtype: np.dtype) -> Backend:
    """The backend that computes in `dtype`; float64 is for numpy's fast math alone."""
    engine = get_backend(backend, math)
    if engine.dtype == dtype:
        return engine
    if (engine.name, engine.math) == ("numpy", "fast"):
        return get_backend(backend, math, dtype=dtype)
    raise DTypeError(
        f"the arrays are {dtype}, but {engine.math} math on {engine.name} takes {engine.dtype}; convert them with "
        f'.astype(np.float32), or use backend="numpy", math="fast" for {dtype}'
    )


def _host(name: str, value: Any) -> np.ndarray:
    """A NumPy array of anything that can be read as one."""
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    try:
        if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
            on_cpu = value.__dlpack_device__()[0] == 1  # kDLCPU of dlpack.h
            return np.from_dlpack(value) if on_cpu else np.from_dlpack(value, device="cpu")
        return np.asarray(value)
    except Exception as error:  # a foreign array raises what it likes, BufferError to RuntimeError
        raise DTypeError(
            f"{name} is a {type(value).__name__} that cannot be read as an array ({error}); give a NumPy array, or a "
            "detached tensor with __dlpack__ or __array__"
        ) from error


def _floats(**named: Any) -> tuple[np.ndarray | None, ...]:
    """The arrays in order (None stays None), contiguous, without an empty axis, all float32 or all float64."""
    arrays = {name: None if value is None and name == "bias" else _host(name, value) for name, value in named.items()}
    first = None
    for name, array in arrays.items():
        if array is None:
            continue
        if array.dtype not in (np.float32, np.float64):
            raise DTypeError(f"{name} is {array.dtype}; expected float32 (or float64): use .astype(np.float32)")
        if first is not None and array.dtype != arrays[first].dtype:
            raise DTypeError(
                f"{name} is {array.dtype} but {first} is {arrays[first].dtype}; convert one: all arrays are of one type"
            )
        if array.size == 0:
            what = "an empty batch" if array.ndim and array.shape[0] == 0 else "an array with an empty axis"
            raise ShapeError(f"{name} has shape {array.shape}, {what}; every axis needs at least one entry")
        first = first or name
    return tuple(None if array is None else np.asarray(array, order="C") for array in arrays.values())


def _expect(name: str, array: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    if array.shape != shape:
        raise ShapeError(f"{name} has shape {array.shape}; expected {shape}, {what}")


def _images(**named: Any) -> tuple[np.ndarray, ...]:
    """The arrays as _floats gives them; raises ShapeError unless x is (N, C, *I)."""
    arrays = _floats(**named)
    x = arrays[-1]
    if not 3 <= x.ndim <= 5:
        raise ShapeError(f"x has shape {x.shape}; expected {_IMAGES}")
    return arrays


def _conv_padding(fit: Window, mode: Any, value: Any) -> tuple[Taps, Window]:
    """The maps that pad an image before its convolution, and the window on what they make; none for zeros."""
    mode, value = check_padding_mode(mode, value)
    return ((), fit) if mode == "zeros" else (padding_taps(fit.input, fit.padding, mode, value), unpadded_window(fit))


def _pad_taps(x: np.ndarray, padding: Any, mode: Any, value: Any) -> tuple[Taps, tuple[int, ...]]:
    mode, value = check_padding_mode(mode, value)
    pads = pads_of(padding, x.ndim - 2)
    return padding_taps(x.shape[2:], pads, mode, value), padded_sizes(x.shape[2:], pads)


def _conv_window(x: np.ndarray, w: np.ndarray, stride, padding, dilation, groups, strict) -> tuple[Window, int]:
    if not 3 <= x.ndim <= 5:
        raise ShapeError(f"x has shape {x.shape}; expected {_IMAGES}")
    if w.ndim != x.ndim:
        raise ShapeError(
            f"w has shape {w.shape}, {w.ndim} axes, for x of shape {x.shape}; expected {x.ndim} axes, (O, C/groups, *K)"
        )
    channels, filters = x.shape[1], w.shape[0]
    try:
        number = operator.index(groups)
    except TypeError:
        number = 0
    if number < 1 or isinstance(groups, (bool, np.bool_)):
        raise ConfigurationError(f"groups is {groups!r}; give a positive integer that divides {channels} and {filters}")
    if channels % number or filters % number:
        raise ShapeError(
            f"groups = {number} does not divide the {channels} channels of x and the {filters} filters of w; "
            f"it may be a divisor of {_math.gcd(channels, filters)}"
        )
    if w.shape[1] != channels // number:
        raise ShapeError(
            f"w has shape {w.shape}, filters of {w.shape[1]} channels, but x of shape {x.shape} in {number} group(s) "
            f"needs {channels // number}; expected w (O, {channels // number}, *K)"
        )
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "strict": truth("strict", strict)}
    return window(x.shape[2:], w.shape[2:], **settings), number


def _transposed(
    x: np.ndarray, w: np.ndarray, stride, padding, output_padding, dilation, groups
) -> tuple[Window, int, int]:
    """The window that runs backwards, the groups, and the output channels."""
    if not 3 <= x.ndim <= 5:
        raise ShapeError(f"x has shape {x.shape}; expected {_IMAGES}")
    channels = x.shape[1]
    if w.ndim != x.ndim or w.shape[0] != channels:
        raise ShapeError(
            f"w has shape {w.shape} for x of shape {x.shape}; expected {x.ndim} axes, ({channels}, O/groups, *K)"
        )
    try:
        number = operator.index(groups)
    except TypeError:
        number = 0
    if number < 1 or isinstance(groups, (bool, np.bool_)):
        raise ConfigurationError(f"groups is {groups!r}; give a positive integer that divides {channels}")
    if channels % number:
        raise ShapeError(f"groups = {number} does not divide the {channels} channels of x")
    settings = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    return transposed_window(x.shape[2:], w.shape[2:], **settings), number, w.shape[1] * number


def _convolved(x: tuple[int, ...], kernel: tuple[int, ...], mode: str) -> list[tuple[int, int]]:
    """(first, count) of the full convolution's positions along each axis that `mode` wants."""
    sizes = list(zip(x, kernel, strict=True))
    if mode == "full":
        return [(0, i + k - 1) for i, k in sizes]
    if mode == "same":
        return [((k - 1) // 2, i) for i, k in sizes]
    if mode != "valid":
        raise ConfigurationError(f'mode is {mode!r}; use "full", "same" or "valid"')
    if any(i < k for i, k in sizes) and any(i > k for i, k in sizes):
        raise ShapeError(
            f'x has shape {x} and kernel {kernel}: neither lies within the other; for mode="valid" one must be as '
            'large or larger in all axes (mode="full" takes any)'
        )
    return [(min(i, k) - 1, abs(i - k) + 1) for i, k in sizes]


def _pool_window(x: np.ndarray, size, stride, padding, ceil_mode, strict) -> Window:
    if not 3 <= x.ndim <= 5:
        raise ShapeError(f"x has shape {x.shape}; expected {_IMAGES}")
    modes = {"ceil": truth("ceil_mode", ceil_mode), "strict": truth("strict", strict)}
    return pool_window(x.shape[2:], size, stride=stride, padding=padding, **modes)


def _dense_shapes(x: np.ndarray, w: np.ndarray) -> None:
    if x.ndim != 2:
        raise ShapeError(f"x has shape {x.shape}; expected (N, in): flatten images with x.reshape(len(x), -1)")
    if w.ndim != 2 or w.shape[1] != x.shape[1]:
        raise ShapeError(f"w has shape {w.shape} for x of shape {x.shape}; expected (out, {x.shape[1]})")


def _norm_settings(x: np.ndarray, gamma: np.ndarray, eps: Any) -> float:
    if not 2 <= x.ndim <= 5:
        raise ShapeError(f"x has shape {x.shape}; expected (N, C) or {_IMAGES}")
    _expect("gamma", gamma, (x.shape[1],), "one value per channel")
    try:
        number = float(eps)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(eps, (bool, np.bool_, str)) or not 0 <= number < _math.inf:
        raise ConfigurationError(f"eps is {eps!r}; give a small number of 0 or more, such as 1e-5")
    return number


def _norm_groups(x: np.ndarray, groups: Any) -> int:
    try:
        number = operator.index(groups)
    except TypeError:
        number = 0
    if number < 1 or isinstance(groups, (bool, np.bool_)):
        raise ConfigurationError(f"groups is {groups!r}; give a positive integer that divides {x.shape[1]}")
    if x.shape[1] % number:
        raise ShapeError(f"groups = {number} does not divide the {x.shape[1]} channels of x of shape {x.shape}")
    return number


def _image_norm(x: np.ndarray, **parameters: np.ndarray) -> None:
    """Checks of what normalises whole images."""
    if not 2 <= x.ndim <= 5:
        raise ShapeError(f"x has shape {x.shape}; expected (N, C) or {_IMAGES}")
    for name, array in parameters.items():
        _expect(name, array, x.shape[1:], "the shape of one image")


def _labels(labels: Any, images: int, classes: int) -> np.ndarray:
    """Labels (N,) as int64, each from 0 to classes - 1."""
    labels = _host("labels", labels)
    if labels.dtype.kind not in "iu":
        raise DTypeError(f"labels are {labels.dtype}; expected integers, the index of each image's class")
    if labels.shape != (images,):
        raise ShapeError(f"labels have shape {labels.shape}; expected {(images,)}, one for each row of the logits")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(f"label {labels[wrong[0]]} of image {wrong[0]} is out of range; expected 0 to {classes - 1}")
    return labels.astype(np.int64)
