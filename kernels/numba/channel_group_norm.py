"""Group norm and layer norm where an image's channels lie in blocks of 16 (see channel_maps.py).

The values of a group are a line, channel after channel, cut into bands of 64 (rules 3 and 4). A band's sum is a chain,
but 16 channels' chains run side by side, each beginning anew where one of its channel's bands does. What a band still
has in the next channel is added to its chain afterwards.
"""

import numpy as np
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba.addresses import float_at, put_vector, slot, vector_at
from gpucnn.kernels.numba.channel_maps import (
    CHANNELS,
    DEPTH,
    HEIGHT,
    OWN,
    VECTOR,
    WIDTH,
    X,
    Y,
    channel_of,
    push_lanes,
    row_of,
    total_lanes,
    tree_room,
    turn_back,
    turn_blocks,
)
from gpucnn.kernels.numba.compiler import inner
from gpucnn.kernels.numba.native import allocating
from gpucnn.kernels.numba.norm import inverse_deviation
from gpucnn.kernels.numba.simd import (
    LANES,
    add,
    add64,
    divide,
    divide64,
    fma,
    load,
    load64,
    multiply,
    multiply64,
    narrow,
    splat,
    splat64,
    sqrt,
    store,
    store64,
    subtract,
    subtract64,
    widen,
)
from gpucnn.kernels.numba.sums import push64, total64
from gpucnn.kernels.numba.vectors import finished

ZERO, ONE = np.float32(0), np.float32(1)
# TOGETHER groups, whose channels fill whole blocks, are one unit of work; addresses 0 for 1 and 0; EPS of a float32.
GROUPS, TOGETHER, GAMMA, BETA, EPS, RELU, IMAGES, FAILED = range(OWN, OWN + 8)
# Sums that wait, one a level of the tree.
LEVELS = 64


@inner
def positions_of(a):
    return slot(a, DEPTH) * slot(a, HEIGHT) * slot(a, WIDTH)


@inner
def more(acc, at, end, centre, squared):
    """acc after the vectors from address `at` to `end`."""
    if squared:
        for i in range(at, end, VECTOR):
            d = subtract64(widen(vector_at(i)), centre)
            acc = add64(acc, multiply64(d, d))
    else:
        for i in range(at, end, VECTOR):
            acc = add64(acc, widen(vector_at(i)))
    return acc


@inner
def begin_bands(acc, begin, parts, ended, room):
    """The chains of 16 channels, those whose bit of `begin` is set anew; their sums go to `parts`."""
    store64(room, 0, acc)
    for c in range(LANES):
        if begin >> c & 1:
            parts[c, ended[c]] = room[c]
            ended[c] += 1
            room[c] = 0.0
    return load64(room, 0)


@inner
def sum_bands(a, x, begins, centre, squared, parts, ended, room):
    """parts[c, 0] = the sum before the first band of channel c, parts[c, 1 ...] = its bands' as far as they are in c.

    For the 16 channels of the block at x; begins[p] has a bit for each that begins a band at positions p, p + 64 ...
    """
    acc, p = splat64(0.0), 0
    ended[:] = 0
    for d in range(slot(a, DEPTH)):
        for h in range(slot(a, HEIGHT)):
            row, w = row_of(a, X, x, d, h), 0
            while w < slot(a, WIDTH):
                if begins[p % BAND]:
                    acc = begin_bands(acc, begins[p % BAND], parts, ended, room)
                start = w
                w, p = w + 1, p + 1
                while w < slot(a, WIDTH) and not begins[p % BAND]:
                    w, p = w + 1, p + 1
                acc = more(acc, row + start * VECTOR, row + w * VECTOR, centre, squared)
    begin_bands(acc, -1, parts, ended, room)


@inner
def continued(a, channel, p, count, acc, centre, squared):
    """acc after `count` more values of a channel, from position p on."""
    height, width = slot(a, HEIGHT), slot(a, WIDTH)
    d, h, w = p // (height * width), p // width % height, p % width
    for _ in range(count):
        v = np.float64(float_at(row_of(a, X, channel, d, h) + w * VECTOR))
        if squared:
            v -= centre
            v *= v
        acc += v
        w += 1
        if w == width:
            w, h = 0, h + 1
            if h == height:
                h, d = 0, d + 1
    return acc


