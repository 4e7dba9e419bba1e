"""Cases of transposed convolution, bias addition and concatenation."""

from collections.abc import Iterator

import numpy as np

from gpucnn.backends.protocol import Backend
from gpucnn.check.cases import Case, Results
from gpucnn.geometry import transposed_window

# (N, C, input), output channels of a group, groups, kernel and the window's settings
_TRANSPOSED = [
    ((1, 1, (1, 1)), 1, 1, 1, {}),
    ((3, 2, (3, 2)), 1, 1, (2, 3), {"stride": 2, "output_padding": (1, 0), "padding": (0, 1)}),
    ((17, 3, (7, 6)), 5, 1, 4, {"stride": 2, "padding": 1}),
    ((33, 4, (4, 5)), 3, 2, 3, {"stride": (3, 1), "padding": ((2, 1), (0, 2)), "output_padding": (2, 0)}),
    ((16, 2, (5, 4)), 2, 1, 2, {"dilation": 3, "output_padding": 2}),
    ((2, 1, (11, 13)), 2, 1, 3, {"padding": 1}),
    # A stride longer than the kernel leaves pixels that nothing reaches, and padding longer than it inputs that reach
    # none.
    ((18, 2, (3, 3)), 1, 2, 2, {"stride": 4, "output_padding": 3}),
    ((4, 2, (6, 7)), 2, 1, 2, {"padding": 3}),
    # One pixel an image, with taps that lie past it on one side.
    ((40, 2, (1,)), 1, 1, 3, {"stride": 3, "padding": ((0, 2),), "output_padding": 1}),
    ((19, 2, (9,)), 2, 1, 3, {"stride": 2, "padding": ((0, 3),), "output_padding": 1}),
    ((2, 1, (150,)), 1, 1, 2, {}),
    ((5, 2, (2, 3, 2)), 2, 1, (2, 1, 3), {"stride": (1, 2, 2), "output_padding": (0, 1, 1)}),
]


def channel_cases(kind: str, numbers) -> Iterator[Case]:
    """All of this module; `numbers(*shape, seed=...)` are of the kind."""
    yield from _transposed_convolutions(kind, numbers)
    yield from _biases(kind, numbers)
    yield from _concatenations(kind, numbers)


def _transposed_convolutions(kind: str, numbers) -> Iterator[Case]:
    for (n, c, size), o, groups, kernel, settings in _TRANSPOSED:
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

        sizes = "x".join(map(str, size))
        about = f"{kind}, {n} images of {c}x{sizes} to {o * groups} channels, kernel {win.kernel}, {settings}"
        yield Case("transposed convolution", about, run)


def _biases(kind: str, numbers) -> Iterator[Case]:
    for shape in [(1, 1, 1, 1), (17, 3, 5, 4), (33, 7), (2, 2, 70)]:

        def run(b: Backend, shape=shape) -> Results:
            x, bias = b.pack(numbers(*shape)), b.array(numbers(shape[1], seed=1))
            return {"y": b.add_bias(x, bias).numpy(), "with relu": b.add_bias(x, bias, relu=True).numpy()}

        yield Case("bias addition", f"{kind}, {shape}", run)


def _concatenations(kind: str, numbers) -> Iterator[Case]:
    if kind != "random":  # nothing is computed
        return
    for n, channels, size in [(1, (1,), (1, 1)), (17, (2, 1, 4), (5, 3)), (33, (3, 2), ()), (2, (1, 2), (2, 3, 4))]:

        def run(b: Backend, n=n, channels=channels, size=size) -> Results:
            y = b.concatenate([b.pack(numbers(n, c, *size, seed=i)) for i, c in enumerate(channels)])
            ends = np.cumsum(channels)
            parts = [b.take_channels(y, int(end - c), c).numpy() for c, end in zip(channels, ends)]
            middle = b.take_channels(y, y.channels // 2, 1).numpy()
            return {"y": y.numpy(), "middle": middle, **{f"part {i}": part for i, part in enumerate(parts)}}

        yield Case("concatenation", f"{kind}, {n} images of {channels} channels of {size}", run)
