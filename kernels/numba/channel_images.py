"""Images and flat values as users lay them out, row-major, into maps with channels in blocks of 16, and back.

Maps are in the slots that channel_maps.py gives; a plain or flat side is the address of the first value and the bytes
from one image to the next.
"""

import functools

from gpucnn.kernels.numba.addresses import (
    VECTOR,
    float_at,
    floats_at,
    put_floats,
    put_slot,
    put_vector,
    slot,
    stack_of,
    vector_at,
)
from gpucnn.kernels.numba.channel_maps import (
    BLOCKS,
    CHANNELS,
    DEPTH,
    HEIGHT,
    OWN,
    WIDTH,
    ZERO,
    X,
    Y,
    block_of,
    lies_in_one_row,
    row_of,
)
from gpucnn.kernels.numba.channel_tiles import rows, turn
from gpucnn.kernels.numba.compiler import inner
from gpucnn.kernels.numba.native import native
from gpucnn.kernels.numba.simd import LANES, add, fma, identical, multiply, splat, subtract

# ---- images into maps ------------------------------------------------------------------------------------------------

# Own slots: the bytes from one channel of a planar map to the next, the images' address and strides, the addresses of a
# mean and a factor for each channel, or 0, and whether a value was NaN or infinite.
LANE, SOURCE, SOURCE_IMAGE, SOURCE_CHANNEL, SOURCE_DEPTH, SOURCE_ROW, MEAN, FACTOR, BAD = range(OWN, OWN + 9)


@inner
def looked_at(v, checks):
    """`checks`, which stays +0 while all values are finite: zero times another is NaN."""
    return fma(v, splat(ZERO), checks)


@inner
def report(a, checks):
    if not identical(checks, splat(ZERO)):
        put_slot(a, BAD, 1)


@inner
def prepared(v, mean, factor):
    return multiply(subtract(v, mean), factor)


@native("load images for planar maps")
def load_planes(a, unit):
    """y, whose channels lie one after the other like those of the images; a unit is a channel of an image."""
    image, c, checks = unit // slot(a, CHANNELS), unit % slot(a, CHANNELS), splat(ZERO)
    source = slot(a, SOURCE) + image * slot(a, SOURCE_IMAGE) + c * slot(a, SOURCE_CHANNEL)
    y, prepares = slot(a, Y) + image * slot(a, Y + 1) + c * slot(a, LANE), slot(a, MEAN) != 0
    mean = factor = splat(ZERO)
    if prepares:
        mean, factor = splat(float_at(slot(a, MEAN) + c * 4)), splat(float_at(slot(a, FACTOR) + c * 4))
    for d in range(slot(a, DEPTH)):
        for h in range(slot(a, HEIGHT)):
            row, target = source + d * slot(a, SOURCE_DEPTH) + h * slot(a, SOURCE_ROW), row_of(a, Y, y, d, h)
            for w in range(0, slot(a, WIDTH), LANES):
                count = min(LANES, slot(a, WIDTH) - w)
                v = floats_at(row + w * 4, count)
                checks = looked_at(v, checks)
                if prepares:
                    v = prepared(v, mean, factor)
                put_floats(target + w * 4, count, v)
    report(a, checks)


@native("load images for channel blocks")
def load_blocks(a, unit):
    """y in blocks of channels; a unit is a block of an image."""
    image, first, checks = unit // slot(a, BLOCKS), unit % slot(a, BLOCKS) * LANES, splat(ZERO)
    channels, step = min(LANES, slot(a, CHANNELS) - first), slot(a, SOURCE_CHANNEL)
    source, y = slot(a, SOURCE) + image * slot(a, SOURCE_IMAGE) + first * step, block_of(a, Y, unit)
    mean, factor, prepares = splat(ZERO), splat(ZERO), slot(a, MEAN) != 0
    if prepares:
        mean, factor = floats_at(slot(a, MEAN) + first * 4, channels), floats_at(slot(a, FACTOR) + first * 4, channels)
    depth, height, width = slot(a, DEPTH), slot(a, HEIGHT), slot(a, WIDTH)
    whole = slot(a, SOURCE_ROW) == width * 4 and slot(a, SOURCE_DEPTH) == height * width * 4
    if whole and lies_in_one_row(a, Y):
        depth, height, width = 1, 1, depth * height * width
    for d in range(depth):
        for h in range(height):
            row, target = source + d * slot(a, SOURCE_DEPTH) + h * slot(a, SOURCE_ROW), row_of(a, Y, y, d, h)
            for w in range(0, width, LANES):
                values, pixels, count = row + w * 4, target + w * VECTOR, min(LANES, width - w)
                turn(rows(values, step, values + (channels - 1) * step), count, pixels, VECTOR)
                for pixel in range(pixels, pixels + count * VECTOR, VECTOR):
                    v = vector_at(pixel)
                    checks = looked_at(v, checks)
                    if prepares:
                        put_vector(pixel, prepared(v, mean, factor))
    report(a, checks)


