"""Windows over three spatial axes, as the kernels take them, and the input gradient as convolutions."""

import functools
import itertools
import math
from dataclasses import dataclass

from gpucnn.arithmetic.sums import BAND
from gpucnn.geometry import Window

Three = tuple[int, int, int]


def three(sizes, filler) -> tuple:
    """One entry per spatial axis, padded to three axes with leading `filler`s."""
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
    """`window` over three axes. With `rows` a single dimension becomes the axis H: each position is its own row,
    so that a band of rows is a band of 64 positions, as rule 3a requires."""
    before = tuple(b for b, _ in window.padding)
    sizes = [window.input, window.kernel, window.stride, window.dilation, before, window.output]
    fillers = (1, 1, 1, 1, 0, 1)
    if rows and len(window.input) == 1:
        sizes = [(*size, filler) for size, filler in zip(sizes, fillers, strict=True)]
    return Window3d(*(three(size, filler) for size, filler in zip(sizes, fillers, strict=True)))


@dataclass(frozen=True, slots=True)
class Phase:
    """The pixels of an input gradient that are reached by the same taps: `pixels` and `taps` are slices of the three
    input and kernel axes. Their values are the correlation of the output's gradient with those taps, with stride 1,
    `dilation` and `before`."""

    pixels: tuple[slice, slice, slice]
    taps: tuple[slice, slice, slice]
    dilation: Three
    before: Three


@functools.cache
def phases(window: Window) -> tuple[Phase, ...]:
    """The input gradient as forward convolutions of dy, one for each phase of the stride.

    Tap r of output p reads input pixel i where p * stride = i + before - r * dilation. Along an axis, the pixels
    i = phase, phase + stride, ... are read by the same taps, every (stride / g)-th one with g = gcd(stride, dilation),
    of outputs that are dilation / g apart; in reverse the taps follow the order of the outputs. A phase that no output
    reads has no taps; one past the input's end has no pixels and is left out.
    """
    w = window3d(window)
    axes = []
    for size, k, s, d, b in zip(w.input, w.kernel, w.stride, w.dilation, w.before, strict=True):
        g, along_axis = math.gcd(s, d), []
        for phase in range(min(s, size)):
            pixels = slice(phase, size, s)
            first = next((r for r in range(k) if (phase + b - r * d) % s == 0), None)
            if first is None:
                along_axis.append((pixels, slice(0, 0, -1), 1, 0))
                continue
            count = -(-(k - first) // (s // g))
            last = first + (count - 1) * (s // g)
            # Backwards from the last tap to the first; a stop of None where the slice runs past tap 0.
            stop = first - 1 if first > 0 else None
            reach = (phase + b - last * d) // s  # the output that reads the first pixel through the last tap
            along_axis.append((pixels, slice(last, stop, -(s // g)), d // g, -reach))
        axes.append(along_axis)
    return tuple(Phase(*zip(*choice, strict=True)) for choice in itertools.product(*axes))


def is_dense(window: Window, groups: int) -> bool:
    """Whether a convolution is a dense layer: a single window over the whole image."""
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
    """Positions in a band of rule 3a; in one dimension each is its own row."""
    row = spatial[-1] if len(spatial) > 1 else 1
    return rows_per_band(row) * row


def is_halving(pool: Window) -> bool:
    """Whether the windows are 2x2 pixels, disjoint and inside the image."""
    return (
        pool.kernel == pool.stride == (2, 2)
        and pool.dilation == (1, 1)
        and pool.padding == ((0, 0), (0, 0))
        # In ceil mode the last window may reach past the image.
        and all(2 * p <= size for p, size in zip(pool.output, pool.input, strict=True))
    )
