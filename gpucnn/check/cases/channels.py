"""Bias addition and concatenation of channels."""

from collections.abc import Iterator

import numpy as np

from gpucnn.backends.protocol import Backend
from gpucnn.check.cases.case import NEVER, ORDER, RANDOM, Case, Numbers, Results


def cases(numbers: Numbers) -> Iterator[Case]:
    yield from _biases(numbers)
    if numbers.kind == "random":  # concatenation copies and computes nothing
        yield from _concatenations(numbers)


def _biases(numbers: Numbers) -> Iterator[Case]:
    for shape, simulated in [
        ((1, 1, 1, 1), RANDOM),
        ((17, 3, 5, 4), NEVER),
        ((33, 7), ORDER),
        ((2, 2, 70), NEVER),
    ]:

        def run(b: Backend, shape=shape) -> Results:
            x, bias = b.pack(numbers(*shape)), b.array(numbers(shape[1], seed=1))
            return {"y": b.add_bias(x, bias).numpy(), "with relu": b.add_bias(x, bias, relu=True).numpy()}

        yield Case("bias addition", str(shape), run, (), numbers.kind, numbers.kind in simulated)


def _concatenations(numbers: Numbers) -> Iterator[Case]:
    for n, channels, size, simulated in [
        (1, (1,), (1, 1), RANDOM),
        (17, (2, 1, 4), (5, 3), NEVER),
        (33, (3, 2), (), RANDOM),
        (2, (1, 2), (2, 3, 4), NEVER),
    ]:

        def run(b: Backend, n=n, channels=channels, size=size) -> Results:
            y = b.concatenate([b.pack(numbers(n, c, *size, seed=i)) for i, c in enumerate(channels)])
            ends = np.cumsum(channels)
            parts = [b.take_channels(y, int(end - c), c).numpy() for c, end in zip(channels, ends)]
            middle = b.take_channels(y, y.channels // 2, 1).numpy()
            return {"y": y.numpy(), "middle": middle, **{f"part {i}": part for i, part in enumerate(parts)}}

        # A gradient with respect to one of the inputs is a range of dy's channels.
        gradients = ("middle", *(f"part {i}" for i in range(len(channels))))
        about = f"{n} images of {channels} channels of {size}"
        yield Case("concatenation", about, run, gradients, numbers.kind, numbers.kind in simulated)
