"""Convolution and dense layers with 16 output channels in a vector, and what follows them: batch norm, addition, ReLU,
pooling.

Activations are (image, block of channels, *spatial, 16), their channels in blocks of 16, with room for a border of
zeros around each map, so that no tap needs a look at where it is. Sizes and places come as tables of byte offsets from
an image's first value; the chain of each value is that of rule 2, term by term, and what follows rounds where rules 5
and 7 round.
"""

import functools

import numpy as np
from gpucnn.kernels.numba.addresses import (
    VECTOR,
    float_at,
    offset_at,
    put_float,
    put_vector,
    slot,
    stack_of,
    vector_at,
)
from gpucnn.kernels.numba.channel_tiles import broadcast_of, lanewise_of, places_of, rows_of, turn, turning_of
from gpucnn.kernels.numba.compiler import inner
from gpucnn.kernels.numba.native import native
from gpucnn.kernels.numba.simd import LANES, add, divide, fma, multiply, splat, sqrt, subtract, where_greater

ZERO, ONE = np.float32(0), np.float32(1)

# The slots of a convolution. Addresses and strides are in bytes; 0 for an address says that there is no such thing.
(
    X,  # the first image's values, as the first channel of the convolution's group sees them
    X_IMAGE,  # from one image to the next
    OFFSETS,  # int32 of each term
    TERMS,
    WEIGHTS,  # (tile, term, vectors, 16) as `pack` lays them, or the rows as they lie
    PLACES,  # int32 of each pixel: where its first tap would be
    RESULTS,  # int32 of each pixel, or window of pooling: where it is put
    TILES,  # how many tiles of pixels a group of images has
    IMAGES,
    GROUP,  # images that the tables of pixels cover
    Y,
    Y_IMAGE,
    Y_BLOCK,  # from one block of channels to the next
    VECTORS,  # blocks of channels
    BIAS,  # float32 of each channel, filled up to whole vectors, as the next four are
    MEAN,
    VARIANCE,
    GAMMA,
    BETA,
    EPS,  # 16 times the same float32
    ADDEND,  # another map of the result's shape before pooling
    ADDEND_IMAGE,
    ADDEND_BLOCK,
    ADDEND_PLACES,
    RELU,
    POOL,  # how many pixels that follow one another make a window, 1 for no pooling
    PIXEL_PARTS,
    VECTOR_PARTS,
    OUTPUTS,
    ROW,  # bytes from one output's weights to the next, where they are read as they lie
    X_BLOCK,  # from what one block of outputs sees to what the next sees: 0 unless depthwise
    SLOTS,
) = range(32)
# Vectors that `constants` puts.
CONSTANTS = 5
# Blocks of outputs that `dense_of` computes at once, so that the one's sums run while the other's weights are turned.
TURNED = 2


@inner
def constants(a, i, room):
    """Bias, mean, 1 / sqrt(var + eps), gamma and beta of block i of channels, to `room`."""
    at = i * VECTOR
    put_vector(room, vector_at(slot(a, BIAS) + at) if slot(a, BIAS) else splat(ZERO))
    if slot(a, MEAN):
        put_vector(room + VECTOR, vector_at(slot(a, MEAN) + at))
        eps = vector_at(slot(a, EPS))
        inverse = divide(splat(ONE), sqrt(add(vector_at(slot(a, VARIANCE) + at), eps)))
        put_vector(room + 2 * VECTOR, inverse)
        put_vector(room + 3 * VECTOR, vector_at(slot(a, GAMMA) + at))
        put_vector(room + 4 * VECTOR, vector_at(slot(a, BETA) + at))


@inner
def finished(a, v, room, addend):
    """A sum after bias, batch norm, addition and ReLU."""
    zero = splat(ZERO)
    v = add(add(v, vector_at(room)), zero)
    if slot(a, MEAN):
        v = multiply(subtract(v, vector_at(room + VECTOR)), vector_at(room + 2 * VECTOR))
        v = fma(vector_at(room + 3 * VECTOR), v, vector_at(room + 4 * VECTOR))
    if slot(a, ADDEND):
        v = add(v, vector_at(addend))
    if slot(a, RELU):
        v = where_greater(v, zero, v, zero)
    return v


