"""The fused multiply-add, float32, correctly rounded: kernels/CONTRACT.md, rules 1 and 2.

NumPy has no fma. Here the product is formed in float64, where it is exact (24 + 24 bits fit in 53). Adding c rounds a
first time, to float64, and converting to float32 rounds a second time. Two roundings differ from one only where the
first lands exactly between two float32 neighbours although the true value does not; those elements are found by their
bits and done again with the first rounding "to odd", after which the second one is always right.
(Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008.)
"""

import numpy as np

from gpucnn.errors import DTypeError

LOW_BITS = np.int64(0x1FFFFFFF)  # the bits of a float64 that float32 drops
HALFWAY = np.int64(0x10000000)  # what they are exactly between two float32 neighbours
NEARLY_SUBNORMAL = 2.0**-125  # below float32's 2**-126 more bits are dropped; twice that, to be safe
SAFE_PRODUCT = 2.0**-80  # see products_stay_normal


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
        doubtful = ((total.view(np.int64) & LOW_BITS) == HALFWAY) | nearly_subnormal(total)
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
    # Round to odd: where the sum was not exact and its last bit is even, step to the neighbour on the other side of
    # the exact value. Bits of a float count away from zero. A NaN rest, from infinities, compares false: no change.
    bits = total.view(np.int64)
    inexact_even = (np.abs(rest) > 0) & ((bits & 1) == 0)
    away_from_zero = (rest > 0) == (total > 0)
    odd = np.where(inexact_even, bits + np.where(away_from_zero, 1, -1), bits)
    return odd.view(np.float64).astype(np.float32)


def products_stay_normal(a: np.ndarray, b: np.ndarray) -> bool:
    """True where no sum of products of float32 values from a and b can be subnormal unless it is zero.

    A float32 not smaller than 2**e is a multiple of 2**(e - 23). If the smallest non-zero |a| times the smallest
    non-zero |b| is 2**-80 or more, each product is a multiple of 2**(-80 - 46) = 2**-126, so is every sum of them, and
    so is every float32 that such a sum rounds to: it is zero or at least 2**-126.
    """

    def unit(values: np.ndarray) -> float:
        """The power of two at or below the smallest non-zero magnitude; NaN if there is one, infinity if all are 0."""
        smallest = np.abs(values[values != 0]).min(initial=np.inf)
        return 2.0 ** (np.frexp(smallest)[1] - 1) if np.isfinite(smallest) else float(smallest)

    return unit(a) * unit(b) >= SAFE_PRODUCT


def chain(a: np.ndarray, b: np.ndarray, stay_normal: bool = False) -> np.ndarray:
    """acc = +0, then acc = fma(a[k], b[k], acc) for k = 0, 1, ...: rule 2 without its last + 0, float32.

    a and b are float64 arrays *that hold float32 values*, (K, ...) each; they broadcast behind their first axis.
    `stay_normal` is what products_stay_normal said of the arrays they were taken from; False is always right.
    Same bits as calling `fma` K times, several times as fast: the temporaries are kept, and of the two kinds of
    doubtful elements the subnormal ones are only looked for where they can be.
    """
    shape = np.broadcast_shapes(a.shape[1:], b.shape[1:])
    product, total, low = np.empty(shape), np.empty(shape), np.empty(shape, np.int64)
    accumulator, rounded = np.zeros(shape), np.zeros(shape, np.float32)
    doubtful, bits = np.empty(shape, bool), total.view(np.int64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for a_k, b_k in zip(a, b, strict=True):
            np.multiply(a_k, b_k, out=product)
            np.add(product, accumulator, out=total)
            np.copyto(rounded, total, casting="same_kind")
            np.bitwise_and(bits, LOW_BITS, out=low)
            np.equal(low, HALFWAY, out=doubtful)
            if not stay_normal:
                doubtful |= nearly_subnormal(total)
            if doubtful.any():
                rounded[doubtful] = rounded_once(product[doubtful], accumulator[doubtful])
            np.copyto(accumulator, rounded)
    return rounded
