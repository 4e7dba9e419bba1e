"""Dense layers and concatenation."""

import numpy as np

from gpucnn.arguments import sequence
from gpucnn.errors import DTypeError, ShapeError
from gpucnn.functional.arrays import IMAGES, Name, backend_for, backward, built, expect, expect_output, floats, forward
from gpucnn.layers import Dense

__all__ = ["concatenate", "concatenate_backward", "dense", "dense_backward"]


def dense(x, w, bias=None, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """x (N, in) times w (out, in), plus bias (out,): y[n, o] = bias[o] + the sum over i of w[o, i] * x[n, i]."""
    x, w, bias = floats(x=x, w=w, bias=bias)
    layer = _dense(x, w, bias is not None)
    if bias is not None:
        expect("bias", bias, w.shape[:1], "one value per output")
    return forward(layer, backend, math, x, weight=w, bias=bias)


def dense_backward(dy, x, w, *, backend: Name = None, math: Name = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dx, dw, db) of `dense`: the gradients of x (N, in), w (out, in) and bias (out,). dy is (N, out)."""
    dy, x, w = floats(dy=dy, x=x, w=w)
    layer = _dense(x, w, True)
    expect_output(layer, dy, x, "dense")
    return backward(layer, backend, math, dy, x, weight=w)


def concatenate(arrays, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """Arrays (N, C1, *spatial), (N, C2, *spatial) ..., or flat (N, C1), (N, C2) ..., joined along the channels.

    Returns (N, C1 + C2 + ..., *spatial).
    """
    arrays = _alike(arrays)
    engine = backend_for(arrays[0], backend, math)
    return engine.unpack(engine.concatenate([engine.pack(array) for array in arrays]))


def concatenate_backward(dy, arrays, *, backend: Name = None, math: Name = None) -> list[np.ndarray]:
    """The gradient of each of the arrays of `concatenate`, cut out of dy (N, C1 + C2 + ..., *spatial); only the
    arrays' shapes matter."""
    arrays = _alike(arrays)
    channels = [array.shape[1] for array in arrays]
    (dy,) = floats(dy=dy)
    expect("dy", dy, (len(arrays[0]), sum(channels), *arrays[0].shape[2:]), "the shape of concatenate's output")
    engine = backend_for(dy, backend, math)
    lanes, first = engine.pack(dy), np.cumsum([0, *channels])
    return [engine.unpack(engine.take_channels(lanes, int(start), count)) for start, count in zip(first, channels)]


def _dense(x: np.ndarray, w: np.ndarray, biased: bool) -> Dense:
    if x.ndim != 2:
        raise ShapeError(f"x has shape {x.shape}; expected (N, in): flatten images with x.reshape(len(x), -1)")
    if w.ndim != 2 or w.shape[1] != x.shape[1]:
        raise ShapeError(f"w has shape {w.shape} for x of shape {x.shape}; expected (out, {x.shape[1]})")
    return built(Dense(w.shape[0], bias=biased), x)


def _alike(arrays) -> tuple[np.ndarray, ...]:
    """The arrays, checked to differ only in their channels."""
    parts = sequence("arrays", arrays, "a list of arrays", DTypeError)
    checked = floats(**{f"arrays[{i}]": array for i, array in enumerate(parts)})
    if not checked:
        raise ShapeError("there are no arrays to concatenate; give at least one")
    first = checked[0]
    if not 2 <= first.ndim <= 5:
        raise ShapeError(f"arrays[0] has shape {first.shape}; expected (N, C) or {IMAGES}")
    for i, array in enumerate(checked):
        if (array.shape[:1], array.shape[2:]) != (first.shape[:1], first.shape[2:]) or array.ndim != first.ndim:
            raise ShapeError(
                f"arrays[{i}] has shape {array.shape} and arrays[0] {first.shape}; all sizes but the channels must "
                "agree"
            )
    return checked
