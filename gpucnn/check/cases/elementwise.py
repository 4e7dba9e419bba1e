"""Activations, addition and dropout."""

from collections.abc import Iterator

import numpy as np

from gpucnn.backends.elementwise import ELEMENTWISE
from gpucnn.backends.protocol import Backend
from gpucnn.check.cases.case import NEVER, ORDER, RANDOM, Case, Numbers, Results

_SHAPES = [((1, 1, 1, 1), RANDOM), ((17, 3, 5, 4), NEVER), ((33, 7), ORDER)]
_SETTINGS = {"slope": 0.01}


def cases(numbers: Numbers) -> Iterator[Case]:
    for shape, simulated in _SHAPES:
        small = numbers.kind in simulated
        for name in ELEMENTWISE:

            def activation(b: Backend, shape=shape, name=name) -> Results:
                # Large arguments too: both ends of the polynomials, both tails.
                x, dy = b.pack(numbers(*shape) * np.float32(8)), b.pack(numbers(*shape, seed=1))
                operation = ELEMENTWISE[name]
                settings = tuple(_SETTINGS[setting] for setting in operation.settings)
                y = b.elementwise(name, x, *settings)
                dx = b.elementwise_gradient(name, dy, y if operation.saved == "y" else x, *settings)
                return {"y": y.numpy(), "dx": dx.numpy()}

            yield Case(name.replace("_", " "), str(shape), activation, ("dx",), numbers.kind, small)

        def softmax(b: Backend, shape=shape) -> Results:
            y, dy = b.softmax(b.pack(numbers(*shape) * np.float32(8))), b.pack(numbers(*shape, seed=1))
            return {"y": y.numpy(), "dx": b.softmax_gradient(dy, y).numpy()}

        def plus(b: Backend, shape=shape) -> Results:
            x, z = b.pack(numbers(*shape)), b.pack(numbers(*shape, seed=1))
            return {"y": b.add(x, z).numpy(), "with relu": b.add(x, z, relu=True).numpy()}

        def dropped(b: Backend, shape=shape) -> Results:
            step = b.array(np.array([5], np.uint32))
            return {"y": b.dropout(b.pack(numbers(*shape)), 0.3, 2**40 + 1, step, 3).numpy()}

        yield Case("softmax", str(shape), softmax, ("dx",), numbers.kind, small)
        yield Case("addition", str(shape), plus, (), numbers.kind, small)
        yield Case("dropout", str(shape), dropped, (), numbers.kind, small)
