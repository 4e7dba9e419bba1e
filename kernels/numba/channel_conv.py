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
from gpucnn.kernels.numba.channel_tiles import (
    CONSTANTS,
    broadcast_of,
    lanewise_of,
    rows,
    sliding_of,
    turn,
    turning_of,
)
from gpucnn.kernels.numba.compiler import inner
from gpucnn.kernels.numba.fingerprint import FINGERPRINT, is_new
from gpucnn.kernels.numba.native import native
from gpucnn.kernels.numba.simd import LANES, add, divide, splat, sqrt

ZERO, ONE = np.float32(0), np.float32(1)

# The slots of a convolution. Addresses and strides are in bytes; 0 for an address says that there is no such thing.
(
    X,  # the first image's values, as the first channel of the convolution's group sees them
    X_IMAGE,  # from one image to the next
    TERMS,  # two int32 of each term: what it adds to a pixel's place, and where its weights are in a tile's
    TILE_TERMS,  # two int32 of each tile of pixels: its first term, and how many it has
    WEIGHTS,  # (tile of channels, term, vectors, 16) as `pack` lays them, or the rows as they lie
    WEIGHTS_TILE,  # from one tile's weights to the next
    PLACES,  # int32 of each pixel, or of several that are side by side: where its first tap would be
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
    COUNT,  # terms, where they are the same for all
    X_BLOCK,  # from what one block of outputs sees to what the next sees: 0 unless depthwise
) = range(33)


@inner
def constants(a, at, room):
    """Bias, mean, 1 / sqrt(var + eps), gamma and beta of 16 channels, `at` bytes into each, to `room`."""
    if slot(a, BIAS):
        put_vector(room, vector_at(slot(a, BIAS) + at))
    if slot(a, MEAN):
        put_vector(room + VECTOR, vector_at(slot(a, MEAN) + at))
        eps = vector_at(slot(a, EPS))
        inverse = divide(splat(ONE), sqrt(add(vector_at(slot(a, VARIANCE) + at), eps)))
        put_vector(room + 2 * VECTOR, inverse)
        put_vector(room + 3 * VECTOR, vector_at(slot(a, GAMMA) + at))
        put_vector(room + 4 * VECTOR, vector_at(slot(a, BETA) + at))


@inner
def ends_of(a, known, y_first, other_first, tile, pixels):
    """What a tile is told of its end, see channel_tiles.py: its image and channels begin so many bytes into y and the
    addend.
    """
    other = slot(a, ADDEND)
    if other:
        other += other_first
    y = slot(a, Y) + y_first
    results = slot(a, RESULTS) + tile * pixels // slot(a, POOL) * 4
    addends = slot(a, ADDEND_PLACES) + tile * pixels * 4
    about = known, slot(a, BIAS), slot(a, MEAN), slot(a, RELU), slot(a, POOL)
    return *about, y, slot(a, Y_BLOCK), results, other, slot(a, ADDEND_BLOCK), addends


