"""The cases of what moves or mixes pixels along the axes: padding, upsampling, adaptive and global pooling."""

from collections.abc import Iterator

import numpy as np

from gpucnn.backends.protocol import Backend
from gpucnn.check.cases import Case, Results
from gpucnn.geometry import window
from gpucnn.resampling import AxisTaps, Taps, padding_taps, unpadded_window, upsampling_taps

# (N, C, input), (before, after) for each axis, mode and value
_PADDINGS = [
    ((17, 2, (5, 4)), ((2, 1), (0, 3)), "reflect", 0.0),
    ((3, 1, (4, 6)), ((7, 0), (1, 9)), "replicate", 0.0),
    ((33, 1, (3, 4)), ((3, 1), (2, 4)), "circular", 0.0),
    ((2, 3, (5, 6)), ((1, 2), (3, 0)), "constant", -1.3),
    ((1, 1, (1, 1)), ((0, 2), (1, 0)), "replicate", 0.0),
    ((5, 2, (9,)), ((8, 3),), "reflect", 0.0),
    ((2, 1, (3, 2, 4)), ((2, 0), (1, 1), (0, 4)), "circular", 0.0),
]
# (N, C, input), the output's size, mode and align_corners
_UPSAMPLINGS = [
    ((17, 2, (4, 3)), (8, 9), "nearest", False),
    ((3, 1, (7, 5)), (10, 5), "nearest", False),
    ((16, 2, (4, 3)), (8, 6), "linear", False),
    ((33, 1, (5, 4)), (7, 9), "linear", True),
    ((2, 1, (9, 8)), (4, 3), "linear", False),
    ((1, 1, (1, 1)), (3, 2), "linear", True),
    ((5, 2, (6,)), (17,), "linear", False),
    ((2, 1, (2, 3, 2)), (4, 5, 6), "linear", False),
]
# (N, C, input) and the output's size
_ADAPTIVE = [
    ((17, 2, (7, 8)), (3, 5)),
    ((3, 1, (5, 5)), (7, 2)),
    ((33, 2, (6, 4)), (2, 2)),
    ((1, 1, (1, 1)), (2, 1)),
    ((16, 1, (6, 9)), (6, 4)),
    ((5, 2, (11,)), (4,)),
    ((2, 1, (4, 3, 5)), (3, 1, 2)),
]


def resampling(kind: str, numbers) -> Iterator[Case]:
    """The cases for one kind of numbers; `numbers(*shape, seed)` draws them."""
    yield from _tables(kind, numbers)
    for (n, c, size), pads, mode, value in _PADDINGS:
        maps = padding_taps(size, pads, mode, value)
        yield _mapped("padding", f"{kind}, {_images(n, c, size)}, {mode} {pads}", numbers, (n, c, *size), maps)
    for (n, c, size), output, mode, aligned in _UPSAMPLINGS:
        maps = upsampling_taps(size, None, output, mode, aligned)
        about = f"{kind}, {_images(n, c, size)} to {output}, {mode}{', aligned' * aligned}"
        yield _mapped("upsampling", about, numbers, (n, c, *size), maps)
    yield from _padded_convolutions(kind, numbers)
    yield from _pools(kind, numbers)


def _tables(kind: str, numbers) -> Iterator[Case]:
    """Maps of no use: positions taken twice or never, backwards, and many taps."""
    weights = np.random.default_rng(5).standard_normal(40).tolist()
    for (n, c, size), axis in [((3, 1, (5, 4)), 0), ((17, 2, (5, 4)), 1), ((33, 1, (6,)), 0), ((2, 1, (2, 3, 4)), 1)]:
        i = size[axis]
        every = tuple((t % i, weights[t]) for t in range(20))
        twice = ((i - 1, weights[20]), (0, weights[21]), (i - 1, weights[22]))
        table = AxisTaps(i, ((), every, twice, ((1, 1.0),)), 0.3)

        def run(b: Backend, n=n, c=c, size=size, axis=axis, table=table) -> Results:
            y = b.resample_axis(b.pack(numbers(n, c, *size)), axis, table)
            dx = b.resample_axis(b.pack(numbers(*y.shape, seed=1)), axis, table.transposed())
            return {"y": y.numpy(), "dx": dx.numpy()}

        yield Case("map along an axis", f"{kind}, {_images(n, c, size)}, axis {axis}", run)


def _images(n: int, c: int, size: tuple[int, ...]) -> str:
    return f"{n} images of {c}x{'x'.join(map(str, size))}"


def _mapped(operation: str, about: str, numbers, shape: tuple[int, ...], maps: Taps) -> Case:
    def run(b: Backend) -> Results:
        y = b.resample(b.pack(numbers(*shape)), maps)
        dx = b.resample_gradient(b.pack(numbers(*y.shape, seed=1)), maps)
        return {"y": y.numpy(), "dx": dx.numpy()}

    return Case(operation, about, run)


def _padded_convolutions(kind: str, numbers) -> Iterator[Case]:
    for n, c, size, mode, settings in [
        (17, 2, (6, 5), "reflect", {"padding": "same", "stride": 2}),
        (3, 2, (7,), "circular", {"padding": 2}),
        (2, 1, (3, 4, 3), "replicate", {"padding": ((1, 0), (2, 1), (0, 1)), "dilation": 2}),
    ]:
        fit = window(size, (2, 3, 2)[: len(size)], **settings)
        maps, inner = padding_taps(size, fit.padding, mode), unpadded_window(fit)

        def run(b: Backend, n=n, c=c, size=size, maps=maps, inner=inner) -> Results:
            x, w = b.resample(b.pack(numbers(n, c, *size)), maps), b.array(numbers(3, c, *inner.kernel, seed=2))
            y, dw = b.conv(x, w, None, inner), b.zeros(w.shape)
            dy = b.pack(numbers(*y.shape, seed=1))
            b.conv_weight_gradient(dy, x, inner, 1, dw)
            dx = b.resample_gradient(b.conv_input_gradient(dy, w, inner), maps)
            return {"y": y.numpy(), "dx": dx.numpy(), "dw": b.host(dw)}

        yield Case("padded convolution", f"{kind}, {_images(n, c, size)}, {mode}, {settings}", run)


def _pools(kind: str, numbers) -> Iterator[Case]:
    for (n, c, size), output in _ADAPTIVE:
        about = f"{kind}, {_images(n, c, size)} to {output}"

        def average(b: Backend, n=n, c=c, size=size, output=output) -> Results:
            y = b.adaptive_avg_pool(b.pack(numbers(n, c, *size)), output)
            dx = b.adaptive_avg_pool_gradient(b.pack(numbers(*y.shape, seed=1)), size)
            return {"y": y.numpy(), "dx": dx.numpy()}

        def largest(b: Backend, n=n, c=c, size=size, output=output) -> Results:
            y, where = b.adaptive_max_pool(b.pack(numbers(n, c, *size)), output)
            dx = b.adaptive_max_pool_gradient(b.pack(numbers(*y.shape, seed=1)), where, size)
            return {"y": y.numpy(), "dx": dx.numpy()}

        def whole(b: Backend, n=n, c=c, size=size) -> Results:
            fit = window(size, size)
            y, where = b.max_pool(b.pack(numbers(n, c, *size)), fit)
            return {"y": y.numpy(), "dx": b.max_pool_gradient(b.pack(numbers(*y.shape, seed=1)), where, fit).numpy()}

        yield Case("adaptive average pool", about, average)
        yield Case("adaptive max pool", about, largest)
        yield Case("global max pool", f"{kind}, {_images(n, c, size)}", whole)
