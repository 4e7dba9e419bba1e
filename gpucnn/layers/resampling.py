"""Layers that move pixels: padding by itself, and upsampling. For one to three spatial axes, as many as images have."""

from fractions import Fraction

from gpucnn import arguments
from gpucnn.arguments import each_axis, truth
from gpucnn.backends.batch import Batch
from gpucnn.geometry import pads_of
from gpucnn.layers.base import Backward, Layer, Shape
from gpucnn.layers.settings import image_shape
from gpucnn.resampling import (
    Taps,
    check_padding_mode,
    check_upsampling,
    padded_sizes,
    padding_taps,
    upsampling_taps,
)


class _Mapped(Layer):
    """A layer that is one map along each axis."""

    recordable = True
    _taps: Taps

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        return x.backend.resample(x, self._taps), self.gradients

    def gradients(self, dy: Batch, x: Batch | None = None) -> Batch:
        return dy.backend.resample_gradient(dy, self._taps)


class Pad(_Mapped):
    """Pixels around each map: `padding` is an integer, one per axis, or (before, after) per axis.

    `mode` says what they hold: "zeros", "constant" (`value`), "reflect" (the image mirrored at its edge pixels),
    "replicate" (the edge pixels repeated), "circular" (the opposite edge).
    """

    def __init__(self, padding, mode: str = "zeros", value: float = 0.0):
        self.padding = arguments.padding(padding)
        self.padding_mode, self.value = check_padding_mode(mode, value)

    def build(self, shape: Shape) -> Shape:
        channels, size = image_shape(shape, None)
        pads = pads_of(self.padding, len(size))
        self._taps = padding_taps(size, pads, self.padding_mode, self.value)
        self.reach = self.step = (1,) * len(size)
        return (channels, *padded_sizes(size, pads))


class Upsample(_Mapped):
    """Maps `scale` times as large, or of `size`: an integer or one per axis.

    `mode` "nearest" repeats pixels; "linear" is linear, bilinear or trilinear interpolation, by the number of axes.
    `align_corners` puts the corner pixels of both maps at the same place, as in PyTorch.
    """

    def __init__(self, scale=None, *, size=None, mode: str = "nearest", align_corners: bool = False):
        check_upsampling(scale, size, mode, align_corners)
        self.scale = None if scale is None else each_axis("scale", scale)
        self.size = None if size is None else each_axis("size", size)
        self.interpolation, self.align_corners = mode, truth("align_corners", align_corners)

    def build(self, shape: Shape) -> Shape:
        channels, size = image_shape(shape, None)
        self._taps = upsampling_taps(size, self.scale, self.size, self.interpolation, self.align_corners)
        output = tuple(i if table is None else table.output for i, table in zip(size, self._taps))
        self.reach = tuple(1 if table is None else table.reach for table in self._taps)
        self.step = tuple(Fraction(i, o) for i, o in zip(size, output))
        return (channels, *output)
