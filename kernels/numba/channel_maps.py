"""Everything beside convolutions on activations whose channels lie in blocks of 16 (see channel_conv.py).

A map in the slots of a kernel is five of them: the address of the first value, and the bytes from one image, block of
channels, plane and row to the next; pixels are 64 bytes apart. Each unit of work is one block of one image unless said
otherwise. Lanes past the last channel hold anything.
"""

import functools

import numpy as np
from gpucnn.kernels.numba.addresses import (
    VECTOR,
    float_at,
    floats_at,
    offset_at,
    put_floats,
    put_vector,
    put_vector64,
    slot,
    stack_of,
    vector64_at,
    vector_at,
)
from gpucnn.kernels.numba.channel_tiles import rows, turn
from gpucnn.kernels.numba.compiler import inner
from gpucnn.kernels.numba.conv import taps_inside
from gpucnn.kernels.numba.elementary32 import exp
from gpucnn.kernels.numba.elementwise import EXPRESSIONS
from gpucnn.kernels.numba.native import allocating, native
from gpucnn.kernels.numba.simd import (
    LANES,
    add,
    add64,
    divide,
    divide64,
    fma,
    load,
    multiply,
    narrow,
    splat,
    splat64,
    sqrt,
    store,
    subtract,
    where_greater,
    widen,
)
from gpucnn.kernels.numba.vectors import finished

ZERO, ONE = np.float32(0), np.float32(1)

X, Y, Z = 0, 5, 10  # the slots of three maps
BLOCKS, DEPTH, HEIGHT, WIDTH, CHANNELS = range(15, 20)  # of the result
OWN = 20  # the first slot of a kernel's own


@inner
def block_of(a, number, unit):
    """Address of block `unit` of all images' blocks in a map."""
    blocks = slot(a, BLOCKS)
    return slot(a, number) + unit // blocks * slot(a, number + 1) + unit % blocks * slot(a, number + 2)


@inner
def row_of(a, number, block, d, h):
    return block + d * slot(a, number + 3) + h * slot(a, number + 4)


@inner
def lies_in_one_row(a, number):
    """Whether a block of a map is one row, without a border."""
    row = slot(a, WIDTH) * VECTOR
    return slot(a, number + 4) == row and slot(a, number + 3) == slot(a, HEIGHT) * row


# ---- one value from one value ----------------------------------------------------------------------------------------


@functools.cache
def elementwise_of(name: str, settings: int):
    """y = an activation of x with so many settings, one at most: OWN holds the address of its float32."""
    expression = inner(EXPRESSIONS[name][0])
    value = expression if settings else inner(lambda x, setting: expression(x))

    @native(f"{name} of channel blocks")
    def elementwise(a, unit):
        x, y = block_of(a, X, unit), block_of(a, Y, unit)
        setting = float_at(slot(a, OWN))
        for d in range(slot(a, DEPTH)):
            for h in range(slot(a, HEIGHT)):
                source, target = row_of(a, X, x, d, h), row_of(a, Y, y, d, h)
                for i in range(0, slot(a, WIDTH) * VECTOR, VECTOR):
                    put_vector(target + i, value(vector_at(source + i), setting))

    return elementwise


@native("add channel blocks")
def add_maps(a, unit):
    """y = x + z, or its ReLU if OWN is set."""
    x, y, z = block_of(a, X, unit), block_of(a, Y, unit), block_of(a, Z, unit)
    for d in range(slot(a, DEPTH)):
        for h in range(slot(a, HEIGHT)):
            first, second, target = row_of(a, X, x, d, h), row_of(a, Z, z, d, h), row_of(a, Y, y, d, h)
            for i in range(0, slot(a, WIDTH) * VECTOR, VECTOR):
                v = add(vector_at(first + i), vector_at(second + i))
                put_vector(target + i, finished(v, slot(a, OWN)))


@native("deviations of channel blocks")
def deviations(a, unit):
    """y = 1 / the deviation of a block of channels; own slots: the addresses of variance and of 16 times eps."""
    at = unit * VECTOR
    deviation = sqrt(add(vector_at(slot(a, OWN) + at), vector_at(slot(a, OWN + 1))))
    put_vector(slot(a, Y) + at, divide(splat(ONE), deviation))


@inner
def normalized(v, a, at):
    """A vector after batch norm."""
    centered = subtract(v, vector_at(slot(a, OWN) + at))
    v = fma(
        vector_at(slot(a, OWN + 2) + at),
        multiply(centered, vector_at(slot(a, OWN + 1) + at)),
        vector_at(slot(a, OWN + 3) + at),
    )
    return finished(v, slot(a, OWN + 4))