@inner
def finish_tile(a, vectors, pixels, sums, known, image, first, tile):
    """What follows a tile of sums, and its place in y; `first` is its first block of channels."""
    pool, zero = slot(a, POOL), splat(ZERO)
    results = slot(a, RESULTS) + tile * pixels // pool * 4
    addends = slot(a, ADDEND_PLACES) + tile * pixels * 4
    for i in range(vectors):
        y = slot(a, Y) + image * slot(a, Y_IMAGE) + (first + i) * slot(a, Y_BLOCK)
        addend = slot(a, ADDEND) + image * slot(a, ADDEND_IMAGE) + (first + i) * slot(a, ADDEND_BLOCK)
        room = known + i * CONSTANTS * VECTOR
        if pool == 1:
            for j in range(pixels):
                other = addend + offset_at(addends + j * 4) if slot(a, ADDEND) else addend
                v = finished(a, vector_at(sums + (i * pixels + j) * VECTOR), room, other)
                put_vector(y + offset_at(results + j * 4), v)
        else:
            best = zero
            for j in range(pixels):
                other = addend + offset_at(addends + j * 4) if slot(a, ADDEND) else addend
                v = finished(a, vector_at(sums + (i * pixels + j) * VECTOR), room, other)
                best = where_greater(v, best, v, best) if j % pool else v
                if j % pool == pool - 1:
                    put_vector(y + offset_at(results + j // pool * 4), best)


@functools.cache
def conv_of(vectors: int, pixels: int, depthwise: bool = False):
    """The kernel with tiles of `vectors` blocks of channels by `pixels` pixels."""
    run = lanewise_of(pixels) if depthwise else broadcast_of(vectors, pixels)
    sums_room, constants_room, places = stack_of(vectors * pixels), stack_of(CONSTANTS * vectors), places_of(pixels)

    @native(f"{'depthwise ' if depthwise else ''}conv {vectors}x{pixels} of 16 channels")
    def conv(a, unit):
        rest, part = unit // slot(a, PIXEL_PARTS), unit % slot(a, PIXEL_PARTS)
        group, chunk = rest // slot(a, VECTOR_PARTS), rest % slot(a, VECTOR_PARTS)
        number = (slot(a, VECTORS) + vectors - 1) // vectors
        image = min(group * slot(a, GROUP), slot(a, IMAGES) - slot(a, GROUP))
        x = slot(a, X) + image * slot(a, X_IMAGE)
        sums, known = sums_room(), constants_room()
        for n in range(number * chunk // slot(a, VECTOR_PARTS), number * (chunk + 1) // slot(a, VECTOR_PARTS)):
            first = min(n * vectors, slot(a, VECTORS) - vectors)
            for i in range(vectors):
                constants(a, first + i, known + i * CONSTANTS * VECTOR)
            weights = slot(a, WEIGHTS) + n * slot(a, TERMS) * vectors * VECTOR
            seen = x + first * slot(a, X_BLOCK)
            tiles = slot(a, TILES)
            for tile in range(tiles * part // slot(a, PIXEL_PARTS), tiles * (part + 1) // slot(a, PIXEL_PARTS)):
                seen_by = places(seen, slot(a, PLACES) + tile * pixels * 4)
                run(slot(a, TERMS), slot(a, OFFSETS), weights, seen_by, sums)
                finish_tile(a, vectors, pixels, sums, known, image, first, tile)

    return conv


@functools.cache
def dense_of(images: int):
    """The kernel for few images with one position each, `images` at a time: the weights are read as they lie.

    A unit is `TURNED` blocks of outputs for all images.
    """
    run, rows, places = turning_of(TURNED, images), rows_of(TURNED * LANES), places_of(images)
    sums_room, constants_room = stack_of(TURNED * images), stack_of(CONSTANTS * TURNED)

    @native(f"dense for {images} images")
    def dense(a, unit):
        sums, known = sums_room(), constants_room()
        first = unit * TURNED
        last = slot(a, WEIGHTS) + (slot(a, OUTPUTS) - 1) * slot(a, ROW)
        weights = rows(slot(a, WEIGHTS) + first * LANES * slot(a, ROW), slot(a, ROW), last)
        there = min(TURNED, slot(a, VECTORS) - first)
        for i in range(there):
            constants(a, first + i, known + i * CONSTANTS * VECTOR)
        for tile in range(slot(a, TILES)):
            seen_by = places(slot(a, X), slot(a, PLACES) + tile * images * 4)
            run(slot(a, TERMS), slot(a, OFFSETS), weights, seen_by, sums)
            finish_tile(a, there, images, sums, known, 0, first, tile)

    return dense


# The slots of `pack`, which lays weights out as a tile reads them.
(
    SOURCE,
    SOURCE_ROW,  # bytes from one output's weights to the next
    SOURCE_OUTPUTS,
    SOURCE_TERMS,
    TARGET,  # (tile, term, vectors, 16)
    TILE_VECTORS,
    ALL_VECTORS,
    WHERE,  # int32 of each term: where in an output's weights it is, in bytes; 0 for one after the other
    OWNERS,  # int32 of each term: the group of outputs that sees it, the others having weights of 0; 0 for all
    OWN,  # outputs of a group
    FIRST,  # the first output
) = range(11)


@native("pack weights for 16 channels")
def pack(a, unit):
    """Tile `unit`. Outputs that fill up a vector repeat the last one: nobody reads what becomes of them."""
    vectors, terms, row = slot(a, TILE_VECTORS), slot(a, SOURCE_TERMS), slot(a, SOURCE_ROW)
    first = min(unit * vectors, slot(a, ALL_VECTORS) - vectors)
    last = slot(a, SOURCE) + (slot(a, SOURCE_OUTPUTS) - 1) * row
    stride = vectors * VECTOR
    for i in range(vectors):
        source = slot(a, SOURCE) + (first + i) * LANES * row
        target = slot(a, TARGET) + unit * terms * stride + i * VECTOR
        if slot(a, WHERE) == 0:
            for k in range(0, terms, LANES):
                turn(pack_rows(source + k * 4, row, last + k * 4), min(LANES, terms - k), target + k * stride, stride)
        else:
            for k in range(terms):
                where = offset_at(slot(a, WHERE) + k * 4)
                for lane in range(LANES):
                    own = slot(a, FIRST) + min((first + i) * LANES + lane, slot(a, SOURCE_OUTPUTS) - 1)
                    value = ZERO
                    if slot(a, OWNERS) == 0 or offset_at(slot(a, OWNERS) + k * 4) == own // slot(a, OWN):
                        value = float_at(min(source + lane * row, last) + where)
                    put_float(target + k * stride + lane * 4, value)


pack_rows = rows_of(LANES)