@inner
def line_sum(a, image, first, channels, at, parts, by_band, centre, squared, slots):
    """The sum over a group's line, or of the squares of value - centre; its channels have `parts` from row `at` on."""
    positions, acc, filled, bands = positions_of(a), 0.0, 0, 0
    for j in range(channels):
        channel, p = channel_of(a, X, image, first + j), 0
        while p < positions:
            count = min(BAND - filled, positions - p)
            if by_band and filled == 0:
                acc = parts[at + j, 1 + p // BAND]
            else:
                acc = continued(a, channel, p, count, acc, centre, squared)
            p, filled = p + count, filled + count
            if filled == BAND:
                push64(slots, bands, acc)
                acc, filled, bands = 0.0, 0, bands + 1
    if filled:
        push64(slots, bands, acc)
        bands += 1
    return total64(slots, bands)


@inner
def factor_of(a, c):
    return float_at(slot(a, GAMMA) + c * 4) if slot(a, GAMMA) else ONE


@inner
def shift_of(a, c):
    return float_at(slot(a, BETA) + c * 4) if slot(a, BETA) else ZERO


@allocating("group norm of channel blocks", FAILED)
def group_norm(a, unit):
    """y = fma(gamma, (x - mean) * inv, beta), or its ReLU. A unit is TOGETHER groups of an image."""
    units = -(-slot(a, GROUPS) // slot(a, TOGETHER))
    image, group = unit // units, unit % units * slot(a, TOGETHER)
    groups, channels = min(slot(a, TOGETHER), slot(a, GROUPS) - group), slot(a, CHANNELS) // slot(a, GROUPS)
    first, positions = group * channels, positions_of(a)
    count, padded = groups * channels, -(-groups * channels // LANES) * LANES
    by_band = positions >= LANES  # else bands begin in few channels
    begins, ended, room = np.zeros((padded // LANES, BAND), np.int64), np.empty(LANES, np.int64), np.empty(LANES)
    parts, slots = np.empty((padded, positions // BAND + 2)), np.empty(LEVELS)
    centres, constants = np.zeros(padded), np.zeros((4, padded), np.float32)
    for c in range(count):
        begins[c // LANES, (BAND - c % channels * positions % BAND) % BAND] |= 1 << c % LANES
    for squared in range(2):
        if by_band:
            for at in range(0, padded, LANES):
                block, centre = channel_of(a, X, image, first + at), load64(centres, at)
                sum_bands(a, block, begins[at // LANES], centre, squared, parts[at : at + LANES], ended, room)
        for g in range(groups):
            at = g * channels
            total = line_sum(a, image, first + at, channels, at, parts, by_band, centres[at], squared, slots)
            value = total / (channels * positions)
            if squared:
                constants[0, at : at + channels] = np.float32(centres[at])
                constants[1, at : at + channels] = inverse_deviation(np.float32(value), float_at(slot(a, EPS)))
            else:
                centres[at : at + channels] = value
    for c in range(count):
        constants[2, c], constants[3, c] = factor_of(a, first + c), shift_of(a, first + c)
    for at in range(0, padded, LANES):
        mean, inverse = load(constants[0], at), load(constants[1], at)
        gamma, beta = load(constants[2], at), load(constants[3], at)
        x, y = channel_of(a, X, image, first + at), channel_of(a, Y, image, first + at)
        for d in range(slot(a, DEPTH)):
            for h in range(slot(a, HEIGHT)):
                source, target = row_of(a, X, x, d, h), row_of(a, Y, y, d, h)
                for i in range(0, slot(a, WIDTH) * VECTOR, VECTOR):
                    v = fma(gamma, multiply(subtract(vector_at(source + i), mean), inverse), beta)
                    put_vector(target + i, finished(v, slot(a, RELU)))


@inner
def sum_across(room, first, channels, centre, squared, slots):
    """The sums over a group's line in 16 images, or of the squares of value - centre; room (channels, 16)."""
    acc, bands = splat64(0.0), 0
    for c in range(channels):
        v = widen(load(room[first + c], 0))
        if squared:
            v = subtract64(v, centre)
            v = multiply64(v, v)
        acc = add64(acc, v)
        if c % BAND == BAND - 1:
            push_lanes(slots, bands, acc)
            acc, bands = splat64(0.0), bands + 1
    if channels % BAND:
        push_lanes(slots, bands, acc)
        bands += 1
    return total_lanes(slots, bands)


@allocating("group norm of channel blocks, image by image", FAILED)
def group_norm_of_images(a, unit):
    """The same where the maps have one position. A unit is up to 16 images; IMAGES is their number."""
    first, every, channels = unit * LANES, slot(a, CHANNELS), slot(a, CHANNELS) // slot(a, GROUPS)
    images, slots, room = min(LANES, slot(a, IMAGES) - first), tree_room(), np.empty((every, LANES), np.float32)
    x, y = slot(a, X) + first * slot(a, X + 1), slot(a, Y) + first * slot(a, Y + 1)
    turn_blocks(x, slot(a, X + 1), slot(a, X + 2), images, every, room)
    count, eps = splat64(np.float64(channels)), splat(float_at(slot(a, EPS)))
    for group in range(0, every, channels):
        centre = divide64(sum_across(room, group, channels, splat64(0.0), False, slots), count)
        variance = divide64(sum_across(room, group, channels, centre, True, slots), count)
        mean, inverse = narrow(centre), divide(splat(ONE), sqrt(add(narrow(variance), eps)))
        for c in range(group, group + channels):
            xhat = multiply(subtract(load(room[c], 0), mean), inverse)
            v = fma(splat(factor_of(a, c)), xhat, splat(shift_of(a, c)))
            store(room[c], 0, finished(v, slot(a, RELU)))
    turn_back(room, y, slot(a, Y + 1), slot(a, Y + 2), images, every)
