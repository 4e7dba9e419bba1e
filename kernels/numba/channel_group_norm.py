"""Group norm and layer norm where an image's channels lie in blocks of 16 (see channel_maps.py).

The sums of rules 3 and 4 run over the values of a group in row-major order, one after the other, so they are scalar.
"""

import numpy as np
from gpucnn.kernels.numba.addresses import float_at, put_float, slot
from gpucnn.kernels.numba.channel_maps import CHANNELS, DEPTH, HEIGHT, OWN, VECTOR, WIDTH, X, Y, channel_of, row_of
from gpucnn.kernels.numba.compiler import inner
from gpucnn.kernels.numba.native import native
from gpucnn.kernels.numba.norm import inverse_deviation
from gpucnn.kernels.numba.simd import scalar_fma
from gpucnn.kernels.numba.sums import push64, total64

ZERO, ONE = np.float32(0), np.float32(1)
BAND = 64
GROUPS, GAMMA, BETA, EPS, RELU = range(OWN, OWN + 5)  # addresses 0 for 1 and 0; EPS of a float32
# Sums that wait, one a level of the tree.
LEVELS = 64


@inner
def group_sum(a, image, first, channels, centre, squared, slots):
    """The sum of a group's values, or of the squares of value - centre."""
    acc, bands, filled = 0.0, 0, 0
    for c in range(first, first + channels):
        place = channel_of(a, X, image, c)
        for d in range(slot(a, DEPTH)):
            for h in range(slot(a, HEIGHT)):
                row = row_of(a, X, place, d, h)
                for i in range(0, slot(a, WIDTH) * VECTOR, VECTOR):
                    v = np.float64(float_at(row + i))
                    if squared:
                        v -= centre
                        v *= v
                    acc += v
                    filled += 1
                    if filled == BAND:
                        push64(slots, bands, acc)
                        acc, bands, filled = 0.0, bands + 1, 0
    if filled:
        push64(slots, bands, acc)
        bands += 1
    return total64(slots, bands)


@native("group norm of channel blocks")
def group_norm(a, unit):
    """y = fma(gamma, (x - mean) * inv, beta), or its ReLU. A unit is a group of an image."""
    groups = slot(a, GROUPS)
    image, channels = unit // groups, slot(a, CHANNELS) // groups
    first = unit % groups * channels
    slots = np.empty(LEVELS)
    count = channels * slot(a, DEPTH) * slot(a, HEIGHT) * slot(a, WIDTH)
    mean64 = group_sum(a, image, first, channels, 0.0, False, slots) / count
    variance = np.float32(group_sum(a, image, first, channels, mean64, True, slots) / count)
    mean, inverse = np.float32(mean64), inverse_deviation(variance, float_at(slot(a, EPS)))
    for c in range(first, first + channels):
        gamma = float_at(slot(a, GAMMA) + c * 4) if slot(a, GAMMA) else ONE
        beta = float_at(slot(a, BETA) + c * 4) if slot(a, BETA) else ZERO
        x, y = channel_of(a, X, image, c), channel_of(a, Y, image, c)
        for d in range(slot(a, DEPTH)):
            for h in range(slot(a, HEIGHT)):
                source, target = row_of(a, X, x, d, h), row_of(a, Y, y, d, h)
                for i in range(0, slot(a, WIDTH) * VECTOR, VECTOR):
                    v = scalar_fma(gamma, (float_at(source + i) - mean) * inverse, beta)
                    if slot(a, RELU):
                        v = v if v > ZERO else ZERO
                    put_float(target + i, v)
