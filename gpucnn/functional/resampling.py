"""Padding and upsampling."""

import numpy as np

from gpucnn.functional.arrays import backward_on_images, forward_on_images
from gpucnn.layers import Pad, Upsample

__all__ = ["pad", "pad_backward", "upsample", "upsample_backward"]


def pad(x, padding, mode="zeros", value=0.0, *, backend=None, math=None) -> np.ndarray:
    """x (N, C, *I) with pixels around each map: (N, C, *O), O = before + I + after along each axis.

    padding is an integer, one per axis, or (before, after) per axis, in the order of the axes; mode as padding_mode in
    `conv`, value for "constant". "reflect" needs more pixels than padding, "circular" as many.
    """
    return forward_on_images(Pad(padding, mode, value), backend, math, x)


def pad_backward(dy, x, padding, mode="zeros", value=0.0, *, backend=None, math=None) -> np.ndarray:
    """dx (N, C, *I) of `pad` from dy (N, C, *O): each pixel gets the sum of dy over all positions that show it;
    only x's shape matters."""
    layer = Pad(padding, mode, value)
    return backward_on_images("pad", layer, backend, math, dy, x, only_shape=True)


def upsample(x, scale=None, *, size=None, mode="nearest", align_corners=False, backend=None, math=None) -> np.ndarray:
    """x (N, C, *I) at `scale` times its size or at `size`, one integer or one per axis: (N, C, *O).

    mode "nearest" repeats pixels; "linear" interpolates, linearly along each axis, with `align_corners` so that the
    corner pixels of both maps coincide (PyTorch's interpolate).
    """
    layer = Upsample(scale, size=size, mode=mode, align_corners=align_corners)
    return forward_on_images(layer, backend, math, x)


def upsample_backward(
    dy, x, scale=None, *, size=None, mode="nearest", align_corners=False, backend=None, math=None
) -> np.ndarray:
    """dx (N, C, *I) of `upsample` with the same settings, from dy (N, C, *O); only x's shape matters."""
    layer = Upsample(scale, size=size, mode=mode, align_corners=align_corners)
    return backward_on_images("upsample", layer, backend, math, dy, x, only_shape=True)
