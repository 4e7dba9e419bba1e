"""Leaky ReLU, GELU, SiLU and their gradients over whole buffers of lanes, and softmax's gradient (rules 6, 7 and 8)."""

import numpy as np
from gpucnn.kernels.numba.compiler import kernel
from gpucnn.kernels.numba.elementary import gelu64, gelu_slope64, silu64, silu_slope64
from gpucnn.kernels.numba.elementwise import chunk, chunks_of
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

ZERO = np.float32(0)


@kernel("leaky relu")
def leaky_relu(x, y, slope):
    for u in prange(chunks_of(x)):
        first, last = chunk(x, u)
        for i in range(first, last, LANES):
            v = load(x, i)
            store(y, i, where_greater(v, splat(ZERO), v, add(multiply(splat(slope), v), splat(ZERO))))


@kernel("leaky relu gradient")
def leaky_relu_gradient(dy, x, dx, slope):
    for u in prange(chunks_of(x)):
        first, last = chunk(x, u)
        for i in range(first, last, LANES):
            d = load(dy, i)
            store(dx, i, where_greater(load(x, i), splat(ZERO), d, multiply(splat(slope), d)))


@kernel("gelu")
def gelu(x, y):
    for u in prange(chunks_of(x)):
        first, last = chunk(x, u)
        for i in range(first, last, LANES):
            store(y, i, add(narrow(gelu64(widen(load(x, i)))), splat(ZERO)))


@kernel("gelu gradient")
def gelu_gradient(dy, x, dx):
    for u in prange(chunks_of(x)):
        first, last = chunk(x, u)
        for i in range(first, last, LANES):
            slope = add(narrow(gelu_slope64(widen(load(x, i)))), splat(ZERO))
            store(dx, i, multiply(load(dy, i), slope))


@kernel("silu")
def silu(x, y):
    for u in prange(chunks_of(x)):
        first, last = chunk(x, u)
        for i in range(first, last, LANES):
            store(y, i, add(narrow(silu64(widen(load(x, i)))), splat(ZERO)))


@kernel("silu gradient")
def silu_gradient(dy, x, dx):
    for u in prange(chunks_of(x)):
        first, last = chunk(x, u)
        for i in range(first, last, LANES):
            slope = add(narrow(silu_slope64(widen(load(x, i)))), splat(ZERO))
            store(dx, i, multiply(load(dy, i), slope))


@kernel("softmax gradient")
def softmax_gradient(dy, y, dx):
    """dx = (dy - s) * y at each position of (block, C, positions * lanes), s the chain of dy * y along the channels."""
    for u in prange(y.shape[0]):
        b = np.int64(u)
        for i in range(0, y.shape[2], LANES):
            gradients, results, out = dy[b, :, i:], y[b, :, i:], dx[b, :, i:]
            total = splat(ZERO)
            for c in range(y.shape[1]):
                total = fma(load(gradients[c], 0), load(results[c], 0), total)
            for c in range(y.shape[1]):
                store(out[c], 0, multiply(subtract(load(gradients[c], 0), total), load(results[c], 0)))
