"""The fused multiply-add, float32, correctly rounded: kernels/CONTRACT.md, rules 1 and 2.

NumPy has no fma. Here the product is formed in float64, where it is exact (24 + 24 bits fit in 53). Adding c rounds a
first time, to float64, and converting to float32 rounds a second time. Two roundings differ from one only where the
first lands exactly between two float32 neighbors although the true value does not; those elements are detected by their
bits and recomputed with the first rounding "to odd", after which the second one is always right.
(Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008.)
"""

import math
from enum import IntEnum

import numpy as np

from gpucnn.errors import DTypeError

KEPT_BITS = np.int64(35)  # of a float64 in float32: a shift by this many leaves the 29 that are dropped
HALFWAY = np.int64(-(2**63))  # the shifted bits exactly between two float32 neighbors; the smallest int64
NEARLY_SUBNORMAL = 2.0**-125  # below float32's 2**-126 more bits are dropped; twice that, to be safe
LONG_ROW = 256  # values; see chain


def float32_array(value, what: str) -> np.ndarray:
    """`value` as an array if it is float32; DTypeError otherwise (a Python float is float64)."""
    array = np.asarray(value)
    if array.dtype != np.float32:
        raise DTypeError(f"{what} is {array.dtype}, but exact math takes float32: convert it with np.float32(...)")
    return array


def fma(a, b, c) -> np.ndarray:
    """a * b + c rounded once, for float32 arrays or scalars of any shapes that broadcast; a float32 array.

    Raises DTypeError for any other type. Subnormals are kept, overflow gives infinity, as IEEE-754 says.
    """
    a, b, c = (float32_array(value, f"fma's {name}") for value, name in ((a, "a"), (b, "b"), (c, "c")))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        product = np.multiply(a, b, dtype=np.float64)  # exact
        total = np.asarray(product + c)
        result = total.astype(np.float32)
        doubtful = (total.view(np.int64) << KEPT_BITS == HALFWAY) | nearly_subnormal(total)
        if doubtful.any():
            product, c = np.broadcast_arrays(product, c)
            result[doubtful] = rounded_once(product[doubtful], c[doubtful])
    return result


def nearly_subnormal(total: np.ndarray) -> np.ndarray:
    """Where a float64 sum may round to a float32 with fewer than 24 bits; a sum that is 0 is exact."""
    return (np.abs(total) < NEARLY_SUBNORMAL) & (total != 0)


def rounded_once(product: np.ndarray, addend: np.ndarray) -> np.ndarray:
    """product (float64) + addend (float32 values), as float32, with a single rounding."""
    total = product + addend
    # Knuth's two-sum: total + rest is the exact value.
    part = total - product
    rest = (product - (total - part)) + (addend - part)
    # Round to odd: where the sum was not exact and its last bit is even, step to the neighbor on the other side of
    # the exact value. Bits of a float count away from zero. A NaN rest, from infinities, compares false: no change.
    bits = total.view(np.int64)
    inexact_even = (np.abs(rest) > 0) & ((bits & 1) == 0)
    away_from_zero = (rest > 0) == (total > 0)
    odd = np.where(inexact_even, bits + np.where(away_from_zero, 1, -1), bits)
    return odd.view(np.float64).astype(np.float32)


class Doubt(IntEnum):
    """Which float64 sums of a chain may round to another float32 than the exact sums."""

    NONE = 0  # all float64 sums are exact
    HALFWAY = 1  # those halfway between two float32 neighbors
    SUBNORMAL = 2  # the nearly subnormal ones too


def doubt(a: np.ndarray, b: np.ndarray, terms: int) -> Doubt:
    """The Doubt for sums of up to `terms` products of values of the float32 arrays a and b.

    With `grain` g of a and h of b all products are multiples of g * h, so are their sums, and so is every float32 that
    such a sum rounds to. They are exact in float64 if they are at most 2**53 * g * h; they are bounded by
    2 * terms * max|a| * max|b|, the 2 being more than all roundings. And if g * h is 2**-126 or more, each is zero or
    not subnormal.
    """
    unit, bound = grain(a) * grain(b), 2.0 * terms
    for values in (a, b):
        bound *= float(np.abs(values).max(initial=0))
    if bound <= 2.0**53 * unit:
        return Doubt.NONE
    return Doubt.HALFWAY if unit >= 2.0**-126 else Doubt.SUBNORMAL


def grain(values: np.ndarray) -> float:
    """The largest power of two that these float32 values are multiples of.

    NaN if one of them is not finite, infinity if all are 0.
    """
    if not np.isfinite(values).all():
        return math.nan
    mantissa, exponent = np.frexp(values[values != 0])
    whole = np.ldexp(mantissa, 24).astype(np.int32)
    return float(np.ldexp((whole & -whole).astype(np.float64), exponent - 24).min(initial=math.inf))


def chain(a: np.ndarray, b: np.ndarray, doubt: Doubt = Doubt.SUBNORMAL) -> np.ndarray:
    """acc = +0, then acc = fma(a[k], b[k], acc) for k = 0, 1, ...: rule 2 without its last + 0, float32.

    a and b are float64 arrays *that hold float32 values*, (K, ...) each; they broadcast behind their first axis.
    `doubt` is the result of the function of that name for these arrays. Same bits as calling `fma` K times, but several
    times as fast: temporaries are reused, and doubtful elements are only searched for where there can be any.
    """
    shape = np.broadcast_shapes(a.shape[1:], b.shape[1:])
    product, total, low = np.empty(shape), np.empty(shape), np.empty(shape, np.int64)
    accumulator, rounded = np.zeros(shape), np.zeros(shape, np.float32)
    bits = total.view(np.int64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # its end restores the buffer's size too
        if shape[-1:] >= (LONG_ROW,):
            np.setbufsize(16)  # with more NumPy copies what it broadcasts, which takes longer than the multiplication
        for a_k, b_k in zip(a, b, strict=True):
            np.multiply(a_k, b_k, out=product)
            np.add(product, accumulator, out=total)
            np.copyto(rounded, total, casting="same_kind")
            if doubt:
                np.left_shift(bits, KEPT_BITS, out=low)
                if doubt == Doubt.SUBNORMAL:
                    low[nearly_subnormal(total)] = HALFWAY
                if low.min() == HALFWAY:
                    doubtful = np.flatnonzero(low == HALFWAY)
                    rounded.put(doubtful, rounded_once(product.take(doubtful), accumulator.take(doubtful)))
            np.copyto(accumulator, rounded)
    return rounded
