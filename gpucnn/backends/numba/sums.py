"""Convolutions and dense layers in a program: their tiles, tables and packed weights."""

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gpucnn.backends.numba.channel_blocks import Blocks, Three, address, aligned, furthest
from gpucnn.backends.numba.tiles import accumulators
from gpucnn.backends.numba.tiling import Arrangement, Tile, arrange, arranged, pixels_of
from gpucnn.backends.spatial import phases, three, window3d
from gpucnn.geometry import Window
from gpucnn.inference.graph import Node
from gpucnn.kernels.numba import channel_conv as conv
from gpucnn.kernels.numba.fingerprint import FINGERPRINT
from gpucnn.kernels.numba.simd import LANES

if TYPE_CHECKING:
    from gpucnn.backends.numba.program import Program

OPERATIONS = ("conv", "dense", "transposed conv")
# Unless its weights are steady, a dense layer on so many images or fewer reads them as they lie; on the smaller number
# where one output's are a multiple of 4 KiB from the next one's, because a line of each of them then falls into one set
# of the first cache.
_FEW, _FEW_ALIASED, _ALIAS = 8, 2, 4096
# It reads a map channel by channel, and each time all lines of a block of channels, of some eight images at once. Where
# they take more bytes they do not stay in the first cache, so it reads a flat copy. Packed weights need room there too.
_NEAR, _NEAR_BESIDE_PACKED = 40 << 10, 20 << 10
# A unit of work should take so many cycles at least.
_UNIT = 2_000
# Bytes between two pixels for which there are kernels that take several of them.
_APART = (4, 64)
# Cycles that it takes to see that a vector of weights is the same as before.
_LOOK = 2.0
# Cycles that pooling takes for each value of a window, where it is a pass of its own.
_POOLED = 4
# Reading what another core has just written takes so many times as long as reading weights, where they do not share a
# cache.
_FOREIGN = 4


