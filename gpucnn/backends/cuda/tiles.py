"""The choice of a CUDA kernel's register tile by shape and number of multiprocessors.

Time is in cycles of a scheduler that issues one warp instruction per cycle; a multiprocessor has four, which share one
path of 128 bytes a cycle from L1 and shared memory to the registers. Large tiles spend their instructions on
multiply-adds, small ones make enough warps to fill a GPU with a small batch. If few warps share a scheduler, each step
also waits for its loads. The model only has to rank tiles, and no bit depends on it: each function returns the tiles
that a kernel may have, those first that should take the least time.
"""

import functools
import math

Tile = tuple[int, ...]

_SCHEDULERS = 4  # per multiprocessor
_SHARED_BYTES = 16 * 1024  # of weights that a block of threads holds at once
_SHARED_LIMIT = 48 * 1024
_LOAD_CYCLES = 450  # until pixels arrive from L2 or memory: what the measured totals ask for
_AHEAD = 60  # conv.cu's MOST_AHEAD: pixels that a thread may fetch for the next channel
_FETCH = 43  # instructions for the weights that conv.cu's fetch_weights moves at once, two such sets being in flight
_REGISTER_FILE = 512  # registers per lane, for all warps of a scheduler
_OVERHEAD = 45  # registers for addresses and weights
_WIDEST_ROW = 24  # pixels of a row in registers
_REGISTERS = 205  # for sums and operands of a weight gradient's tile
_UNROLLED = 1200  # multiply-adds in its inner loop
_BYTES_PER_CYCLE = 1500


def _time(each: float, instructions: float, loads: float, waits: float, registers: int) -> float:
    """Cycles of a scheduler for `each` warps of `instructions` instructions, plus `waits` cycles of waiting for loads.

    `loads` are those instructions' loads in units of 128 bytes.
    """
    resident = min(16, _REGISTER_FILE / (registers + _OVERHEAD))
    issue, path = instructions * max(each, 1.0), _SCHEDULERS * loads * each
    return max(issue, path, (instructions + waits) * max(1.0, each / resident))