@native("batch norm of channel blocks")
def batch_norm(a, unit):
    """Own slots: addresses of mean, 1 / deviation, gamma, beta, and whether ReLU follows."""
    x, y, at = block_of(a, X, unit), block_of(a, Y, unit), unit % slot(a, BLOCKS) * VECTOR
    for d in range(slot(a, DEPTH)):
        for h in range(slot(a, HEIGHT)):
            source, target = row_of(a, X, x, d, h), row_of(a, Y, y, d, h)
            for i in range(0, slot(a, WIDTH) * VECTOR, VECTOR):
                put_vector(target + i, normalized(vector_at(source + i), a, at))


@native("batch norm of flat channel blocks")
def batch_norm_of_flat(a, unit):
    """`batch_norm` at one position. A unit is an image."""
    x, y = slot(a, X) + unit * slot(a, X + 1), slot(a, Y) + unit * slot(a, Y + 1)
    for b in range(slot(a, BLOCKS)):
        v = vector_at(x + b * slot(a, X + 2))
        put_vector(y + b * slot(a, Y + 2), normalized(v, a, b * VECTOR))


@native("add bias to channel blocks")
def add_bias(a, unit):
    """y = (x + bias) + 0; own slots: the address of the bias, and whether ReLU follows."""
    x, y = block_of(a, X, unit), block_of(a, Y, unit)
    bias = vector_at(slot(a, OWN) + unit % slot(a, BLOCKS) * VECTOR)
    for d in range(slot(a, DEPTH)):
        for h in range(slot(a, HEIGHT)):
            source, target = row_of(a, X, x, d, h), row_of(a, Y, y, d, h)
            for i in range(0, slot(a, WIDTH) * VECTOR, VECTOR):
                v = add(add(vector_at(source + i), bias), splat(ZERO))
                put_vector(target + i, finished(v, slot(a, OWN + 1)))


# ---- pooling ---------------------------------------------------------------------------------------------------------

# Own slots of a pooling: the input's sizes, kernel, stride, dilation and padding before, three each; then counts.
SIZE, KERNEL, STRIDE, DILATION, BEFORE, COUNTS = OWN, OWN + 3, OWN + 6, OWN + 9, OWN + 12, OWN + 15


@inner
def window_of(a, axis, output):
    """Where the window of an output begins along an axis, and which taps are inside: low to high - 1."""
    at = output * slot(a, STRIDE + axis) - slot(a, BEFORE + axis)
    taps, dilation, size = slot(a, KERNEL + axis), slot(a, DILATION + axis), slot(a, SIZE + axis)
    if at >= 0 and at + (taps - 1) * dilation < size:  # as most are: a tenth of the time less
        return at, np.int64(0), taps
    low, high = taps_inside(at, dilation, taps, size)
    return at, low, high


@functools.cache
def pool_of(largest: bool):
    """Max pooling, or average pooling with COUNTS, the address of a float32 a position of the result."""

    @native(f"{'max' if largest else 'average'} pool of channel blocks")
    def pool(a, unit):
        x, y = block_of(a, X, unit), block_of(a, Y, unit)
        position, across = 0, slot(a, DILATION + 2) * VECTOR
        for d in range(slot(a, DEPTH)):
            i, d_low, d_high = window_of(a, 0, d)
            for h in range(slot(a, HEIGHT)):
                j, h_low, h_high = window_of(a, 1, h)
                target = row_of(a, Y, y, d, h)
                for w in range(slot(a, WIDTH)):
                    c, w_low, w_high = window_of(a, 2, w)
                    first = x + c * VECTOR + w_low * across
                    result = splat(ZERO)
                    if largest:
                        result = vector_at(
                            row_of(a, X, first, i + d_low * slot(a, DILATION), j + h_low * slot(a, DILATION + 1))
                        )
                    for k in range(d_low, d_high):
                        for r in range(h_low, h_high):
                            tap = row_of(a, X, first, i + k * slot(a, DILATION), j + r * slot(a, DILATION + 1))
                            for _ in range(w_low, w_high):
                                v = vector_at(tap)
                                result = where_greater(v, result, v, result) if largest else add(result, v)
                                tap += across
                    if not largest:
                        result = divide(result, splat(float_at(slot(a, COUNTS) + position * 4)))
                        position += 1
                    put_vector(target + w * VECTOR, result)

    return pool


