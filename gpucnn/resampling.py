"""Linear maps along one spatial axis: padding of every kind, upsampling, and the windows of adaptive pooling.

Each output position takes a few input positions, each with a weight; two or three axes are mapped one after the other.
I is the input's size along the axis, O the output's, p an output position. Everything is computed in integers; a weight
is one float64 division of two of them, which a backend rounds to its own type.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from gpucnn.arguments import number, one_of, per_axis, shown, truth
from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.geometry import Sizes, Window, window

PADDING_MODES = ("zeros", "constant", "reflect", "replicate", "circular")
UPSAMPLING_MODES = ("nearest", "linear")


@dataclass(frozen=True, slots=True)
class AxisTaps:
    """y[p] = the sum of weight * x[i] over the taps (i, weight) of p; `fill` where p has none.

    `input` is I; `taps` has one tuple per position p, in the order in which a sum adds its terms. Hashable.
    """

    input: int
    taps: tuple[tuple[tuple[int, float], ...], ...]
    fill: float = 0.0

    @property
    def output(self) -> int:
        """O."""
        return len(self.taps)

    @property
    def reach(self) -> int:
        """The most neighboring input positions that one output position sees."""
        return max(max(i for i, _ in taps) - min(i for i, _ in taps) + 1 if taps else 0 for taps in self.taps)

    def transposed(self) -> "AxisTaps":
        """The map of the gradient: each input position takes the outputs that took it, in ascending order."""
        return _transposed(self)


# One entry per spatial axis; None leaves the axis unchanged.
Taps = tuple[AxisTaps | None, ...]


@functools.cache
def _transposed(taps: AxisTaps) -> AxisTaps:
    takers: list[list[tuple[int, float]]] = [[] for _ in range(taps.input)]
    for p, sources in enumerate(taps.taps):
        for i, weight in sources:
            takers[i].append((p, weight))
    return AxisTaps(taps.output, tuple(map(tuple, takers)))


@functools.cache
def as_arrays(taps: AxisTaps, dtype: type = np.float32) -> tuple[np.ndarray, ...]:
    """A map for kernels: (first, position, weight, start), read-only because they are shared.

    The taps of p are the entries first[p] to first[p + 1] of position (int32) and weight; a sum begins at start[p]: +0,
    or the fill where p has no taps. first (O + 1,) is int32; weight and start are of `dtype`.
    """
    counts = [len(sources) for sources in taps.taps]
    every = [tap for sources in taps.taps for tap in sources] or [(0, 0.0)]  # never read, but kernels need an array
    arrays: tuple[np.ndarray, ...] = (
        np.cumsum([0, *counts]).astype(np.int32),
        np.array([i for i, _ in every], np.int32),
        np.array([weight for _, weight in every], dtype),
        np.array([0.0 if count else taps.fill for count in counts], dtype),
    )
    for array in arrays:
        array.setflags(write=False)
    return arrays


# ---- padding ---------------------------------------------------------------------------------------------------------


def check_padding_mode(mode: Any, value: Any) -> tuple[str, float]:
    """(mode, value): one of PADDING_MODES, "constant" with 0 becoming "zeros", and a finite number."""
    mode, fill = one_of("the padding mode", mode, PADDING_MODES), number("the padding's value", value)
    if fill and mode != "constant":
        raise ConfigurationError(
            f'the padding\'s value is {value!r}, but mode {mode!r} takes none; use mode "constant"'
        )
    return ("zeros" if mode == "constant" and fill == 0 else mode), fill


def padding_taps(size: Sizes, pads: tuple[tuple[int, int], ...], mode: str, value: float = 0.0) -> Taps:
    """The maps that add `pads`, (before, after) for each axis, to maps of `size`; None for axes without padding.

    `mode` and `value` as check_padding_mode returns them: "zeros" and "constant" put the value outside; "reflect"
    mirrors without repeating the edge pixel, "replicate" repeats the edge, "circular" continues at the opposite edge.
    Raises ShapeError if there are not enough pixels: reflect needs more than the padding, circular as many.
    """
    maps = []
    for axis, (i, (before, after)) in enumerate(zip(size, pads, strict=True)):
        where, most = f" on spatial axis {axis}" if len(size) > 1 else "", max(before, after)
        if mode == "reflect" and most >= i:
            raise ShapeError(
                f'"reflect" padding of {most}{where} needs more than {most} pixels and there are {i}; use a padding of '
                f'at most {i - 1}, or "replicate", which takes any'
            )
        if mode == "circular" and most > i:
            raise ShapeError(
                f'"circular" padding of {most}{where} needs at least {most} pixels and there are {i}; use a padding of '
                f'at most {i}, or "replicate", which takes any'
            )
        maps.append(_padding_map(i, before, after, mode, value) if most else None)
    return tuple(maps)


@functools.cache
def _padding_map(i: int, before: int, after: int, mode: str, value: float) -> AxisTaps:
    def source(at: int) -> int | None:
        """The pixel that position `at` shows, counted from the first pixel; None for the value."""
        if 0 <= at < i:
            return at
        if mode == "reflect":
            return -at if at < 0 else 2 * (i - 1) - at
        if mode == "replicate":
            return 0 if at < 0 else i - 1
        return at % i if mode == "circular" else None

    sources = map(source, range(-before, i + after))
    return AxisTaps(i, tuple(() if pixel is None else ((pixel, 1.0),) for pixel in sources), value)


def padded_sizes(size: Sizes, pads: tuple[tuple[int, int], ...]) -> Sizes:
    """`size` with the padding added."""
    return tuple(before + i + after for i, (before, after) in zip(size, pads, strict=True))


def unpadded_window(fit: Window) -> Window:
    """`fit` over an input that is already padded."""
    none = ((0, 0),) * len(fit.input)
    return Window(padded_sizes(fit.input, fit.padding), fit.kernel, fit.stride, none, fit.dilation, fit.output)


# ---- upsampling ------------------------------------------------------------------------------------------------------


def check_upsampling(scale: Any, size: Any, mode: Any, align_corners: Any) -> None:
    """Raises ConfigurationError unless exactly one of scale and size is set and the mode takes the other settings."""
    if (scale is None) == (size is None):
        raise ConfigurationError(
            f"scale is {shown(scale)} and size {shown(size)}; give one of them, an integer or one per axis"
        )
    note = " (linear is bilinear on two axes, trilinear on three)"
    one_of("the upsampling mode", mode, UPSAMPLING_MODES, note=note)
    if truth("align_corners", align_corners) and mode != "linear":
        raise ConfigurationError('align_corners is for mode "linear": "nearest" has no corners to align')


def upsampling_taps(
    input: Sizes, scale: int | Iterable[int] | None, size: int | Iterable[int] | None, mode: str, align_corners: bool
) -> Taps:
    """The maps from `input` to `scale` times it or to `size`, one integer or one per axis; the size may be smaller.

    "nearest" takes pixel floor(p * I / O). "linear" places p at ((2p + 1) * I - O) / (2 * O), not before the first
    pixel, or with `align_corners` at p * (I - 1) / (O - 1), and weights the pixels on both sides; beyond the last pixel
    it repeats that. (PyTorch's interpolate, with exact fractions.)
    """
    if size is None:
        output = tuple(i * s for i, s in zip(input, per_axis("scale", scale, len(input))))
    else:
        output = per_axis("size", size, len(input))
    return tuple(_upsampling_map(i, o, mode, bool(align_corners)) for i, o in zip(input, output))


@functools.cache
def _upsampling_map(i: int, o: int, mode: str, align_corners: bool) -> AxisTaps | None:
    if i == o:
        return None
    if mode == "nearest":
        return AxisTaps(i, tuple(((p * i // o, 1.0),) for p in range(o)))
    taps: list[tuple[tuple[int, float], ...]] = []
    for p in range(o):
        # p is at numerator / denominator.
        numerator, denominator = (p * (i - 1), max(o - 1, 1)) if align_corners else (max((2 * p + 1) * i - o, 0), 2 * o)
        pixel, rest = divmod(numerator, denominator)
        if rest == 0 or pixel == i - 1:
            taps.append(((pixel, 1.0),))
        else:
            taps.append(((pixel, (denominator - rest) / denominator), (pixel + 1, rest / denominator)))
    return AxisTaps(i, tuple(taps))


# ---- adaptive pooling ------------------------------------------------------------------------------------------------


def adaptive_sizes(input: Sizes, output: int | Iterable[int]) -> Sizes:
    """The output's sizes, one per axis, from one integer or one per axis."""
    return per_axis("output_size", output, len(input))


def adaptive_windows(i: int, o: int) -> list[tuple[int, int]]:
    """(first, stop) of the window of each p along one axis: floor(p * I / O) to ceil((p + 1) * I / O)."""
    return [(p * i // o, -(-(p + 1) * i // o)) for p in range(o)]


@functools.cache
def adaptive_average(input: Sizes, output: Sizes) -> tuple[Taps, Window | None]:
    """Adaptive average pooling as resampling maps, or, if every O divides its I, as a plain average pooling."""
    if all(i % o == 0 for i, o in zip(input, output, strict=True)):
        size = tuple(i // o for i, o in zip(input, output))
        return (None,) * len(input), window(input, size, stride=size)
    maps = []
    for i, o in zip(input, output):
        taps = (tuple((at, 1 / (stop - first)) for at in range(first, stop)) for first, stop in adaptive_windows(i, o))
        maps.append(None if i == o else AxisTaps(i, tuple(taps)))
    return tuple(maps), None


@functools.cache
def adaptive_maximum(input: Sizes, output: Sizes) -> tuple[Taps, Window]:
    """Adaptive max pooling as maps that put the windows side by side, and a plain max pooling of those.

    Along an axis all windows get the size K of the largest: a shorter one repeats its last pixel, which never wins over
    its first occurrence. An axis whose O divides I needs no map.
    """
    maps, sizes = [], []
    for i, o in zip(input, output, strict=True):
        windows = adaptive_windows(i, o)
        k = max(stop - first for first, stop in windows)
        taps = (((min(first + tap, stop - 1), 1.0),) for first, stop in windows for tap in range(k))
        maps.append(None if i % o == 0 else AxisTaps(i, tuple(taps)))
        sizes.append(k)
    resampled = tuple(o * k for o, k in zip(output, sizes))
    return tuple(maps), window(resampled, sizes, stride=sizes)


def adaptive_field(input: Sizes, output: Sizes) -> tuple[Sizes, tuple[Fraction, ...]]:
    """(reach, step): the pixels of the largest window and the mean distance between windows, per axis."""
    pairs = list(zip(input, output, strict=True))
    reach = tuple(max(stop - first for first, stop in adaptive_windows(i, o)) for i, o in pairs)
    return reach, tuple(Fraction(i, o) for i, o in pairs)