def _fullest(blocks: int, warps: int, processors: int) -> float:
    """Warps a scheduler on the multiprocessor with the most of `blocks` blocks of threads of `warps` warps each."""
    return -(-blocks // processors) * warps / _SCHEDULERS


@functools.cache
def conv_tiles(
    outputs: int, channels: int, output: tuple, kernel: tuple, stride: int, dilation: int, blocks: int, processors: int
) -> tuple[Tile, ...]:
    """(OB, QB, WK, WP, CC, SB) of conv.cu for `outputs` and `channels` of one group, `stride` and `dilation` along
    rows.

    Raises ValueError for a kernel with more taps than fit in shared memory.
    """
    taps, taps_row = math.prod(kernel), kernel[2]
    times: dict[Tile, float] = {}
    for ob in (1, 2, 4, 6, 8):
        if ob > outputs or _bytes(1, taps, ob) > _SHARED_LIMIT:
            continue
        for qb in (1, 2, 3, 4, 5, 6, 7, 8):
            sb = min(taps_row, max(1, (_WIDEST_ROW - 1 - (qb - 1) * stride) // dilation + 1), 7)
            row = (qb - 1) * stride + (sb - 1) * dilation + 1
            if qb > output[2] or ob * qb > 64 or (row > _WIDEST_ROW and qb > 1):
                continue
            pixels = min(row, qb * sb) * -(-taps_row // sb)
            step = taps_row * ob * qb + pixels + taps_row * -(-ob // _together(ob)) + 8
            tiles = blocks * output[0] * output[1] * -(-output[2] // qb)
            wk, wp, cc = _block(ob, outputs, channels, taps, tiles, processors)
            fetch, fetch_waits = _fetch(ob * wk, wk * wp, cc, channels, taps)
            rows = kernel[0] * kernel[1]
            steps = channels * rows
            ahead = rows > 2 and sb >= taps_row and rows * row <= _AHEAD
            # Pixels that come a channel ahead only keep a channel from taking less time than they do.
            waits = max(0, channels * _LOAD_CYCLES - steps * step) if ahead else steps * _LOAD_CYCLES
            time = _time(
                _fullest(-(-tiles // wp) * -(-outputs // (ob * wk)), wk * wp, processors),
                steps * step + fetch,
                steps * (pixels + taps_row * ob),
                waits + fetch_waits,
                ob * qb + row * (rows if ahead else 1),
            )
            times[ob, qb, wk, wp, cc, sb] = time
    if not times:
        raise ValueError(f"a kernel of {taps} taps is too large for the GPU; at most {_SHARED_LIMIT // 4} fit")
    return tuple(sorted(times, key=times.__getitem__))


@functools.cache
def pooled_conv_tiles(
    outputs: int, channels: int, output: tuple, kernel: tuple, blocks: int, processors: int
) -> tuple[Tile, ...]:
    """The same for conv.cu's convolution with 2x2 max pooling, QB maxima a tile; none if its weights do not fit.

    `output` are the maxima's sizes.
    """
    taps = math.prod(kernel)
    times: dict[Tile, float] = {}
    for ob in (1, 2, 4, 8):
        if ob > outputs or _bytes(1, taps, ob) > _SHARED_LIMIT:
            continue
        for qb in (1, 2, 3, 4, 5, 6, 7):
            row = 2 * qb + kernel[2] - 1
            if qb > output[2] or 4 * ob * qb > 64 or row > _WIDEST_ROW:
                continue
            step = kernel[2] * 2 * (2 * ob * qb + -(-ob // _together(ob))) + row + 12
            tiles = blocks * output[1] * -(-output[2] // qb)
            wk, wp, cc = _block(ob, outputs, channels, taps, tiles, processors)
            fetch, fetch_waits = _fetch(ob * wk, wk * wp, cc, channels, taps)
            steps = channels * (kernel[1] + 1)
            time = _time(
                _fullest(-(-tiles // wp) * -(-outputs // (ob * wk)), wk * wp, processors),
                steps * step + fetch,
                steps * (row + 2 * kernel[2] * ob),
                steps * _LOAD_CYCLES + fetch_waits,
                4 * ob * qb + row,
            )
            times[ob, qb, wk, wp, cc, kernel[2]] = time
    return tuple(sorted(times, key=times.__getitem__))


def _block(ob: int, outputs: int, channels: int, taps: int, tiles: int, processors: int) -> tuple[int, int, int]:
    """(WK, WP, CC): the warps that share a block's weights, and the weights' channels, for `tiles` tiles of pixels."""
    wide = -(-outputs // ob)
    wk = -(-wide // -(-wide // 4))  # four warps at most, evenly filled
    while wk > 1 and _bytes(1, taps, ob * wk) > _SHARED_LIMIT:
        wk -= 1
    few = tiles * -(-outputs // (ob * wk)) < 8 * processors
    wp = max(1, min((4 if few else 8) // wk, tiles))
    return wk, wp, max(1, min(channels, _SHARED_BYTES // _bytes(1, taps, ob * wk)))


def _fetch(outputs: int, warps: int, together: int, channels: int, taps: int) -> tuple[int, int]:
    """A warp's instructions and cycles of waiting for the weights of `outputs` outputs, `together` channels at a time,
    which `warps` warps fetch.
    """
    sets = -(-together * taps * (outputs // _together(outputs)) // (32 * warps))
    times = -(-channels // together)
    return times * sets * _FETCH, times * -(-sets // 2) * _LOAD_CYCLES


def _together(outputs: int) -> int:
    """conv.cu's TOGETHER: how many outputs' weights are moved at once."""
    return 4 if outputs % 4 == 0 else 2 if outputs % 2 == 0 else 1


def _bytes(channels: int, taps: int, tile: int) -> int:
    """Bytes of shared memory for the weights of `channels` channels."""
    return channels * taps * (1 if tile == 1 else -(-tile // 4) * 4 + 4) * 4


@functools.cache
def gradient_tiles(
    outputs: int,
    channels: int,
    groups: int,
    output: tuple,
    kernel: tuple,
    stride: int,
    dilation: int,
    band: int,
    blocks: int,
    processors: int,
) -> tuple[Tile, ...]:
    """(OB, CB, RB, SB, AHEAD, WARPS, BANDS) of conv.cu's weight gradient; `band` rows a band, axes as in conv_tiles."""
    bands = -(-output[0] * output[1] // band)
    weights = groups * outputs * channels * math.prod(kernel)
    rb, sb = min(kernel[1], 5), min(kernel[2], 5)
    span = (sb - 1) * dilation + 1  # pixels of a row under the taps, of which the position before does not see `new`
    new = min(span, stride)
    times: dict[Tile, float] = {}
    for ob in (1, 2, 3, 4, 6, 8):
        for cb in (1, 2, 4, 8):
            for ahead in (1, 2, 4):
                sums, operands = ob * cb * rb * sb, ob * (ahead + 1) + cb * rb * (span + ahead * new)
                unrolled = 2 ** (ahead + -(-span // stride) - 1).bit_length()
                small = ob == cb == ahead == 1
                if not small and (ob > outputs or cb > channels or ahead > output[2] or sums + operands > _REGISTERS):
                    continue
                if not small and (sums > 150 or span > _WIDEST_ROW or unrolled * sums > _UNROLLED):
                    continue
                tiles = groups * math.prod(
                    -(-a // b)
                    for a, b in ((outputs, ob), (channels, cb), (kernel[0], 1), (kernel[1], rb), (kernel[2], sb))
                )
                loads = ob + cb * rb * new
                step = sums + 1.3 * loads + 6
                a_band = band * (output[2] * step + 30) + 6 * sums + 100
                # A row waits for its first position, and later ones take no less time than their loads.
                late = max(0, _LOAD_CYCLES / ahead - step)
                waits = band * (_LOAD_CYCLES + output[2] * late)
                together = 1
                while True:
                    groups_of_bands = -(-bands // together)
                    turns, path = min(together, bands), band * output[2] * loads
                    each = tiles * blocks * groups_of_bands / (_SCHEDULERS * processors)
                    time = _time(each, turns * a_band, turns * path, turns * waits, sums + operands)
                    time += 2 * blocks * groups_of_bands * weights * 8 / _BYTES_PER_CYCLE
                    # The tree over bands keeps its slots in shared memory, where last_of has a byte as well.
                    fits = 4 * 32 * 4 * -(-sums // 16) * together.bit_length() < _SHARED_LIMIT
                    if fits:
                        times[ob, cb, rb, sb, ahead, min(4, tiles), together] = time
                    if together >= bands:
                        break
                    together *= 2
    return tuple(sorted(times, key=times.__getitem__))


@functools.cache
def dense_tiles(outputs: int, blocks: int, processors: int) -> tuple[Tile, ...]:
    """(OB, NB) of dense.cu: the largest tile that still makes two warps for each scheduler, then the smaller ones."""
    tiles: tuple[Tile, ...] = (8, 2), (8, 1), (4, 1), (2, 1)

    def starves(tile: Tile) -> bool:
        return -(-outputs // tile[0]) * -(-blocks // tile[1]) < 2 * _SCHEDULERS * processors

    first = next((number for number, tile in enumerate(tiles) if not starves(tile)), len(tiles) - 1)
    return tiles[first:] + tiles[:first][::-1]