class Sum:
    """A convolution or dense layer, and what follows it in its tiles."""

    def __init__(self, node: Node):
        self.node = self.last = node
        self.relu = bool(node.settings.get("relu"))
        self.bias = node.settings.get("bias")
        self.norm: Node | None = None
        self.addend: Node | None = None
        self.pool: Window | None = None

    def takes(self, following: Node, computed: set[int], images: int, together: int) -> bool:
        """Whether `following` becomes a part of this; `computed` are the ids of the nodes known by now, `together`
        images are computed by one thread (see Lowered).
        """
        settings, operation = following.settings, following.operation
        if self.pool is not None:
            return False
        if operation == "max pool":
            window = settings["window"]
            if self.node.operation != "conv" or not is_partition(window) or math.prod(window.kernel) not in (2, 4, 8):
                return False
            if not self._pools_better(settings["window"], images, together):
                return False
            self.pool = settings["window"]
        elif operation == "elementwise" and settings["name"] == "relu":
            self.relu = True
        elif self.relu or self.addend is not None:
            return False
        elif operation == "batch norm" and self.norm is None:
            self.norm, self.relu = following, settings["relu"]
        elif operation == "add bias" and self.norm is None and self.bias is None:
            self.bias, self.relu = settings["bias"], settings["relu"]
        elif operation == "add":
            others = [node for node in following.inputs if node is not self.last]
            if len(others) != 1 or id(others[0]) not in computed:
                return False
            self.addend, self.relu = others[0], settings["relu"]
        else:
            return False
        self.last = following
        return True

    def _pools_better(self, pool: Window, images: int, together: int) -> bool:
        """Whether tiles of whole windows take less time than others, which leave out more padding, and a pass."""
        settings = self.node.settings
        blocks = -(-len(settings["w"]) // LANES)
        common = settings["w"].shape[1], images, blocks, together, True, is_depthwise(self.node)
        within = arranged(settings["window"], pool, *common).cycles
        values = images * blocks * math.prod(pool.output) * math.prod(pool.kernel)
        return within <= arranged(settings["window"], None, *common).cycles + values * _POOLED


def is_partition(window: Window) -> bool:
    """Whether windows of pooling are side by side, and none reaches outside the image."""
    return (
        window.kernel == window.stride
        and all(pads == (0, 0) for pads in window.padding)
        and all(d == 1 for d in window.dilation)
        and all(k * o <= i for k, o, i in zip(window.kernel, window.output, window.input, strict=True))
    )


def is_depthwise(node: Node) -> bool:
    """Whether each channel of a convolution sees itself alone."""
    w, groups = node.settings["w"], node.settings["groups"]
    return groups == len(w) and w.shape[1] == 1 and groups > 1


def borders(node: Node, size: Three) -> tuple[Three, Three]:
    """How far an operation of OPERATIONS looks past its input of `size`, (before, after)."""
    before: Three = (0, 0, 0)
    after: Three = (0, 0, 0)
    if node.operation == "conv":
        w = window3d(node.settings["window"])
        sizes = zip(w.output, w.stride, w.kernel, w.dilation, w.before, strict=True)
        last = [(o - 1) * s + (k - 1) * d - b for o, s, k, d, b in sizes]
        before, after = w.before, _past(last, size)
    elif node.operation == "transposed conv":
        w = window3d(node.settings["window"])
        for phase in phases(node.settings["window"]):
            pixels = [len(range(i)[part]) for part, i in zip(phase.pixels, w.input, strict=True)]
            taps = [len(range(k)[part]) for part, k in zip(phase.taps, w.kernel, strict=True)]
            last = [p - 1 + (t - 1) * d - b for p, t, d, b in zip(pixels, taps, phase.dilation, phase.before)]
            before, after = furthest(before, phase.before), furthest(after, _past(last, size))
    return before, after


def _past(last: list[int], size: Three) -> Three:
    """How far the last pixels read are past a map of `size`."""
    depth, height, width = (max(0, far - i + 1) for far, i in zip(last, size, strict=True))
    return depth, height, width


def reads_packed(w: np.ndarray, images: int, steady: bool) -> bool:
    """Whether a dense layer reads its weights from a copy in the order of its tiles."""
    return steady or images > (_FEW_ALIASED if _is_aliased(w) else _FEW)


def _is_aliased(w: np.ndarray) -> bool:
    """Whether the same place of every row is in one set of the first-level cache."""
    return w.strides[0] % _ALIAS == 0


def is_near(x: Node, dense: Node, images: int, steady: bool) -> bool:
    """Whether a dense layer reads the map x as it lies. One image's lines stay in the second cache while they are read
    sixteen times, which costs no more than a copy; the network's own images may lie flat.
    """
    lines = min(images, 8) * math.prod(x.shape[1:]) * LANES * 4
    room = _NEAR_BESIDE_PACKED if reads_packed(dense.settings["w"], images, steady) else _NEAR
    return images == 1 or x.operation == "input" or lines <= room


class Sums:
    """Part of Lowered: the calls of a Sum."""

    images: int
    threads: int
    steady: bool
    together: int
    cycles: float
    program: "Program"
    _packs: list[tuple]
    # Lowered's own.
    _value: Callable[[Node], Blocks]
    _seen_through: Callable[[Node], Node]
    _norm_arrays: Callable[[Node], list[int]]

    def _sum(self, stage: Sum, y: Blocks) -> list[tuple]:
        make = {"conv": self._conv, "dense": self._dense, "transposed conv": self._transposed}
        return make[stage.node.operation](stage, y, self._ends(stage, y))

    def _ends(self, stage: Sum, y: Blocks) -> dict[int, int]:
        """The slots of what follows the sums."""
        slots = {conv.Y: y.address, conv.Y_IMAGE: y.image, conv.Y_BLOCK: y.block, conv.RELU: int(stage.relu)}
        slots |= {conv.POOL: math.prod(stage.pool.kernel) if stage.pool else 1, conv.IMAGES: self.images}
        if stage.bias is not None:
            slots[conv.BIAS] = address(stage.bias)
        if stage.norm is not None:
            numbers = (conv.MEAN, conv.VARIANCE, conv.GAMMA, conv.BETA, conv.EPS)
            slots |= dict(zip(numbers, self._norm_arrays(stage.norm), strict=True))
        if stage.addend is not None:
            other = self._value(stage.addend)
            slots |= {conv.ADDEND: other.address, conv.ADDEND_IMAGE: other.image, conv.ADDEND_BLOCK: other.block}
        return slots

    # ---- convolution -------------------------------------------------------------------------------------------------

    def _conv(self, stage: Sum, y: Blocks, ends: dict[int, int]) -> list[tuple]:
        node, settings = stage.node, stage.node.settings
        x, w, groups = self._value(node.inputs[0]), settings["w"], settings["groups"]
        window, geometry = settings["window"], window3d(settings["window"])
        taps = [
            x.at(*(t * d - b for t, d, b in zip(tap, geometry.dilation, geometry.before, strict=True)))
            for tap in itertools.product(*map(range, geometry.kernel))
        ]
        pixels = pixels_of(window, stage.pool)
        put = pixels if stage.pool is None else pixels[:: ends[conv.POOL]] // np.array(three(stage.pool.kernel, 1))
        near = x.pixel in _APART and geometry.stride[2] == geometry.dilation[2] == 1
        where = x, y, pixels * np.array(geometry.stride), put, pixels
        outputs, channels = len(w), w.shape[1]
        if is_depthwise(node):
            found = arranged(window, stage.pool, 1, self.images, y.blocks, self.together, False, True)
            return [self._call(stage, dict(ends), found, where, w, (0, outputs, w.strides[0]), [0], taps, {}, x.block)]
        calls = []
        for first, count, inside in _evened(_parts(groups, outputs // groups)):
            seen, more = range(inside[0] * channels, (inside[-1] + 1) * channels), {}
            if len(inside) > 1:
                each = range(channels * len(taps))
                more[conv.OWNERS] = self.program.table([g for g in inside for _ in each])
                more |= {conv.WHERE: self.program.table([k * 4 for _ in inside for k in each])}
                more |= {conv.OWN: outputs // groups, conv.FIRST: first}
            blocks = -(-count // LANES)
            found = arranged(window, stage.pool, len(seen), self.images, blocks, self.together, near, False)
            slots, rows = _from_block(ends, y, first // LANES), (first, count, w.strides[0])
            places = [x.channel(c) for c in seen]
            calls.append(self._call(stage, slots, found, where, w, rows, places, taps, more))
        return calls

    def _transposed(self, stage: Sum, y: Blocks, ends: dict[int, int]) -> list[tuple]:
        """One convolution of stride 1 for each phase of the stride."""
        settings = stage.node.settings
        x, w, groups = self._value(stage.node.inputs[0]), settings["w"], settings["groups"]
        geometry, calls = window3d(settings["window"]), []
        channels, own, all_taps = len(w) // groups, w.shape[1], math.prod(geometry.kernel)
        for phase in phases(settings["window"]):
            pixels = [range(size)[part] for part, size in zip(phase.pixels, geometry.input, strict=True)]
            numbers = [range(size)[part] for part, size in zip(phase.taps, geometry.kernel, strict=True)]
            steps = itertools.product(*(range(len(along)) for along in numbers))
            offsets = np.array([*steps], np.int64).reshape(-1, 3) * phase.dilation - phase.before
            taps = [x.at(*offset) for offset in offsets.tolist()]
            kernel = [int(np.ravel_multi_index(tap, geometry.kernel)) for tap in itertools.product(*numbers)]
            seen = np.array(list(itertools.product(*(range(len(along)) for along in pixels))))
            put = np.array(list(itertools.product(*pixels)))
            read = seen[:, None] + offsets
            inside = np.all((read >= 0) & (read < x.size), axis=2)
            if not taps:
                inside, taps, kernel = np.zeros((len(put), 1), bool), [0], [0]
            for first, count, owners in _parts(groups, own):
                # The weights of output o in channel c are at c * own + o of its group.
                pairs = [(g, c) for g in owners for c in range(g * channels, (g + 1) * channels)]
                where = [((c - g) * own * all_taps + tap) * 4 for g, c in pairs for tap in kernel]
                more = {conv.WHERE: self.program.table(where), conv.WHOLE: w.nbytes - first * all_taps * 4}
                if len(owners) > 1:
                    more[conv.OWNERS] = self.program.table([g for g, _ in pairs for _ in taps])
                    more |= {conv.OWN: own, conv.FIRST: first}
                found = arrange(inside, len(pairs), self.images, -(-count // LANES), together=self.together)
                slots, rows = _from_block(ends, y, first // LANES), (first, count, all_taps * 4)
                places = [x.channel(c) for _, c in pairs]
                calls.append(self._call(stage, slots, found, (x, y, seen, put, put), w, rows, places, taps, more))
        return calls

    def _call(
        self,
        stage: Sum,
        slots: dict[int, int],
        found: Arrangement,
        where: tuple,
        w: np.ndarray,
        rows: tuple[int, int, int],
        channels: list[int],
        taps: list[int],
        more: dict[int, int],
        x_block: int = 0,
    ) -> tuple:
        """A call for some of the outputs.

        `where` is (x, y, the input pixels of the first taps, the output pixels, those before pooling), pixels (d, h, w)
        as `found` numbers them; `rows` (first output, outputs, bytes from one's weights to the next); `channels` and
        `taps` are byte offsets, which make the terms; `more` are slots of the packing; `x_block` is not 0 for
        depthwise convolution.
        """
        x, y, seen, put, pixels = where
        tile, (first, count, row) = found.tile, rows
        blocks, terms = -(-count // LANES), len(channels) * len(taps)
        slots[conv.WEIGHTS] = self._pack(w, first * row, row, count, terms, tile.vectors, blocks, more)
        slots |= {conv.X: x.address, conv.X_IMAGE: x.image, conv.X_BLOCK: x_block, conv.VECTORS: blocks}
        slots |= {conv.WEIGHTS_TILE: terms * tile.vectors * LANES * 4, conv.GROUP: found.group}
        slots |= self._terms(found, channels, taps)
        every = _numbers(found)  # of the pixels of a group, tile by tile
        slots[conv.PLACES] = self.program.table(_places(x, seen, every[:: tile.together]))
        pool = slots[conv.POOL]
        slots[conv.RESULTS] = self.program.table(_places(y, put, every[::pool] // pool))
        if stage.addend is not None:
            slots[conv.ADDEND_PLACES] = self.program.table(_places(self._value(stage.addend), pixels, every))
        slots[conv.TILES] = len(found.cells)
        apart = int(x.pixel * (seen[1] - seen[0])[2]) if tile.together > 1 else 0
        kernel = conv.conv_of(tile.vectors, tile.places, tile.together, apart, tile.taps, x_block > 0)
        weights_weigh_more = terms * blocks * LANES * 4 > _FOREIGN * found.group * x.image
        return kernel, slots, self._split(slots, found, blocks, weights_weigh_more)

    def _terms(self, found: Arrangement, channels: list[int], taps: list[int]) -> dict[int, int]:
        """Tables of the terms: those of all tiles that have the same taps stand in one place."""
        kinds, which = np.unique(found.taps, axis=0, return_inverse=True)
        table: list[np.ndarray] = []
        starts: list[int] = []
        counts: list[int] = []
        places = np.add.outer(np.array(channels, np.int64), np.array(taps, np.int64))
        weights = np.arange(places.size, dtype=np.int64).reshape(places.shape) * found.tile.vectors * LANES * 4
        for kind in kinds:
            kind[np.arange(len(kind)) % found.tile.taps > 0] = False  # the kernel goes on from the first of a row
            starts.append(sum(counts))
            table.append(np.stack([places[:, kind], weights[:, kind]], axis=-1).reshape(-1))
            counts.append(table[-1].size // 2)
        table.append(np.zeros(2 * LANES, np.int64))  # a dense layer reads whole vectors of terms
        tiles = np.array([(starts[kind], counts[kind]) for kind in which.reshape(-1)])
        return {conv.TERMS: self.program.table(np.concatenate(table)), conv.TILE_TERMS: self.program.table(tiles)}

    def _pack(self, w: np.ndarray, at: int, row: int, outputs: int, terms: int, vectors: int, blocks: int, more) -> int:
        """Lay weights out for tiles of so many blocks, before the calls at hand and where they have changed since the
        last run; returns where they will be.
        """
        number = -(-blocks // vectors)
        target = self.program.keep(aligned(max(1, number * terms * vectors * LANES)))
        slots = {conv.SOURCE: address(w) + at, conv.SOURCE_ROW: row, conv.SOURCE_OUTPUTS: outputs}
        slots |= {conv.SOURCE_TERMS: terms, conv.TARGET: target, conv.TILE_VECTORS: vectors, conv.ALL_VECTORS: blocks}
        slots[conv.PRINTS] = self.program.keep(aligned(number * FINGERPRINT // 4))
        self._packs.append((conv.pack, slots | more, number, number * vectors * terms * _LOOK))
        return target

    def _split(self, slots: dict[int, int], found: Arrangement, blocks: int, by_outputs: bool) -> int:
        """Parts of the work; returns how many units there are.

        `by_outputs`: each thread should have outputs of its own. It reads only their weights, which it has packed
        itself, but all of the input.
        """
        groups, number = -(-self.images // found.group), -(-blocks // found.tile.vectors)
        self.cycles += found.cycles
        if self.together:
            slots |= {conv.PIXEL_PARTS: 1, conv.VECTOR_PARTS: 1}
            return groups
        wanted = max(1, min(int(found.cycles / _UNIT), 8 * self.threads) if self.threads > 1 else 1)
        least = min(number, self.threads) if by_outputs and groups < self.threads else 1
        pixel_parts = max(1, min(len(found.cells), -(-wanted // (groups * least))))
        vector_parts = max(least, min(number, -(-wanted // (groups * pixel_parts))))
        slots |= {conv.PIXEL_PARTS: pixel_parts, conv.VECTOR_PARTS: vector_parts}
        return groups * pixel_parts * vector_parts

    # ---- dense layers ------------------------------------------------------------------------------------------------

    def _dense(self, stage: Sum, y: Blocks, ends: dict[int, int]) -> list[tuple]:
        w, x = stage.node.settings["w"], self._value(self._seen_through(stage.node.inputs[0]))
        taps = [x.at(*pixel) for pixel in itertools.product(*map(range, x.size))]
        channels = [x.channel(c) for c in range(x.channels)]
        pixel, blocks = np.zeros((1, 3), np.int64), y.blocks
        if reads_packed(w, self.images, self.steady):
            # The images are the pixels of one.
            images, together, calls = self.images, self.together, []
            self.images, self.together = 1, 0
            inside = np.ones((images, len(taps)), bool)
            parts, shares = [(0, len(w), range(1))], 1
            if images == 1:
                shares = self.threads
            else:
                parts = _evened(parts)
            for first, count, _ in parts:
                found = arrange(inside, len(channels), 1, -(-count // LANES), shares=shares)
                found = Arrangement(found.tile, images, 1, found.cells, found.taps, found.cycles)
                where, rows = (x, y, pixel, pixel, pixel), (first, count, w.strides[0])
                slots = _from_block(ends | {conv.IMAGES: images}, y, first // LANES)
                calls.append(self._call(stage, slots, found, where, w, rows, channels, taps, {}))
            self.images, self.together = images, together
            return calls
        at_once = next(q for q in (1, 2, 4, 8) if q >= min(self.images, 8))
        groups = 4 if at_once == 4 else 2
        # Lines of 32 aliased rows drive each other out before they are read, those of 16 less: 84 us against 30.
        if len(w) < groups * LANES or accumulators() < 24 or _is_aliased(w):
            groups = 1
        cells = np.minimum(np.arange(-(-self.images // at_once) * at_once), self.images - 1).reshape(-1, at_once)
        found = Arrangement(Tile(groups, at_once), self.images, 1, cells, np.ones((len(cells), len(taps)), bool), 0)
        slots = ends | {conv.X: x.address, conv.VECTORS: blocks, conv.OUTPUTS: len(w), conv.TILES: len(cells)}
        slots |= {conv.WEIGHTS: address(w), conv.ROW: w.strides[0], conv.COUNT: len(channels) * len(taps)}
        slots |= self._terms(found, channels, taps)
        every = _numbers(found)
        slots[conv.PLACES] = self.program.table(_places(x, pixel, every))
        slots[conv.RESULTS] = self.program.table(_places(y, pixel, every))
        if stage.addend is not None:
            slots[conv.ADDEND_PLACES] = self.program.table(_places(self._value(stage.addend), pixel, every))
        units = -(-len(w) // (groups * LANES))
        self.cycles += blocks * len(cells) * -(-slots[conv.COUNT] // LANES) * max(40, 8 * at_once)
        return [(conv.dense_of(groups, at_once), slots, units)]


def _numbers(found: Arrangement) -> np.ndarray:
    """The numbers of the pixels of a group of images, tile by tile."""
    return (found.cells[..., None] * found.size + np.arange(found.size)).reshape(-1)


def _places(value: Blocks, pixels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Byte offsets of pixels (d, h, w) of a group's images; number n is pixel n % P of image n // P."""
    offsets = pixels @ np.array([value.plane, value.row, value.pixel])
    return numbers // len(pixels) * value.image + offsets[numbers % len(pixels)]


def _from_block(ends: dict[int, int], y: Blocks, block: int) -> dict[int, int]:
    """`ends` for the blocks of channels from `block` on."""
    slots = dict(ends)
    if block:
        slots[conv.Y] += block * y.block
        for number in (conv.BIAS, conv.MEAN, conv.VARIANCE, conv.GAMMA, conv.BETA):
            if slots.get(number):
                slots[number] += block * LANES * 4
        if slots.get(conv.ADDEND):
            slots[conv.ADDEND] += block * slots[conv.ADDEND_BLOCK]
    return slots


def _parts(groups: int, own: int) -> list[tuple[int, int, range]]:
    """(first output, outputs, the groups that they belong to) of the calls for groups of `own` outputs each.

    The first output is a multiple of 16, and all see the same channels, if need be with weights of 0.
    """
    if own % LANES == 0 or groups == 1:
        return [(g * own, own, range(g, g + 1)) for g in range(groups)]
    parts = []
    for first in range(0, groups * own, LANES):
        count = min(LANES, groups * own - first)
        parts.append((first, count, range(first // own, (first + count - 1) // own + 1)))
    return parts


def _evened(parts: list[tuple[int, int, range]]) -> list[tuple[int, int, range]]:
    """`_parts` with an odd number of blocks in two: three blocks have tiles of their own, the rest those of two."""
    found = []
    for first, count, inside in parts:
        blocks = -(-count // LANES)
        some = (blocks - 3) * LANES if blocks % 2 and blocks > 3 else 0
        found += [(first, some, inside)] * (some > 0) + [(first + some, count - some, inside)]
    return found