@native("max pool of windows side by side in channel blocks")
def pool_windows(a, unit):
    """Max pooling where windows follow one another and none reaches outside the image."""
    x, y = block_of(a, X, unit), block_of(a, Y, unit)
    depth, height, width = slot(a, KERNEL), slot(a, KERNEL + 1), slot(a, KERNEL + 2)
    x_plane, x_row, wide = slot(a, X + 3), slot(a, X + 4), slot(a, WIDTH)
    for d in range(slot(a, DEPTH)):
        for h in range(slot(a, HEIGHT)):
            target, source = row_of(a, Y, y, d, h), row_of(a, X, x, d * depth, h * height)
            for w in range(wide):
                first = source + w * width * VECTOR
                result = vector_at(first)
                for k in range(depth):
                    for r in range(height):
                        row = first + k * x_plane + r * x_row
                        for s in range(width):
                            v = vector_at(row + s * VECTOR)
                            result = where_greater(v, result, v, result)
                put_vector(target + w * VECTOR, result)


@inner
def push_lanes(slots, t, value):
    """A term of a tree of float64 vectors, as in sums.py; a vector waits at slots + level * 128."""
    while t & 1:
        value = add64(vector64_at(slots), value)
        t >>= 1
        slots += 2 * VECTOR
    put_vector64(slots, value)


@inner
def total_lanes(slots, terms):
    """The sums of all terms pushed."""
    while not terms & 1:
        terms >>= 1
        slots += 2 * VECTOR
    value = vector64_at(slots)
    terms >>= 1
    while terms:
        slots += 2 * VECTOR
        if terms & 1:
            value = add64(vector64_at(slots), value)
        terms >>= 1
    return value


tree_room = stack_of(2 * 40)


@native("global average pool of channel blocks")
def global_avg_pool(a, unit):
    """Own slots: the input's sizes, three, and how many positions a band has."""
    x, y, slots = block_of(a, X, unit), block_of(a, Y, unit), tree_room()
    acc, bands, filled = splat64(0.0), 0, 0
    for d in range(slot(a, OWN)):
        for h in range(slot(a, OWN + 1)):
            row = row_of(a, X, x, d, h)
            for w in range(slot(a, OWN + 2)):
                acc = add64(acc, widen(vector_at(row + w * VECTOR)))
                filled += 1
                if filled == slot(a, OWN + 3):
                    push_lanes(slots, bands, acc)
                    acc, bands, filled = splat64(0.0), bands + 1, 0
    if filled:
        push_lanes(slots, bands, acc)
        bands += 1
    positions = splat64(np.float64(slot(a, OWN) * slot(a, OWN + 1) * slot(a, OWN + 2)))
    put_vector(y, add(narrow(divide64(total_lanes(slots, bands), positions)), splat(ZERO)))


# ---- maps along an axis ----------------------------------------------------------------------------------------------


@native("resample channel blocks")
def resample(a, unit):
    """Own slots: the axis, 0 to 2, and the addresses of resampling.as_arrays: first, position, weight, start."""
    x, y, axis = block_of(a, X, unit), block_of(a, Y, unit), slot(a, OWN)
    step = slot(a, X + 3) if axis == 0 else slot(a, X + 4) if axis == 1 else VECTOR
    for d in range(slot(a, DEPTH)):
        for h in range(slot(a, HEIGHT)):
            for w in range(slot(a, WIDTH)):
                p = d if axis == 0 else h if axis == 1 else w
                origin = row_of(a, X, x, 0 if axis == 0 else d, 0 if axis == 1 else h) + (
                    0 if axis == 2 else w * VECTOR
                )
                acc = splat(float_at(slot(a, OWN + 4) + p * 4))
                for t in range(offset_at(slot(a, OWN + 1) + p * 4), offset_at(slot(a, OWN + 1) + p * 4 + 4)):
                    at = origin + offset_at(slot(a, OWN + 2) + t * 4) * step
                    acc = fma(splat(float_at(slot(a, OWN + 3) + t * 4)), vector_at(at), acc)
                put_vector(row_of(a, Y, y, d, h) + w * VECTOR, add(acc, splat(ZERO)))


# ---- channels and shapes ---------------------------------------------------------------------------------------------


@inner
def channel_of(a, number, image, c):
    """Address of the first value of channel c of an image."""
    return slot(a, number) + image * slot(a, number + 1) + c // LANES * slot(a, number + 2) + c % LANES * 4


@native("copy channels between channel blocks")
def copy_channels(a, unit):
    """Channels of x from the own slot 0 on become CHANNELS channels of y from the own slot 1 on. A unit is an image."""
    c, from_, to = 0, slot(a, OWN), slot(a, OWN + 1)
    while c < slot(a, CHANNELS):
        # As many as stay in one block on both sides.
        count = min(LANES - max((from_ + c) % LANES, (to + c) % LANES), slot(a, CHANNELS) - c)
        x, y = channel_of(a, X, unit, from_ + c), channel_of(a, Y, unit, to + c)
        for d in range(slot(a, DEPTH)):
            for h in range(slot(a, HEIGHT)):
                source, target = row_of(a, X, x, d, h), row_of(a, Y, y, d, h)
                for i in range(0, slot(a, WIDTH) * VECTOR, VECTOR):
                    put_floats(target + i, count, floats_at(source + i, count))
        c += count