@functools.cache
def conv_of(vectors: int, places: int, together: int = 1, apart: int = 0, taps: int = 1, depthwise: bool = False):
    """The kernel with tiles of `vectors` blocks of channels by `places * together` pixels, see channel_tiles.py.

    `taps` above 1 is for whole kernel rows and one block of channels.
    """
    if depthwise:
        run = lanewise_of(places)
    elif taps > 1:
        run = sliding_of(places, together, taps, apart)
    else:
        run = broadcast_of(vectors, places, together, apart)
    room, pixels = stack_of(CONSTANTS * vectors), places * together
    several = f" by {together} pixels {apart} bytes apart" if together > 1 else ""
    several += f", {taps} taps" if taps > 1 else ""

    @native(f"{'depthwise ' if depthwise else ''}conv {vectors}x{places}{several} of 16 channels")
    def conv(a, unit):
        rest, part = unit // slot(a, PIXEL_PARTS), unit % slot(a, PIXEL_PARTS)
        group, chunk = rest // slot(a, VECTOR_PARTS), rest % slot(a, VECTOR_PARTS)
        number = (slot(a, VECTORS) + vectors - 1) // vectors
        image = min(group * slot(a, GROUP), slot(a, IMAGES) - slot(a, GROUP))
        x, known = slot(a, X) + image * slot(a, X_IMAGE), room()
        first_tile = slot(a, TILES) * part // slot(a, PIXEL_PARTS)
        last_tile = slot(a, TILES) * (part + 1) // slot(a, PIXEL_PARTS)
        for n in range(number * chunk // slot(a, VECTOR_PARTS), number * (chunk + 1) // slot(a, VECTOR_PARTS)):
            first = min(n * vectors, slot(a, VECTORS) - vectors)
            for i in range(vectors):
                constants(a, (first + i) * VECTOR, known + i * CONSTANTS * VECTOR)
            weights = slot(a, WEIGHTS) + n * slot(a, WEIGHTS_TILE)
            seen = x + first * slot(a, X_BLOCK)
            y_first = image * slot(a, Y_IMAGE) + first * slot(a, Y_BLOCK)
            other_first = image * slot(a, ADDEND_IMAGE) + first * slot(a, ADDEND_BLOCK)
            for tile in range(first_tile, last_tile):
                terms = slot(a, TILE_TERMS) + tile * 8
                ends = ends_of(a, known, y_first, other_first, tile, pixels)
                table = slot(a, PLACES) + tile * places * 4
                run(offset_at(terms + 4), slot(a, TERMS) + offset_at(terms) * 8, weights, seen, table, ends)

    return conv


@functools.cache
def dense_of(groups: int, images: int):
    """The kernel for few images with one position each, `images` at a time: the weights are read as they lie.

    A unit is 16 * groups outputs for all images: one's sums run while another's weights are turned. The last unit
    overlaps the one before, unless groups is 1: then outputs that fill up a vector repeat the last one.
    """
    run, room = turning_of(groups, images), stack_of(CONSTANTS * groups)

    @native(f"dense of {groups} blocks for {images} images")
    def dense(a, unit):
        known, first = room(), unit * groups * LANES
        if groups > 1:
            first = min(first, slot(a, OUTPUTS) - groups * LANES)
        for i in range(groups):
            constants(a, first * 4 + i * VECTOR, known + i * CONSTANTS * VECTOR)
        weights, row = slot(a, WEIGHTS) + first * slot(a, ROW), slot(a, ROW)
        last = slot(a, WEIGHTS) + (slot(a, OUTPUTS) - 1) * row
        for tile in range(slot(a, TILES)):
            ends = ends_of(a, known, first * 4, first * 4, tile, images)
            table = slot(a, PLACES) + tile * images * 4
            run(slot(a, COUNT), slot(a, TERMS), weights, row, last, slot(a, X), table, ends)

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
    PRINTS,  # a fingerprint of each tile's weights, all of them zero at first
    WHOLE,  # bytes of weights that each tile depends on, from SOURCE on; 0 where its own rows are all
) = range(13)


@inner
def pack_tile(a, unit, vectors, first):
    """The weights of `vectors` blocks of outputs from `first` on, as tile `unit`. Outputs that fill up a vector repeat
    the last one: nobody reads what becomes of them.
    """
    terms, row = slot(a, SOURCE_TERMS), slot(a, SOURCE_ROW)
    last = slot(a, SOURCE) + (slot(a, SOURCE_OUTPUTS) - 1) * row
    stride = vectors * VECTOR
    for i in range(vectors):
        source = slot(a, SOURCE) + (first + i) * LANES * row
        target = slot(a, TARGET) + unit * terms * stride + i * VECTOR
        if slot(a, WHERE) == 0:
            for k in range(0, terms, LANES):
                turn(rows(source + k * 4, row, last + k * 4), min(LANES, terms - k), target + k * stride, stride)
        else:
            for k in range(terms):
                where = offset_at(slot(a, WHERE) + k * 4)
                for lane in range(LANES):
                    own = slot(a, FIRST) + min((first + i) * LANES + lane, slot(a, SOURCE_OUTPUTS) - 1)
                    value = ZERO
                    if slot(a, OWNERS) == 0 or offset_at(slot(a, OWNERS) + k * 4) == own // slot(a, OWN):
                        value = float_at(min(source + lane * row, last) + where)
                    put_float(target + k * stride + lane * 4, value)


@native("pack weights for 16 channels")
def pack(a, unit):
    """Tile `unit`, unless its weights are what they were when it was packed last."""
    vectors, row = slot(a, TILE_VECTORS), slot(a, SOURCE_ROW)
    first = min(unit * vectors, slot(a, ALL_VECTORS) - vectors)
    weights, size = slot(a, SOURCE), slot(a, WHOLE)
    if size == 0:
        weights += first * LANES * row
        size = min(vectors * LANES, slot(a, SOURCE_OUTPUTS) - first * LANES) * row
    known = slot(a, PRINTS) + unit * FINGERPRINT
    if not is_new(weights, size, known):
        return
    pack_tile(a, unit, vectors, first)
    if is_new(weights, size, known):  # somebody was changing them: once more, then, next time
        for k in range(0, FINGERPRINT, VECTOR):
            put_vector(known + k, splat(ZERO))
