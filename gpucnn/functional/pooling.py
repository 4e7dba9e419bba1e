"""Pooling: the maximum or mean over windows, equal parts of each axis, or the whole map."""

import numpy as np

from gpucnn.functional.arrays import Name, backward_on_images, forward_on_images
from gpucnn.geometry import Padding, PerAxis
from gpucnn.layers.pool import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool

__all__ = ["adaptive_avg_pool", "adaptive_avg_pool_backward", "adaptive_max_pool", "adaptive_max_pool_backward"]
__all__ += ["avg_pool", "avg_pool_backward", "global_avg_pool", "global_avg_pool_backward", "global_max_pool"]
__all__ += ["global_max_pool_backward", "max_pool", "max_pool_backward"]


def max_pool(x, size, *, stride=None, padding=0, ceil_mode=False, strict=False, backend=None, math=None) -> np.ndarray:
    """The largest value in each window of x (N, C, *I): (N, C, *P), P by the formula in gpucnn.geometry.

    size, stride (default: size), padding and strict as in `conv`; padding is at most half of size and never wins.
    ceil_mode keeps a last window that reaches past the image and its padding.
    """
    layer = MaxPool(size, stride=stride, padding=padding, ceil_mode=ceil_mode, strict=strict)
    return forward_on_images(layer, backend, math, x)


def max_pool_backward(
    dy, x, size, *, stride=None, padding=0, ceil_mode=False, strict=False, backend=None, math=None
) -> np.ndarray:
    """dx (N, C, *I) of `max_pool` with the same settings: each dy goes to the first largest pixel of its window.

    dy is (N, C, *P), as max_pool returns y.
    """
    layer = MaxPool(size, stride=stride, padding=padding, ceil_mode=ceil_mode, strict=strict)
    return backward_on_images("max_pool", layer, backend, math, dy, x)


def avg_pool(
    x, size, *, stride=None, padding=0, count_include_pad=True, ceil_mode=False, strict=False, backend=None, math=None
) -> np.ndarray:
    """The mean of each window of x (N, C, *I): (N, C, *P), P by the formula in gpucnn.geometry.

    size, stride (default: size), padding and strict as in `conv`; padding is at most half of size. Padding counts
    as zeros (PyTorch's default), or with `count_include_pad=False` not at all: the sum is divided by the pixels in the
    image. ceil_mode keeps a last window that reaches past the image and its padding; what it covers there never
    counts.
    """
    modes = {"count_include_pad": count_include_pad, "ceil_mode": ceil_mode, "strict": strict}
    return forward_on_images(AvgPool(size, stride=stride, padding=padding, **modes), backend, math, x)


def avg_pool_backward(
    dy,
    x,
    size: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    count_include_pad: bool = True,
    ceil_mode: bool = False,
    strict: bool = False,
    backend: Name = None,
    math: Name = None,
) -> np.ndarray:
    """dx (N, C, *I) of `avg_pool` with the same settings: each dy, divided by the count, to every pixel of its window.

    dy is (N, C, *P), as avg_pool returns y; only x's shape matters.
    """
    modes = {"count_include_pad": count_include_pad, "ceil_mode": ceil_mode, "strict": strict}
    layer = AvgPool(size, stride=stride, padding=padding, **modes)
    return backward_on_images("avg_pool", layer, backend, math, dy, x, only_shape=True)


def global_avg_pool(x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """The mean of each map of x (N, C, *I): (N, C)."""
    return forward_on_images(GlobalAvgPool(), backend, math, x)


def global_avg_pool_backward(dy, x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """dx (N, C, *I) of `global_avg_pool` from dy (N, C); only x's shape matters."""
    return backward_on_images("global_avg_pool", GlobalAvgPool(), backend, math, dy, x, only_shape=True)


def global_max_pool(x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """The largest value of each map of x (N, C, *I): (N, C)."""
    return forward_on_images(GlobalMaxPool(), backend, math, x)


def global_max_pool_backward(dy, x, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """dx (N, C, *I) of `global_max_pool` from dy (N, C): each dy goes to the first largest pixel of its map."""
    return backward_on_images("global_max_pool", GlobalMaxPool(), backend, math, dy, x)


def adaptive_avg_pool(x, output_size: PerAxis, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """Means of x (N, C, *I) over windows that divide each axis: (N, C, *O), O = output_size, one or one per axis.

    Window p goes from pixel floor(p * I / O) to before ceil((p + 1) * I / O), so neighbors may share one.
    """
    return forward_on_images(AdaptiveAvgPool(output_size), backend, math, x)


def adaptive_avg_pool_backward(dy, x, output_size: PerAxis, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """dx (N, C, *I) of `adaptive_avg_pool` from dy (N, C, *O); only x's shape matters."""
    return backward_on_images("adaptive_avg_pool", AdaptiveAvgPool(output_size), backend, math, dy, x, only_shape=True)


def adaptive_max_pool(x, output_size: PerAxis, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """The largest values of x (N, C, *I) in the windows of `adaptive_avg_pool`: (N, C, *O)."""
    return forward_on_images(AdaptiveMaxPool(output_size), backend, math, x)


def adaptive_max_pool_backward(dy, x, output_size: PerAxis, *, backend: Name = None, math: Name = None) -> np.ndarray:
    """dx (N, C, *I) of `adaptive_max_pool` from dy (N, C, *O): each dy goes to the first largest pixel of its
    window."""
    return backward_on_images("adaptive_max_pool", AdaptiveMaxPool(output_size), backend, math, dy, x)