# ---- softmax ---------------------------------------------------------------------------------------------------------


@inner
def turn_blocks(x, x_step, x_block, count, channels, room):
    """room (channels, 16) = the values of `count` positions or images, 16 at most, x_step bytes apart: one a lane.

    Blocks of 16 channels are x_block bytes apart; lanes without a position repeat the last one.
    """
    for c in range(0, channels, LANES):
        source = x + c // LANES * x_block
        places = rows(source, x_step, source + (count - 1) * x_step)
        turn(places, min(LANES, channels - c), room[c].ctypes.data, VECTOR)


@inner
def turn_back(room, y, y_step, y_block, count, channels):
    """The opposite of turn_blocks. Lanes without a channel repeat the last one."""
    for c in range(0, channels, LANES):
        last = room[min(c + LANES, channels) - 1].ctypes.data
        turn(rows(room[c].ctypes.data, VECTOR, last), count, y + c // LANES * y_block, y_step)


@inner
def softmax_of_one(x, y, x_block, y_block, channels):
    """Of a position's channels, from 16 at x on, the next 16 x_block bytes further."""
    largest = float_at(x)
    for c in range(1, channels):
        v = float_at(x + c // LANES * x_block + c % LANES * 4)
        largest = v if v > largest else largest
    blocks = -(-channels // LANES)
    for i in range(blocks):
        put_vector(y + i * y_block, exp(subtract(vector_at(x + i * x_block), splat(largest))))
    total = ZERO
    for c in range(channels):
        total += float_at(y + c // LANES * y_block + c % LANES * 4)
    for i in range(blocks):
        put_vector(y + i * y_block, divide(vector_at(y + i * y_block), splat(total)))


@inner
def softmax_of_several(x, y, x_step, y_step, x_block, y_block, count, room):
    """The same of up to 16 positions or images, some bytes apart; room (channels, 16)."""
    channels = len(room)
    turn_blocks(x, x_step, x_block, count, channels, room)
    largest, total = load(room[0], 0), splat(ZERO)
    for c in range(1, channels):
        v = load(room[c], 0)
        largest = where_greater(v, largest, v, largest)
    for c in range(channels):
        e = exp(subtract(load(room[c], 0), largest))
        store(room[c], 0, e)
        total = add(total, e)
    for c in range(channels):
        store(room[c], 0, divide(load(room[c], 0), total))
    turn_back(room, y, y_step, y_block, count, channels)


# Own slots of a softmax: how many images there are, and where a failure is told.
IMAGES, FAILED = OWN, OWN + 1


@allocating("softmax of channel blocks", FAILED)
def softmax(a, unit):
    """Along the channels, by rule 8. A unit is an image."""
    depth, height, width = slot(a, DEPTH), slot(a, HEIGHT), slot(a, WIDTH)
    if lies_in_one_row(a, X) and lies_in_one_row(a, Y):
        depth, height, width = 1, 1, depth * height * width
    x_block, y_block, channels = slot(a, X + 2), slot(a, Y + 2), slot(a, CHANNELS)
    room = np.empty((channels if width > 1 else 0, LANES), np.float32)
    for d in range(depth):
        for h in range(height):
            x = row_of(a, X, slot(a, X) + unit * slot(a, X + 1), d, h)
            y = row_of(a, Y, slot(a, Y) + unit * slot(a, Y + 1), d, h)
            for w in range(0, width, LANES):
                i, count = w * VECTOR, min(LANES, width - w)
                if width == 1:
                    softmax_of_one(x, y, x_block, y_block, channels)
                else:
                    softmax_of_several(x + i, y + i, VECTOR, VECTOR, x_block, y_block, count, room)


@allocating("softmax of channel blocks, image by image", FAILED)
def softmax_of_images(a, unit):
    """Along the channels of the only position, by rule 8. A unit is up to 16 images."""
    x_step, y_step, first = slot(a, X + 1), slot(a, Y + 1), unit * LANES
    x, y = slot(a, X) + first * x_step, slot(a, Y) + first * y_step
    count, room = min(LANES, slot(a, IMAGES) - first), np.empty((slot(a, CHANNELS), LANES), np.float32)
    softmax_of_several(x, y, x_step, y_step, slot(a, X + 2), slot(a, Y + 2), count, room)
