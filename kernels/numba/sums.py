"""The trees of rule 3 and 4, built while their terms arrive.

Adding adjacent pairs, then pairs of pairs, with an odd tail carried up, is what a binary counter does: term number t
merges with as many waiting sums as t has trailing one bits. `slots` holds one waiting sum a level, so a tree over any
number of terms takes log2(terms) slots and no second pass.
"""

import functools

import numpy as np
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.simd import LANES, add, add64, load, load64, splat, store, store64
from gpucnn.kernels.numba.team import get_thread_id, prange


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


@kernel("block tree", contiguous=True)
def block_tree(part, scratch, out):
    """out[k] = the tree over the rows of part (blocks, parts, K), those of a block first, + 0.

    scratch (threads, levels * 16), levels being those of the blocks and of the parts.
    """
    size, blocks, parts = out.shape[0], part.shape[0], part.shape[1]
    for u in prange((size + LANES - 1) // LANES):
        first = np.int64(u) * LANES
        slots = scratch[get_thread_id()]
        if first + LANES <= size:
            within = slots.shape[0] - LANES
            for b in range(blocks):
                value = load(part[b, 0], first)
                if parts > 1:
                    for p in range(parts):
                        push(slots, within, -LANES, p, load(part[b, p], first))
                    value = total(slots, within, -LANES, parts)
                push(slots, 0, LANES, b, value)
            store(out, first, add(total(slots, 0, LANES, blocks), splat(np.float32(0))))
        else:
            for k in range(first, size):
                out[k] = _scalar_tree(part, k, slots)


@inner
def _scalar_tree(part, k, slots):
    """One column of part, for the columns that fill no vector."""
    within = slots[slots.shape[0] // 2 :]
    for b in range(part.shape[0]):
        for p in range(part.shape[1]):
            push64(within, p, part[b, p, k])
        push64(slots, b, total64(within, part.shape[1]))
    return total64(slots, part.shape[0]) + np.float32(0)
