"""Multiply-adds from registers alone: what the processor could do if no value ever had to be fetched.

Each accumulator is a chain of its own, so there are as many in flight as a register tile has; each starts at another
value, or the compiler would keep one for all. The values tend to 2, far from overflow and from subnormals.
"""

import functools

import numpy as np
from gpucnn.kernels.numba.compiler import kernel
from gpucnn.kernels.numba.simd import LANES, _fma, fma, load, splat, store, vec
from gpucnn.kernels.numba.team import prange
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@functools.cache
def _chains(count: int):
    """(start, step): a tuple of vectors x, 2x, 3x ..., and acc -> fma(acc, x, y) for each of its vectors."""
    accumulators = types.UniTuple(vec, count)

    @intrinsic
    def start(typing, x):
        def generate(context, builder, s, v):
            acc, term = ir.Constant(ir.ArrayType(v[0].type, count), ir.Undefined), v[0]
            for t in range(count):
                acc = builder.insert_value(acc, term, t)
                term = builder.fadd(term, v[0])
            return acc

        return accumulators(vec), generate

    @intrinsic
    def step(typing, acc, x, y):
        def generate(context, builder, s, v):
            acc, function = v[0], _fma(builder)
            for t in range(count):
                value = builder.call(function, [builder.extract_value(acc, t), v[1], v[2]])
                acc = builder.insert_value(acc, value, t)
            return acc

        return accumulators(accumulators, vec, vec), generate

    return start, step


@functools.cache
def fma_burst_of(count: int):
    """The kernel with `count` accumulators per thread."""
    start, step = _chains(count)

    @kernel(f"fma burst {count}")
    def fma_burst(units, rounds, out):
        """`units` times `rounds` * count vectors of multiply-adds; out (units, lanes) keeps their sum alive."""
        for u in prange(units):
            u = np.int64(u)
            x = load(out, u * LANES)
            y = splat(np.float32(1))
            acc = start(x)
            for _ in range(rounds):
                acc = step(acc, x, y)
            total = acc[0]
            for t in range(1, count):
                total = fma(total, x, acc[t])
            store(out, u * LANES, total)

    return fma_burst
