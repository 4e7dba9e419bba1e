"""Convolution, its fusion with max pooling, transposed and padded convolution."""

from collections.abc import Iterator, Sequence

from gpucnn.backends.protocol import Backend
from gpucnn.check.cases.case import NEVER, ORDER, RANDOM, Case, Numbers, Results, describe
from gpucnn.geometry import transposed_window, window
from gpucnn.resampling import padding_taps, unpadded_window

# (N, C, input), O, groups, kernel, the window's settings, the kinds of numbers in the simulator
CONVOLUTIONS: list[tuple] = [
    ((1, 1, (1, 1)), 1, 1, 1, {}, RANDOM),
    ((3, 1, (5, 4)), 2, 1, (3, 2), {}, ORDER),
    ((17, 3, (9, 8)), 5, 1, 3, {"padding": "same"}, NEVER),
    ((15, 2, (7, 11)), 4, 1, (3, 5), {"stride": 2, "padding": (1, 2)}, NEVER),
    ((16, 4, (8, 9)), 6, 2, 3, {"padding": ((2, 1), (0, 2)), "dilation": 2}, NEVER),
    ((33, 3, (6, 6)), 3, 3, 3, {"padding": 1, "stride": (3, 2)}, NEVER),
    ((2, 2, (10, 10)), 25, 1, 5, {"stride": 3, "dilation": 2, "padding": 4}, NEVER),
    ((18, 2, (5, 5)), 7, 1, 5, {}, NEVER),
    ((17, 4, (3, 3)), 4, 2, 5, {"padding": 1}, RANDOM),
    ((4, 3, (20, 33)), 4, 1, 3, {"padding": 1}, NEVER),
    ((19, 2, (13,)), 3, 1, 4, {"stride": 2, "padding": 1}, RANDOM),
    ((3, 2, (200,)), 2, 1, 3, {"padding": "same"}, NEVER),
    ((5, 2, (4, 5, 6)), 3, 1, (2, 3, 2), {"stride": (1, 2, 1), "padding": 1}, NEVER),
]
# The same, with O per group
_TRANSPOSED: list[tuple] = [
    ((1, 1, (1, 1)), 1, 1, 1, {}, RANDOM),
    ((3, 2, (3, 2)), 1, 1, (2, 3), {"stride": 2, "output_padding": (1, 0), "padding": (0, 1)}, ORDER),
    ((17, 3, (7, 6)), 5, 1, 4, {"stride": 2, "padding": 1}, NEVER),
    ((33, 4, (4, 5)), 3, 2, 3, {"stride": (3, 1), "padding": ((2, 1), (0, 2)), "output_padding": (2, 0)}, NEVER),
    ((16, 2, (5, 4)), 2, 1, 2, {"dilation": 3, "output_padding": 2}, NEVER),
    ((2, 1, (11, 13)), 2, 1, 3, {"padding": 1}, NEVER),
    # A stride longer than the kernel leaves pixels that no input reaches; longer padding, inputs that reach no pixel.
    ((18, 2, (3, 3)), 1, 2, 2, {"stride": 4, "output_padding": 3}, NEVER),
    ((4, 2, (6, 7)), 2, 1, 2, {"padding": 3}, NEVER),
    # One pixel per image, with taps past it on one side.
    ((40, 2, (1,)), 1, 1, 3, {"stride": 3, "padding": ((0, 2),), "output_padding": 1}, RANDOM),
    ((19, 2, (9,)), 2, 1, 3, {"stride": 2, "padding": ((0, 3),), "output_padding": 1}, NEVER),
    ((2, 1, (150,)), 1, 1, 2, {}, NEVER),
    ((5, 2, (2, 3, 2)), 2, 1, (2, 1, 3), {"stride": (1, 2, 2), "output_padding": (0, 1, 1)}, NEVER),
]


def cases(numbers: Numbers) -> Iterator[Case]:
    yield from convolutions(numbers)
    yield from _with_max_pool(numbers)
    yield from _transposed(numbers)
    yield from _padded(numbers)


