"""Activations, sums of activations and dropout: one value in, one value out, over whole buffers of lanes."""

import numpy as np
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.elementary import sigmoid64, tanh64
from gpucnn.kernels.numba.simd import (
    LANES,
    add,
    fma,
    load,
    multiply,
    narrow,
    splat,
    store,
    subtract,
    where_greater,
    widen,
)
from numba import prange

# Pixels (vectors) that one unit of work takes.
CHUNK = 256
ZERO, ONE = np.float32(0), np.float32(1)


@inner
def chunks_of(a):
    """How many units of work a flat buffer makes."""
    return (a.shape[0] + CHUNK * LANES - 1) // (CHUNK * LANES)


@inner
def chunk(a, u):
    """First and last element of unit u."""
    first = np.int64(u) * CHUNK * LANES
    return first, min(first + CHUNK * LANES, a.shape[0])


@kernel("relu")
def relu(x, y):
    for u in prange(chunks_of(x)):
        first, last = chunk(x, u)
        for i in range(first, last, LANES):
            v = load(x, i)
            store(y, i, where_greater(v, splat(ZERO), v, splat(ZERO)))


@kernel("relu gradient")
def relu_gradient(dy, y, dx):
    for u in prange(chunks_of(y)):
        first, last = chunk(y, u)
        for i in range(first, last, LANES):
            store(dx, i, where_greater(load(y, i), splat(ZERO), load(dy, i), splat(ZERO)))


@kernel("tanh")
def tanh(x, y):
    for u in prange(chunks_of(x)):
        first, last = chunk(x, u)
        for i in range(first, last, LANES):
            store(y, i, add(narrow(tanh64(widen(load(x, i)))), splat(ZERO)))


@kernel("tanh gradient")
def tanh_gradient(dy, y, dx):
    for u in prange(chunks_of(y)):
        first, last = chunk(y, u)
        for i in range(first, last, LANES):
            v = load(y, i)
            slope = fma(multiply(splat(np.float32(-1)), v), v, splat(ONE))
            store(dx, i, multiply(load(dy, i), slope))


@kernel("sigmoid")
def sigmoid(x, y):
    for u in prange(chunks_of(x)):
        first, last = chunk(x, u)
        for i in range(first, last, LANES):
            store(y, i, narrow(sigmoid64(widen(load(x, i)))))


@kernel("sigmoid gradient")
def sigmoid_gradient(dy, y, dx):
    for u in prange(chunks_of(y)):
        first, last = chunk(y, u)
        for i in range(first, last, LANES):
            v = load(y, i)
            store(dx, i, multiply(load(dy, i), multiply(v, subtract(splat(ONE), v))))


@kernel("add")
def add_batches(a, b, y, rectified):
    for u in prange(chunks_of(a)):
        first, last = chunk(a, u)
        for i in range(first, last, LANES):
            v = add(load(a, i), load(b, i))
            if rectified:
                v = where_greater(v, splat(ZERO), v, splat(ZERO))
            store(y, i, v)
