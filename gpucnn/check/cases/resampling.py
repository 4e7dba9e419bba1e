"""Padding, upsampling, and any other linear map along an axis."""

from collections.abc import Iterator

import numpy as np

from gpucnn.backends.protocol import Backend
from gpucnn.check.cases.case import NEVER, ORDER, RANDOM, Case, Numbers, Results, describe
from gpucnn.resampling import AxisTaps, Taps, padding_taps, upsampling_taps

# (N, C, input), (before, after) for each axis, mode and value, the kinds of numbers in the simulator
_PADDINGS = [
    ((17, 2, (5, 4)), ((2, 1), (0, 3)), "reflect", 0.0, NEVER),
    ((3, 1, (4, 6)), ((7, 0), (1, 9)), "replicate", 0.0, RANDOM),
    ((33, 1, (3, 4)), ((3, 1), (2, 4)), "circular", 0.0, NEVER),
    ((2, 3, (5, 6)), ((1, 2), (3, 0)), "constant", -1.3, ORDER),
    ((1, 1, (1, 1)), ((0, 2), (1, 0)), "replicate", 0.0, RANDOM),
    ((5, 2, (9,)), ((8, 3),), "reflect", 0.0, NEVER),
    ((2, 1, (3, 2, 4)), ((2, 0), (1, 1), (0, 4)), "circular", 0.0, RANDOM),
]
# (N, C, input), the output's size, mode and align_corners, the kinds of numbers in the simulator
_UPSAMPLINGS = [
    ((17, 2, (4, 3)), (8, 9), "nearest", False, NEVER),
    ((3, 1, (7, 5)), (10, 5), "nearest", False, RANDOM),
    ((16, 2, (4, 3)), (8, 6), "linear", False, NEVER),
    ((33, 1, (5, 4)), (7, 9), "linear", True, NEVER),
    ((2, 1, (9, 8)), (4, 3), "linear", False, RANDOM),
    ((1, 1, (1, 1)), (3, 2), "linear", True, RANDOM),
    ((5, 2, (6,)), (17,), "linear", False, ORDER),
    ((2, 1, (2, 3, 2)), (4, 5, 6), "linear", False, NEVER),
]


def cases(numbers: Numbers) -> Iterator[Case]:
    yield from _axis_maps(numbers)
    for (n, c, size), pads, mode, value, simulated in _PADDINGS:
        about = f"{describe(n, c, size)}, {mode} {pads}"
        yield _resampled("padding", about, numbers, (n, c, *size), padding_taps(size, pads, mode, value), simulated)
    for (n, c, size), output, mode, aligned, simulated in _UPSAMPLINGS:
        about = f"{describe(n, c, size)} to {output}, {mode}{', aligned' * aligned}"
        taps = upsampling_taps(size, None, output, mode, aligned)
        yield _resampled("upsampling", about, numbers, (n, c, *size), taps, simulated)


def _axis_maps(numbers: Numbers) -> Iterator[Case]:
    """Unusual maps: positions taken twice or never, in reverse, and many taps."""
    weights = np.random.default_rng(5).standard_normal(40).tolist()
    for (n, c, size), axis, simulated in [
        ((3, 1, (5, 4)), 0, RANDOM),
        ((17, 2, (5, 4)), 1, NEVER),
        ((33, 1, (6,)), 0, NEVER),
        ((2, 1, (2, 3, 4)), 1, ORDER),
    ]:
        i = size[axis]
        every = tuple((t % i, weights[t]) for t in range(20))
        twice = ((i - 1, weights[20]), (0, weights[21]), (i - 1, weights[22]))
        taps = AxisTaps(i, ((), every, twice, ((1, 1.0),)), 0.3)

        def run(b: Backend, n=n, c=c, size=size, axis=axis, taps=taps) -> Results:
            y = b.resample_axis(b.pack(numbers(n, c, *size)), axis, taps)
            dx = b.resample_axis(b.pack(numbers(*y.shape, seed=1)), axis, taps.transposed())
            return {"y": y.numpy(), "dx": dx.numpy()}

        about, small = f"{describe(n, c, size)}, axis {axis}", numbers.kind in simulated
        yield Case("map along an axis", about, run, ("dx",), numbers.kind, small)


def _resampled(
    operation: str, about: str, numbers: Numbers, shape: tuple[int, ...], taps: Taps, simulated: tuple[str, ...]
) -> Case:
    def run(b: Backend) -> Results:
        y = b.resample(b.pack(numbers(*shape)), taps)
        dx = b.resample_gradient(b.pack(numbers(*y.shape, seed=1)), taps)
        return {"y": y.numpy(), "dx": dx.numpy()}

    return Case(operation, about, run, ("dx",), numbers.kind, numbers.kind in simulated)