def convolutions(numbers: Numbers, configurations: Sequence[tuple] = CONVOLUTIONS) -> Iterator[Case]:
    """One case for each of `configurations`, rows like those of CONVOLUTIONS."""
    for (n, c, size), o, groups, kernel, settings, simulated in configurations:
        win = window(size, kernel, **settings)

        def run(b: Backend, n=n, c=c, size=size, o=o, groups=groups, win=win) -> Results:
            x, dy = b.pack(numbers(n, c, *size)), b.pack(numbers(n, o, *win.output, seed=1))
            w, bias = b.array(numbers(o, c // groups, *win.kernel, seed=2)), b.array(numbers(o, seed=3))
            dw, db = b.zeros(w.shape), b.zeros(bias.shape)
            b.conv_weight_gradient(dy, x, win, groups, dw)
            b.bias_gradient(dy, db)
            return {
                "y": b.conv(x, w, bias, win, groups, numbers.kind == "random").numpy(),  # with ReLU
                "without bias": b.conv(x, w, None, win, groups).numpy(),
                "dx": b.conv_input_gradient(dy, w, win, groups).numpy(),
                "x plus dx": b.conv_input_gradient_add(dy, w, win, groups, x).numpy(),
                "dw": b.host(dw),
                "db": b.host(db),
            }

        about = f"{describe(n, c, size)}, {o} filters, kernel {win.kernel}, {settings}"
        small = numbers.kind in simulated
        yield Case("convolution", about, run, ("dx", "dw", "db"), numbers.kind, small)


def _with_max_pool(numbers: Numbers) -> Iterator[Case]:
    configurations: list[tuple] = [
        (17, 1, (12, 12), 6, 1, 5, 2, {}, NEVER),
        (3, 3, (9, 8), 5, 1, 3, 1, {}, NEVER),
        (16, 4, (7, 11), 4, 2, (3, 4), 0, {}, NEVER),
        (2, 1, (8, 8), 2, 1, 3, 1, {"stride": 1}, NEVER),
        (2, 2, (10,), 2, 1, 3, 1, {}, RANDOM),
    ]
    for n, c, size, o, groups, kernel, padding, pool_settings, simulated in configurations:
        win = window(size, kernel, padding=padding)
        pool = window(win.output, 2, **{"stride": 2, **pool_settings})

        def run(b: Backend, n=n, c=c, size=size, o=o, groups=groups, win=win, pool=pool) -> Results:
            w, bias = b.array(numbers(o, c // groups, *win.kernel, seed=2)), b.array(numbers(o, seed=3))
            y, where = b.conv_max_pool(b.pack(numbers(n, c, *size)), w, bias, win, groups, pool)
            db = b.zeros((o,))
            dz = b.conv_max_pool_gradient(b.pack(numbers(*y.shape, seed=1)), y, where, pool, db)
            return {"y": y.numpy(), "dz": dz.numpy(), "db": b.host(db)}

        about = f"{describe(n, c, size)}, {o} filters, kernel {win.kernel}"
        small = numbers.kind in simulated
        yield Case("convolution with max pool", about, run, ("dz", "db"), numbers.kind, small)


def _transposed(numbers: Numbers) -> Iterator[Case]:
    for (n, c, size), o, groups, kernel, settings, simulated in _TRANSPOSED:
        win = transposed_window(size, kernel, **settings)

        def run(b: Backend, n=n, c=c, size=size, o=o, groups=groups, win=win) -> Results:
            x, dy = b.pack(numbers(n, c, *size)), b.pack(numbers(n, o * groups, *win.input, seed=1))
            w, bias = b.array(numbers(c, o, *win.kernel, seed=2)), b.array(numbers(o * groups, seed=3))
            dw = b.zeros(w.shape)
            b.conv_weight_gradient(x, dy, win, groups, dw)
            y = b.conv_input_gradient(x, w, win, groups)
            return {
                "y": b.add_bias(y, bias).numpy(),
                "dx": b.conv(dy, w, None, win, groups).numpy(),
                "dw": b.host(dw),
            }

        about = f"{describe(n, c, size)} to {o * groups} channels, kernel {win.kernel}, {settings}"
        small = numbers.kind in simulated
        yield Case("transposed convolution", about, run, ("dx", "dw"), numbers.kind, small)


def _padded(numbers: Numbers) -> Iterator[Case]:
    configurations: list[tuple] = [
        (17, 2, (6, 5), "reflect", {"padding": "same", "stride": 2}, NEVER),
        (3, 2, (7,), "circular", {"padding": 2}, ORDER),
        (2, 1, (3, 4, 3), "replicate", {"padding": ((1, 0), (2, 1), (0, 1)), "dilation": 2}, NEVER),
    ]
    for n, c, size, mode, settings, simulated in configurations:
        fit = window(size, (2, 3, 2)[: len(size)], **settings)
        taps, inner = padding_taps(size, fit.padding, mode), unpadded_window(fit)

        def run(b: Backend, n=n, c=c, size=size, taps=taps, inner=inner) -> Results:
            x, w = b.resample(b.pack(numbers(n, c, *size)), taps), b.array(numbers(3, c, *inner.kernel, seed=2))
            y, dw = b.conv(x, w, None, inner), b.zeros(w.shape)
            dy = b.pack(numbers(*y.shape, seed=1))
            b.conv_weight_gradient(dy, x, inner, 1, dw)
            dx = b.resample_gradient(b.conv_input_gradient(dy, w, inner), taps)
            return {"y": y.numpy(), "dx": dx.numpy(), "dw": b.host(dw)}

        about = f"{describe(n, c, size)}, {mode}, {settings}"
        small = numbers.kind in simulated
        yield Case("padded convolution", about, run, ("dx", "dw"), numbers.kind, small)
