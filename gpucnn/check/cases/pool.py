"""Pooling: with windows, adaptive and global."""

from collections.abc import Iterator, Sequence

from gpucnn.backends.protocol import Backend
from gpucnn.check.cases.case import NEVER, ORDER, RANDOM, Case, Numbers, Results, describe
from gpucnn.geometry import window

# (N, C, input), kernel, the window's settings, the kinds of numbers in the simulator
POOLS = [
    ((17, 2, (8, 8)), 2, {"stride": 2}, NEVER),
    ((3, 3, (7, 9)), 3, {"stride": 2, "padding": 1}, NEVER),
    ((16, 1, (5, 6)), (2, 3), {"stride": 1}, NEVER),
    ((2, 2, (7, 8)), 3, {"stride": 2, "ceil": True}, RANDOM),
    ((5, 2, (9,)), 3, {"stride": 2, "padding": 1}, ORDER),
    ((2, 1, (150,)), 2, {"stride": 2}, NEVER),
    ((3, 1, (4, 5, 4)), 2, {"stride": 2}, RANDOM),
    ((1, 1, (1, 1)), 1, {}, RANDOM),
    ((2, 1, (3, 4)), 3, {"stride": 3, "padding": ((1, 0), (0, 1))}, NEVER),
]
# (N, C, input), the output's size, the kinds of numbers in the simulator
_ADAPTIVE = [
    ((17, 2, (7, 8)), (3, 5), NEVER),
    ((3, 1, (5, 5)), (7, 2), RANDOM),
    ((33, 2, (6, 4)), (2, 2), NEVER),
    ((1, 1, (1, 1)), (2, 1), RANDOM),
    ((16, 1, (6, 9)), (6, 4), NEVER),
    ((5, 2, (11,)), (4,), ORDER),
    ((2, 1, (4, 3, 5)), (3, 1, 2), RANDOM),
]


def cases(numbers: Numbers) -> Iterator[Case]:
    yield from pools(numbers)
    yield from _adaptive(numbers)


def pools(numbers: Numbers, configurations: Sequence[tuple] = POOLS) -> Iterator[Case]:
    """Cases for each of `configurations`, rows like those of POOLS."""
    for (n, c, size), kernel, settings, simulated in configurations:
        win = window(size, kernel, **settings)

        def largest(b: Backend, n=n, c=c, size=size, win=win) -> Results:
            y, where = b.max_pool(b.pack(numbers(n, c, *size)), win)
            return {"y": y.numpy(), "dx": b.max_pool_gradient(b.pack(numbers(*y.shape, seed=1)), where, win).numpy()}

        def average(b: Backend, n=n, c=c, size=size, win=win) -> Results:
            results = {}
            for label, counted in [("", True), (" (padding not counted)", False)]:
                y = b.avg_pool(b.pack(numbers(n, c, *size)), win, counted)
                results["y" + label] = y.numpy()
                results["dx" + label] = b.avg_pool_gradient(b.pack(numbers(*y.shape, seed=1)), win, counted).numpy()
            return results

        def whole(b: Backend, n=n, c=c, size=size) -> Results:
            y = b.global_avg_pool(b.pack(numbers(n, c, *size)))
            return {"y": y.numpy(), "dx": b.global_avg_pool_gradient(y, size).numpy()}

        about = f"{describe(n, c, size)}, window {win.kernel}, {settings}"
        small = numbers.kind in simulated
        yield Case("max pool", about, largest, ("dx",), numbers.kind, small)
        yield Case("average pool", about, average, ("dx", "dx (padding not counted)"), numbers.kind, small)
        yield Case("global average pool", about, whole, ("dx",), numbers.kind, small)


def _adaptive(numbers: Numbers) -> Iterator[Case]:
    for (n, c, size), output, simulated in _ADAPTIVE:

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

        about, small = f"{describe(n, c, size)} to {output}", numbers.kind in simulated
        yield Case("adaptive average pool", about, average, ("dx",), numbers.kind, small)
        yield Case("adaptive max pool", about, largest, ("dx",), numbers.kind, small)
        yield Case("global max pool", describe(n, c, size), whole, ("dx",), numbers.kind, small)
