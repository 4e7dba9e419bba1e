"""Padding and upsampling layers, for images with one to three spatial axes."""

from fractions import Fraction

import numpy as np

from gpucnn import arguments
from gpucnn.arguments import each_axis, truth
from gpucnn.backends.batch import Batch
from gpucnn.errors import ConfigurationError
from gpucnn.geometry import Padding, pads_of
from gpucnn.layers.base import Backward, Layer, Shape
from gpucnn.layers.counterparts import Graph, TorchModule
from gpucnn.layers.own import label
from gpucnn.layers.settings import image_shape
from gpucnn.resampling import (
    Taps,
    check_padding_mode,
    check_upsampling,
    padded_sizes,
    padding_taps,
    upsampling_taps,
)


def onnx_resample(graph: Graph, x: str, maps: Taps) -> str:
    """Along each axis a Pad if positions hold a constant, a Gather if each takes one pixel, else a product with the
    taps as a matrix.
    """
    for axis, taps in enumerate(maps, start=2):
        if taps is None:
            continue
        name = f"axis{axis}"
        if not all(taps.taps):  # a constant before and after the image
            first = next(p for p, pixels in enumerate(taps.taps) if pixels)
            pads = graph.constant(f"{name}.pads", [first, taps.output - first - taps.input])
            fill = graph.constant(f"{name}.fill", float(taps.fill))
            x = graph.node("Pad", x, pads, fill, graph.constant(f"{name}.axis", [axis]))
            continue
        if all(len(pixels) == 1 and pixels[0][1] == 1.0 for pixels in taps.taps):
            x = graph.node("Gather", x, graph.constant(name, [pixels[0][0] for pixels in taps.taps]), axis=axis)
            continue
        matrix = np.zeros((taps.input, taps.output), np.float32)
        for p, pixels in enumerate(taps.taps):
            for i, weight in pixels:
                matrix[i, p] = weight
        order = [*range(len(maps) + 2)]
        order[axis], order[-1] = order[-1], order[axis]  # its own inverse
        x = x if axis == order[axis] else graph.node("Transpose", x, perm=order)
        x = graph.node("MatMul", x, graph.constant(name, matrix))
        x = x if axis == order[axis] else graph.node("Transpose", x, perm=order)
    return x


class _Resampled(Layer):
    """Base of the layers that resample along each axis."""

    recordable = True
    _taps: Taps

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        return x.backend.resample(x, self._taps), self.gradients

    def gradients(self, dy: Batch, x: Batch | None = None) -> Batch:
        return dy.backend.resample_gradient(dy, self._taps)

    def onnx(self, graph: Graph, x: str) -> str:
        return onnx_resample(graph, x, self._taps)


_TORCH_PADS = {
    "zeros": "Constant",
    "constant": "Constant",
    "reflect": "Reflection",
    "replicate": "Replication",
    "circular": "Circular",
}


class Pad(_Resampled):
    """Pixels around each map: `padding` is an integer, one per axis, or (before, after) per axis.

    `mode` sets their values: "zeros", "constant" (`value`), "reflect" (the image mirrored at its edge pixels),
    "replicate" (the edge pixels repeated), "circular" (the opposite edge).
    """

    local = True
    _renamed = ("padding_mode", "mode")

    def __init__(self, padding: Padding, mode: str = "zeros", value: float = 0.0):
        self.padding = arguments.padding(padding)
        self.padding_mode, self.value = check_padding_mode(mode, value)

    def build(self, shape: Shape) -> Shape:
        channels, size = image_shape(shape, None)
        pads = pads_of(self.padding, len(size))
        self._taps = padding_taps(size, pads, self.padding_mode, self.value)
        self.reach = self.step = (1,) * len(size)
        return (channels, *padded_sizes(size, pads))

    def pytorch(self) -> list[TorchModule]:
        axes = len(self.input_shape) - 1
        pads = pads_of(self.padding, axes)
        arguments: dict = {"padding": tuple(size for pair in reversed(pads) for size in pair)}
        if self.padding_mode in ("zeros", "constant"):
            arguments["value"] = self.value
        return [TorchModule(f"{_TORCH_PADS[self.padding_mode]}Pad{axes}d", arguments)]


def _check_nearest(layer: Layer, i: int, o: int) -> None:
    """PyTorch multiplies by I / O in float32, and so takes other pixels for some sizes, such as 26 to 44."""
    p = np.arange(o)
    if o not in (i, 2 * i) and (np.floor(p.astype(np.float32) * np.float32(i / o)) != p * i // o).any():
        raise ConfigurationError(
            f"{label(layer)} from {i} to {o} pixels takes others than PyTorch's, which rounds; choose another size"
        )


class Upsample(_Resampled):
    """Maps scaled by `scale`, or to `size`: one integer or one per axis.

    `mode` "nearest" repeats pixels; "linear" is linear, bilinear or trilinear interpolation, by the number of axes.
    `align_corners` aligns the corner pixels of both maps, as in PyTorch.
    """

    _renamed = ("interpolation", "mode")

    def __init__(self, scale=None, *, size=None, mode: str = "nearest", align_corners: bool = False):
        check_upsampling(scale, size, mode, align_corners)
        self.scale = None if scale is None else each_axis("scale", scale)
        self.size = None if size is None else each_axis("size", size)
        self.interpolation, self.align_corners = mode, truth("align_corners", align_corners)

    def build(self, shape: Shape) -> Shape:
        channels, size = image_shape(shape, None)
        self._taps = upsampling_taps(size, self.scale, self.size, self.interpolation, self.align_corners)
        output = tuple(i if taps is None else taps.output for i, taps in zip(size, self._taps))
        self.reach = tuple(1 if taps is None else taps.reach for taps in self._taps)
        self.step = tuple(Fraction(i, o) for i, o in zip(size, output))
        return (channels, *output)

    def pytorch(self) -> list[TorchModule]:
        size = self.output_shape[1:]
        if self.interpolation == "nearest":
            for i, o in zip(self.input_shape[1:], size):
                _check_nearest(self, i, o)
            return [TorchModule("Upsample", {"size": size})]
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
        return [TorchModule("Upsample", {"size": size, "mode": mode, "align_corners": self.align_corners})]
