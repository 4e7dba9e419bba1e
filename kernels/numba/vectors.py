"""What several kernels do to vectors: the end of a value, and the search for a maximum (rules 2 and 7)."""

import numpy as np
from gpucnn.kernels.numba.compiler import inner
from gpucnn.kernels.numba.simd import add, splat, where_greater

ZERO = np.float32(0)


@inner
def rectified(v):
    """v > 0 ? v : +0."""
    return where_greater(v, splat(ZERO), v, splat(ZERO))


@inner
def finished(v, relu):
    """v, or its ReLU if `relu`."""
    return rectified(v) if relu else v


@inner
def biased(acc, bias, relu):
    """(acc + bias) + 0, the end of a dot product, or its ReLU."""
    return finished(add(add(acc, bias), splat(ZERO)), relu)


@inner
def larger(best, tap, v, number):
    """(maximum so far, its tap) after one more value: the first of equals stays."""
    return where_greater(v, best, v, best), where_greater(v, best, splat(np.float32(number)), tap)


@inner
def largest_of_four(v0, v1, v2, v3):
    """(maximum of a window of 2x2 pixels, its tap 0..3)."""
    best, tap = larger(v0, splat(ZERO), v1, 1)
    best, tap = larger(best, tap, v2, 2)
    return larger(best, tap, v3, 3)