@native("load flat images")
def load_flat(a, unit):
    """y from flat values, which lie alike; a unit is an image."""
    source, y, checks = slot(a, SOURCE) + unit * slot(a, SOURCE_IMAGE), slot(a, Y) + unit * slot(a, Y + 1), splat(ZERO)
    for c in range(0, slot(a, CHANNELS), LANES):
        at, count = c * 4, min(LANES, slot(a, CHANNELS) - c)
        v = floats_at(source + at, count)
        checks = looked_at(v, checks)
        if slot(a, MEAN):
            v = prepared(v, floats_at(slot(a, MEAN) + at, count), floats_at(slot(a, FACTOR) + at, count))
        put_vector(y + c // LANES * slot(a, Y + 2), v)
    report(a, checks)


@native("look for NaNs in images")
def look_at_images(a, unit):
    """Set BAD where an image holds a NaN or an infinity."""
    source, checks, others = slot(a, SOURCE) + unit * slot(a, SOURCE_IMAGE), splat(ZERO), splat(ZERO)
    end = source + slot(a, SOURCE_IMAGE)
    while source + 2 * VECTOR <= end:
        checks, others = looked_at(vector_at(source), checks), looked_at(vector_at(source + VECTOR), others)
        source += 2 * VECTOR
    while source < end:
        checks = looked_at(floats_at(source, min(LANES, (end - source) // 4)), checks)
        source += VECTOR
    report(a, add(checks, others))


# ---- maps into flat values, and back ---------------------------------------------------------------------------------

_square = stack_of(LANES)


@functools.cache
def flatten_of(backwards: bool):
    """The flat y from the map x in row-major order, or the map y from the flat x.

    CHANNELS and the sizes are the map's, BLOCKS its blocks. A unit is a block of an image.
    """

    flat_map, there = (X, Y) if backwards else (Y, X)

    @native("map from flat channel blocks" if backwards else "flatten channel blocks")
    def flatten(a, unit):
        image, c = unit // slot(a, BLOCKS), unit % slot(a, BLOCKS) * LANES
        depth, height, width = slot(a, DEPTH), slot(a, HEIGHT), slot(a, WIDTH)
        line, channels = depth * height * width * 4, min(LANES, slot(a, CHANNELS) - c)  # bytes of a channel
        if lies_in_one_row(a, there):
            depth, height, width = 1, 1, depth * height * width
        block, square = block_of(a, there, unit), _square()
        flat = slot(a, flat_map) + image * slot(a, flat_map + 1) + c * line
        for d in range(depth):
            for h in range(height):
                row = row_of(a, there, block, d, h)
                # Lines are written whole where channels begin at lines: they may all be in one set of the first cache.
                apart = 0 if backwards or width <= LANES else flat % VECTOR // 4
                for first in range(-apart, width, LANES):
                    if backwards:
                        values, count = flat + first * 4, min(LANES, width - first)
                        places = rows(values, line, values + (channels - 1) * line)
                        turn(places, count, row + first * VECTOR, VECTOR)
                    elif width >= LANES:
                        i = max(0, min(first, width - LANES))
                        places = rows(row + i * VECTOR, VECTOR, row + (i + LANES) * VECTOR)
                        turn(places, channels, flat + i * 4, line)
                    else:
                        turn(rows(row, VECTOR, row + (width - 1) * VECTOR), channels, square, VECTOR)
                        for k in range(channels):
                            put_floats(flat + k * line, width, vector_at(square + k * VECTOR))
                flat += width * 4

    return flatten


@native("flat values from channel blocks")
def copy_flat(a, unit):
    """The flat y from x at one position, CHANNELS values an image. A unit is an image."""
    x, y = slot(a, X) + unit * slot(a, X + 1), slot(a, Y) + unit * slot(a, Y + 1)
    for c in range(0, slot(a, CHANNELS), LANES):
        put_floats(y + c * 4, min(LANES, slot(a, CHANNELS) - c), vector_at(x + c // LANES * slot(a, X + 2)))
