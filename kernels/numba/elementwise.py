"""Activations with their gradients, and residual addition (rules 5 to 7), over whole flat buffers of lanes.

An operation is two expressions on vectors, its value and its gradient; FORWARD and GRADIENT are their kernels. What
they are called, and whether a gradient starts from x or from y, is declared in gpucnn/backends/elementwise.py.
"""

import numpy as np
from gpucnn.kernels.numba import elementary32
from gpucnn.kernels.numba.chunks import chunk, chunks_of
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.simd import (
    LANES,
    add,
    fma,
    load,
    multiply,
    splat,
    store,
    subtract,
    where_greater,
)
from gpucnn.kernels.numba.team import prange
from gpucnn.kernels.numba.vectors import finished, rectified

ZERO, ONE = np.float32(0), np.float32(1)


@inner
def unsigned_zero(v):
    """+0 for -0."""
    return add(v, splat(ZERO))


# name -> (value of x, gradient of dy and what is saved), each also of the operation's settings
EXPRESSIONS = {
    "relu": (
        lambda x: rectified(x),
        lambda dy, y: where_greater(y, splat(ZERO), dy, splat(ZERO)),
    ),
    "tanh": (
        lambda x: unsigned_zero(elementary32.tanh(x)),
        lambda dy, y: multiply(dy, fma(multiply(splat(np.float32(-1)), y), y, splat(ONE))),
    ),
    "sigmoid": (
        lambda x: elementary32.sigmoid(x),
        lambda dy, y: multiply(dy, multiply(y, subtract(splat(ONE), y))),
    ),
    "leaky_relu": (
        lambda x, slope: where_greater(x, splat(ZERO), x, add(multiply(splat(slope), x), splat(ZERO))),
        lambda dy, x, slope: where_greater(x, splat(ZERO), dy, multiply(splat(slope), dy)),
    ),
    "gelu": (
        lambda x: unsigned_zero(elementary32.gelu(x)),
        lambda dy, x: multiply(dy, unsigned_zero(elementary32.gelu_slope(x))),
    ),
    "silu": (
        lambda x: unsigned_zero(elementary32.silu(x)),
        lambda dy, x: multiply(dy, unsigned_zero(elementary32.silu_slope(x))),
    ),
}


def _forward_of(name, expression):
    value = inner(expression)

    @kernel(name)
    def forward(x, y, settings):
        for u in prange(chunks_of(x)):
            first, last = chunk(x, u)
            for i in range(first, last, LANES):
                store(y, i, value(load(x, i), *settings))

    return forward


def _gradient_of(name, expression):
    slope = inner(expression)

    @kernel(f"{name} gradient")
    def gradient(dy, saved, dx, settings):
        for u in prange(chunks_of(dy)):
            first, last = chunk(dy, u)
            for i in range(first, last, LANES):
                store(dx, i, slope(load(dy, i), load(saved, i), *settings))

    return gradient


FORWARD = {name: _forward_of(name, value) for name, (value, _) in EXPRESSIONS.items()}
GRADIENT = {name: _gradient_of(name, slope) for name, (_, slope) in EXPRESSIONS.items()}


@kernel("add")
def add_batches(a, b, y, relu):
    """y = a + b, or its ReLU."""
    for u in prange(chunks_of(a)):
        first, last = chunk(a, u)
        for i in range(first, last, LANES):
            store(y, i, finished(add(load(a, i), load(b, i)), relu))
