"""The trees of rule 3 and 4, built while their terms arrive.

Adding adjacent pairs, then pairs of pairs, with an odd tail carried up, is what a binary counter does: term number t
merges with as many waiting sums as t has trailing one bits. `slots` holds one waiting sum a level, so a tree over any
number of terms takes log2(terms) slots and no second pass.
"""

import functools

import numpy as np
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.simd import LANES, add, add64, load, load64, store, store64
from gpucnn.kernels.numba.team import prange


def levels(terms: int) -> int:
    """The number of slots that a tree of `terms` terms needs."""
    return max(1, terms.bit_length())


@inner
def push(slots, i, level, t, value):
    """Term t (from 0) of a tree of vectors; level l waits at slots.base[i + l * level]."""
    while t & 1:
        value = add(load(slots, i), value)
        i += level
        t >>= 1
    store(slots, i, value)


@inner
def total(slots, i, level, terms):
    """The sum of all terms pushed."""
    while not terms & 1:
        i += level
        terms >>= 1
    value = load(slots, i)
    terms >>= 1
    while terms:
        i += level
        if terms & 1:
            value = add(load(slots, i), value)
        terms >>= 1
    return value


@functools.cache
def push_all_of(vectors: tuple):
    """push_all(slots, i, level, t, acc): term t of so many trees, `vectors` being functions of acc that give their
    terms; those of tree k wait from i + k * 16 on.
    """
    first = vectors[0]
    if len(vectors) == 1:

        @inner
        def push_all(slots, i, level, t, acc):
            push(slots, i, level, t, first(acc))

        return push_all
    others = push_all_of(vectors[1:])

    @inner
    def push_all(slots, i, level, t, acc):
        push(slots, i, level, t, first(acc))
        others(slots, i + LANES, level, t, acc)

    return push_all


@inner
def push64(slots, t, value):
    """The same for one number, a float64 or what slots (levels,) holds."""
    level = 0
    while t & 1:
        value = slots[level] + value
        level += 1
        t >>= 1
    slots[level] = value


@inner
def total64(slots, terms):
    """The sum of all such terms pushed."""
    level = 0
    while not terms & 1:
        level += 1
        terms >>= 1
    value = slots[level]
    terms >>= 1
    while terms:
        level += 1
        if terms & 1:
            value = slots[level] + value
        terms >>= 1
    return value


@inner
def push_lanes(slots, t, value):
    """The same for 16 float64 at once, a tree a lane; slots (levels, 16)."""
    level = 0
    while t & 1:
        value = add64(load64(slots[level], 0), value)
        t >>= 1
        level += 1
    store64(slots[level], 0, value)


@inner
def total_lanes(slots, terms):
    """The sums of all such terms pushed."""
    level = 0
    while not terms & 1:
        terms >>= 1
        level += 1
    value = load64(slots[level], 0)
    terms >>= 1
    while terms:
        level += 1
        if terms & 1:
            value = add64(load64(slots[level], 0), value)
        terms >>= 1
    return value


@kernel("block tree")
def block_tree(part, scratch, out):
    """out[k] = the tree over the rows of part (blocks, K), + 0; scratch (K / 16 rounded up, levels * 16)."""
    size = out.shape[0]
    for u in prange((size + LANES - 1) // LANES):
        first = np.int64(u) * LANES
        slots = scratch[np.int64(u)]
        if first + LANES <= size:
            for b in range(part.shape[0]):
                push(slots, 0, LANES, b, load(part[b], first))
            store(slots, 0, total(slots, 0, LANES, part.shape[0]))
            for lane in range(LANES):
                out[first + lane] = slots[lane] + np.float32(0)
        else:
            for k in range(first, size):
                out[k] = _scalar_tree(part, k, slots)


@inner
def _scalar_tree(part, k, slots):
    """One column of part, for the columns that fill no vector."""
    for b in range(part.shape[0]):
        push64(slots, b, part[b, k])
    return total64(slots, part.shape[0]) + np.float32(0)
