"""True convolution, which flips the kernel, for any number of axes."""

import math as _math
from typing import Any

import numpy as np

from gpucnn.arguments import one_of
from gpucnn.errors import ShapeError
from gpucnn.functional.arrays import Name, backend_for, expect, floats
from gpucnn.geometry import window

__all__ = ["convolve", "convolve_backward"]


def convolve(x, kernel, mode: str = "full", *, backend: Name = None, math: Name = None) -> np.ndarray:
    """True convolution, with the kernel flipped, of two arrays with the same number of axes, any number from 1 on.

    y[p] = the sum over k of kernel[k] * x[p - k], with zeros outside both. It is commutative, associative and linear,
    and the unit impulse is its identity. Shapes are scipy.signal.convolve's:

        "full"   every p where the two overlap: x.shape + kernel.shape - 1
        "same"   the middle of that, of x's shape; if an odd number of positions is cut, one more at the end
        "valid"  where one is entirely within the other, which is at least as large along every axis: the difference of
                 the shapes + 1

    The array with fewer values slides (on a tie `kernel`). In exact math mode each value is one chain by rule 2 of the
    contract over the sliding array's positions, backwards from its last. More than three axes are folded: positions
    along the leading ones become images, taps along them channels, in row-major order.
    """
    x, kernel = floats(x=x, kernel=kernel)
    positions = _positions(x, kernel, mode)
    if kernel.size > x.size:
        x, kernel = kernel, x
    # Along each axis, the pixels under the kept outputs, and zeros beyond the array.
    part, pads = [], []
    for size, k, (first, count) in zip(x.shape, kernel.shape, positions):
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
    return engine.unpack(y).reshape([count for _, count in positions])


def convolve_backward(dy, x, kernel, mode="full", *, backend=None, math=None) -> tuple[np.ndarray, np.ndarray]:
    """(dx, dkernel) of `convolve` with the same mode: dx[i] = the sum over k of kernel[k] * dy[i + k], and dkernel
    likewise. dy has the shape of convolve's output."""
    dy, x, kernel = floats(dy=dy, x=x, kernel=kernel)
    positions = _positions(x, kernel, mode)
    expect("dy", dy, tuple(count for _, count in positions), "the shape of convolve's output")
    full = np.zeros([i + k - 1 for i, k in zip(x.shape, kernel.shape)], dy.dtype)
    full[tuple(slice(first, first + count) for first, count in positions)] = dy
    settings = {"mode": "valid", "backend": backend, "math": math}
    return convolve(full, np.flip(kernel), **settings), convolve(full, np.flip(x), **settings)


def _positions(x: np.ndarray, kernel: np.ndarray, mode: Any) -> list[tuple[int, int]]:
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
            f'x has shape {x.shape} and kernel {kernel.shape}: neither fits within the other; for mode="valid" one '
            'must be as large or larger in all axes (mode="full" takes any)'
        )
    return [(min(i, k) - 1, abs(i - k) + 1) for i, k in sizes]
