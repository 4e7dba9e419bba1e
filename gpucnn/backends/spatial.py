"""Sizes as kernels want them: always three spatial axes, leading ones of size 1, and the input gradient as
convolutions."""

import functools
import itertools
import math
from dataclasses import dataclass

from gpucnn.arithmetic.sums import BAND
from gpucnn.geometry import Window

Three = tuple[int, int, int]


def three(sizes, filler) -> tuple:
    """One entry a spatial axis, to three axes."""
    return (filler,) * (3 - len(sizes)) + tuple(sizes)


@dataclass(frozen=True, slots=True)
class Window3d:
    """A Window over three axes; `before` is the padding before the first pixel."""

    input: Three
    kernel: Three
    stride: Three
    dilation: Three
    before: Three
    output: Three


@functools.cache
def window3d(window: Window, rows: bool = False) -> Window3d:
    """`window` over three axes. With `rows` a single dimension becomes the axis H: each position is a row of its own,
    so that a band of rows is one of 64 positions, as rule 3a wants it."""
    before = tuple(b for b, _ in window.padding)
    sizes = [window.input, window.kernel, window.stride, window.dilation, before, window.output]
    fillers = (1, 1, 1, 1, 0, 1)
    if rows and len(window.input) == 1:
        sizes = [(*size, filler) for size, filler in zip(sizes, fillers, strict=True)]
    return Window3d(*(three(size, filler) for size, filler in zip(sizes, fillers, strict=True)))


@dataclass(frozen=True, slots=True)
class Phase:
    """The pixels of an input gradient that feel the same taps: `pixels` and `taps` are slices of the three input and
    kernel axes. They are the correlation, with stride 1, `dilation` and `before`, of the gradient with those taps."""

    pixels: tuple[slice, slice, slice]
    taps: tuple[slice, slice, slice]
    dilation: Three
    before: Three


@functools.cache
def phases(window: Window) -> tuple[Phase, ...]:
    """The input gradient as forward convolutions of dy, one for each phase of the stride.

    Pixel i of the input feels tap r of output p where p * stride = i + before - r * dilation. Along an axis, the pixels
    i = phase, phase + stride, ... all feel the same taps, every (stride / g)-th one with g = gcd(stride, dilation), and
    reach outputs that lie dilation / g apart; walked backwards they come in the order of the outputs. A phase that no
    output reaches has no taps; one past the input's end has no pixels and is left out.
    """
    w = window3d(window)
    axes = []
    for size, k, s, d, b in zip(w.input, w.kernel, w.stride, w.dilation, w.before, strict=True):
        g, found = math.gcd(s, d), []
        for phase in range(min(s, size)):
            pixels = slice(phase, size, s)
            first = next((r for r in range(k) if (phase + b - r * d) % s == 0), None)
            if first is None:
                found.append((pixels, slice(0, 0, -1), 1, 0))
                continue
            count = -(-(k - first) // (s // g))
            last = first + (count - 1) * (s // g)
            # Backwards from the last tap to the first; a stop of None where the slice runs past tap 0.
            stop = first - 1 if first > 0 else None
            reach = (phase + b - last * d) // s  # the output that the first pixel feels through the last tap
            found.append((pixels, slice(last, stop, -(s // g)), d // g, -reach))
        axes.append(found)
    return tuple(Phase(*zip(*choice, strict=True)) for choice in itertools.product(*axes))


def is_dense(window: Window, groups: int) -> bool:
    """Whether a convolution is a dense layer: one window that is the whole image."""
    return (
        groups == 1
        and window.kernel == window.input
        and all(pads == (0, 0) for pads in window.padding)
        and all(d == 1 for d in window.dilation)
        and math.prod(window.output) == 1
    )


def rows_per_band(row: int) -> int:
    """Rule 3a: whole rows, at least BAND positions."""
    return -(-BAND // row)


def positions_per_band(spatial: tuple[int, ...]) -> int:
    """Positions in a band of rule 3a; in one dimension each is a row of its own."""
    row = spatial[-1] if len(spatial) > 1 else 1
    return rows_per_band(row) * row
