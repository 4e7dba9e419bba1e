"""From a traced network to a program of native kernels, for so many images.

What follows a convolution or dense layer and has no other reader becomes the end of its tiles: batch norm, a residual
addition, ReLU, pooling without overlap. Each value is rounded where it would be if it were stored in between, so the
bits are the same.
"""

import functools
import itertools
import math
from collections.abc import Iterable

import numpy as np

from gpucnn.backends.numba import tiles
from gpucnn.backends.numba.channel_blocks import Blocks, address, aligned
from gpucnn.backends.numba.program import Program
from gpucnn.backends.spatial import phases, positions_per_band, three, window3d
from gpucnn.geometry import Window, pool_counts
from gpucnn.inference import Unplannable
from gpucnn.inference.trace import Graph, Node
from gpucnn.kernels.numba import channel_conv as conv
from gpucnn.kernels.numba import channel_group_norm
from gpucnn.kernels.numba import channel_maps as maps
from gpucnn.kernels.numba.simd import LANES
from gpucnn.resampling import as_arrays

_SUMS = ("conv", "dense", "transposed conv")
# A dense layer on so many images or fewer reads its weights as they lie.
_FEW = 16
# Below so many cycles of one thread it pays to have one.
_ALONE = 20_000
# A unit of work should take so many cycles at least.
_UNIT = 6_000


class Sum:
    """A convolution or dense layer, and what follows it in its tiles."""

    def __init__(self, node: Node):
        self.node = self.last = node
        self.relu = bool(node.settings.get("relu"))
        self.bias = node.settings.get("bias")
        self.norm: Node | None = None
        self.addend: Node | None = None
        self.pool: Window | None = None

    def takes(self, following: Node, computed: set[int]) -> bool:
        """Whether `following` becomes a part of this; `computed` are the ids of the nodes known by now."""
        settings, operation = following.settings, following.operation
        if self.pool is not None:
            return False
        if operation == "max pool" and self.node.operation == "conv" and _is_partition(settings["window"]):
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


def _is_partition(window: Window) -> bool:
    """Whether pooling takes 2, 4 or 8 pixels each, none twice and none outside the image."""
    return (
        window.kernel == window.stride
        and all(pads == (0, 0) for pads in window.padding)
        and math.prod(window.kernel) in (2, 4, 8)
        and all(k * o <= i for k, o, i in zip(window.kernel, window.output, window.input, strict=True))
    )


class Lowered:
    """`program`, with `source` and `target`: the slots of the calls that read the images and write the results.

    Raises Unplannable for an operation without a kernel.
    """

    def __init__(self, graph: Graph, images: int, threads: int):
        self.images, self.threads = images, threads
        self.program = Program(threads)
        self.cycles = 0.0
        self._graph = graph
        self._readers: dict[int, list[Node]] = {id(node): [] for node in graph.nodes}
        for node in graph.nodes:
            for before in dict.fromkeys(node.inputs):
                self._readers[id(before)].append(node)
        self._values: dict[int, Blocks] = {}
        self._free: dict[tuple, list[np.ndarray]] = {}
        self._packs: list[tuple] = []
        self._stages = self._fuse()
        self._plan_borders()
        self._emit()
        self.bytes = sum(array.nbytes for array in self.program._kept)
        self.program.finish(self.source, self.target, alone=self.cycles < _ALONE)

    # ---- which operations go together --------------------------------------------------------------------------------

    def _fuse(self) -> list[Sum | Node]:
        stages, computed, taken = [], set(), set()
        result = self._graph.nodes[-1]
        for node in self._graph.nodes:
            if id(node) in taken:
                continue
            stage: Sum | Node = node
            computed.add(id(node))
            if node.operation in _SUMS:
                stage = Sum(node)
                while stage.last is not result and len(self._readers[id(stage.last)]) == 1:
                    following = self._readers[id(stage.last)][0]
                    if not stage.takes(following, computed):
                        break
                    taken.add(id(following))
                    computed.add(id(following))
            stages.append(stage)
        return stages

    def _value(self, node: Node) -> Blocks:
        if id(node) not in self._values:
            self._values[id(node)] = Blocks.of(self.images, node.shape)
        return self._values[id(node)]

    def _seen_through(self, node: Node) -> Node:
        """The node whose values a dense layer reads: flattening moves nothing."""
        while node.operation == "reshape" and len(node.shape) == 1:
            node = node.inputs[0]
        return node

    def _plan_borders(self) -> None:
        """How far convolutions look past each map, and whether the images may stay planar."""
        planar = True
        first = self._graph.nodes[0]
        for stage in self._stages:
            node = stage.node if isinstance(stage, Sum) else stage
            if node.operation == "conv":
                source, w = self._value(node.inputs[0]), window3d(node.settings["window"])
                last = [(o - 1) * s + (k - 1) * d for o, s, k, d in zip(w.output, w.stride, w.kernel, w.dilation)]
                after = [max(0, far - b - i + 1) for far, b, i in zip(last, w.before, w.input)]
                source.reach(w.before, tuple(after))
                planar = planar and not (node.inputs[0] is first and _is_depthwise(node))
            elif node.operation == "transposed conv":
                source = self._value(node.inputs[0])
                geometry = window3d(node.settings["window"])
                for phase in phases(node.settings["window"]):
                    pixels = [len(range(size)[part]) for part, size in zip(phase.pixels, geometry.input)]
                    taps = [len(range(size)[part]) for part, size in zip(phase.taps, geometry.kernel)]
                    far = [p - 1 - b + (t - 1) * d for p, b, t, d in zip(pixels, phase.before, taps, phase.dilation)]
                    before = tuple(max(0, b) for b in phase.before)
                    source.reach(before, tuple(max(0, f - i + 1) for f, i in zip(far, source.size)))
            elif node.operation not in ("dense", "reshape", "input") or (
                node.operation == "reshape" and not self._is_free(node)
            ):
                planar = planar and first not in node.inputs
            if isinstance(stage, Sum) and stage.addend is first:
                planar = False
        if self._graph.nodes[-1] is first:
            planar = False
        self._value(first).planar = planar

    def _is_free(self, node: Node) -> bool:
        """Whether a reshape is only read by dense layers, which see through it."""
        if len(node.shape) != 1 or node is self._graph.nodes[-1]:
            return False
        return all(
            reader.operation == "dense" or (reader.operation == "reshape" and self._is_free(reader))
            for reader in self._readers[id(node)]
        )

    # ---- memory ------------------------------------------------------------------------------------------------------

    def _give(self, value: Blocks) -> None:
        free = self._free.get(value.geometry)
        if free:
            value.allocate(free.pop())
        else:
            value.allocate()
            assert value.memory is not None
            self.program.keep(value.memory)

    def _release(self, done: set[int]) -> None:
        """Memory of values whose readers are all done serves others."""
        for node in self._graph.nodes[:-1]:
            value = self._values.get(id(node))
            if value is None or value.memory is None or id(node) in self._released:
                continue
            if all(id(reader) in done for reader in self._final_readers(node)):
                self._released.add(id(node))
                self._free.setdefault(value.geometry, []).append(value.memory)

    def _final_readers(self, node: Node) -> tuple[Node, ...]:
        found = []
        for reader in self._readers[id(node)]:
            if reader.operation == "reshape" and self._is_free(reader):
                found += self._final_readers(reader)
            else:
                found.append(reader)
        return tuple(found)

    # ---- calls -------------------------------------------------------------------------------------------------------

    def _emit(self) -> None:
        program, done = self.program, set()
        self._released: set[int] = set()
        for stage in self._stages:
            node = stage.node if isinstance(stage, Sum) else stage
            if node.operation == "reshape" and self._is_free(node):
                continue
            last = stage.last if isinstance(stage, Sum) else node
            value = self._value(last)
            self._give(value)
            calls = self._calls_of(stage, value)
            for kernel, slots, units in self._packs:
                program.call(kernel, slots, units, once=True)
            self._packs = []
            program.begin()
            for kernel, slots, units in calls:
                made = program.call(kernel, slots, units)
                if node.operation == "input":
                    self.source = made
            following: Node | None = last
            while following is not None:
                done.add(id(following))
                if not isinstance(stage, Sum) or following is node:
                    break
                following = next(n for n in following.inputs if self._inside(stage, n))
            self._release(done)
        result = self._value(self._graph.nodes[-1])
        program.begin()
        slots = result.slots
        size = math.prod(self._graph.nodes[-1].shape) * 4
        self.target = program.call(
            maps.store_images,
            {**dict(enumerate(slots)), **self._sizes(result), maps.OWN + 1: size},
            self.images,
        )

    def _inside(self, stage: Sum, node: Node) -> bool:
        return node is not stage.addend

    def _sizes(self, value: Blocks) -> dict[int, int]:
        numbers = value.blocks, *value.size, value.channels
        return dict(zip((maps.BLOCKS, maps.DEPTH, maps.HEIGHT, maps.WIDTH, maps.CHANNELS), numbers, strict=True))

    def _calls_of(self, stage: Sum | Node, y: Blocks) -> list[tuple]:
        if isinstance(stage, Sum):
            return self._sum(stage, y)
        name = "_" + stage.operation.replace(" ", "_")
        if not hasattr(self, name):
            raise Unplannable(stage.operation)
        return getattr(self, name)(stage, y)

    def _map(self, kernel, node: Node, y: Blocks, own: Iterable[int], units: int | None = None) -> list[tuple]:
        """A call of a kernel of channel_maps."""
        slots = dict(enumerate(self._value(node.inputs[0]).slots if node.inputs else []))
        slots |= dict(enumerate(y.slots, maps.Y)) | self._sizes(y) | dict(enumerate(own, maps.OWN))
        self.cycles += y.images * y.blocks * y.positions * 4
        return [(kernel, slots, self.images * y.blocks if units is None else units)]

    def _input(self, node: Node, y: Blocks) -> list[tuple]:
        own = [y.lane, y.pixel]
        return self._map(maps.load_images, node, y, own, self.images * y.channels)

    def _reshape(self, node: Node, y: Blocks) -> list[tuple]:
        x = self._value(node.inputs[0])
        if len(node.shape) == 1:
            calls = self._map(maps.flatten_of(False), node, y, [], self.images)
            calls[0][1].update(self._sizes(x))
        elif len(node.inputs[0].shape) == 1:
            calls = self._map(maps.flatten_of(True), node, y, [], self.images)
        else:
            raise Unplannable("reshape of a map to a map")
        return calls

    def _elementwise(self, node: Node, y: Blocks) -> list[tuple]:
        numbers = aligned(16)
        numbers[: len(node.settings["numbers"])] = node.settings["numbers"]
        if node.settings["name"] not in maps.VALUES or len(node.settings["numbers"]) > 1:
            raise Unplannable(node.settings["name"])
        if node.settings["name"] != "relu":
            self.cycles += y.images * y.blocks * y.positions * 60
        return self._map(maps.elementwise_of(node.settings["name"]), node, y, [self.program.keep(numbers)])

    def _add(self, node: Node, y: Blocks) -> list[tuple]:
        calls = self._map(maps.add_maps, node, y, [int(node.settings["relu"])])
        calls[0][1].update(enumerate(self._value(node.inputs[1]).slots, maps.Z))
        return calls

    def _norm_arrays(self, node: Node) -> list[int]:
        settings = node.settings
        arrays = [address(settings[name]) for name in ("mean", "var", "gamma", "beta")]
        return [*arrays, self.program.keep(_filled(settings["eps"]))]

    def _batch_norm(self, node: Node, y: Blocks) -> list[tuple]:
        return self._map(maps.batch_norm, node, y, [*self._norm_arrays(node), int(node.settings["relu"])])

    def _add_bias(self, node: Node, y: Blocks) -> list[tuple]:
        return self._map(maps.add_bias, node, y, [address(node.settings["bias"]), int(node.settings["relu"])])

    def _pool(self, node: Node, y: Blocks, largest: bool, counts: int) -> list[tuple]:
        w = window3d(node.settings["window"])
        self.cycles += y.images * y.blocks * y.positions * (math.prod(w.kernel) * 3 + 10)
        own = [*w.input, *w.kernel, *w.stride, *w.dilation, *w.before, counts]
        return self._map(maps.pool_of(largest), node, y, own)

    def _max_pool(self, node: Node, y: Blocks) -> list[tuple]:
        return self._pool(node, y, True, 0)

    def _average_pool(self, node: Node, y: Blocks) -> list[tuple]:
        counts = pool_counts(node.settings["window"], node.settings["count_include_pad"])
        numbers = aligned(y.positions)
        numbers[...] = np.broadcast_to(counts, node.settings["window"].output).reshape(-1)
        return self._pool(node, y, False, self.program.keep(numbers))

    def _global_average_pool(self, node: Node, y: Blocks) -> list[tuple]:
        x = self._value(node.inputs[0])
        self.cycles += x.images * x.blocks * x.positions * 8
        return self._map(maps.global_avg_pool, node, y, [*x.size, positions_per_band(node.inputs[0].shape[1:])])

    def _resample(self, node: Node, y: Blocks) -> list[tuple]:
        axis = node.settings["axis"] + 3 - (len(node.shape) - 1)
        first, position, weight, start = as_arrays(node.settings["table"])
        arrays = [self.program.keep(np.ascontiguousarray(a)) for a in (first, position, weight, start)]
        self.cycles += y.images * y.blocks * y.positions * 20
        return self._map(maps.resample, node, y, [axis, *arrays])

    def _concatenate(self, node: Node, y: Blocks) -> list[tuple]:
        calls, at = [], 0
        for part in node.inputs:
            x = self._value(part)
            slots = dict(enumerate(x.slots)) | dict(enumerate(y.slots, maps.Y)) | self._sizes(y)
            calls.append(
                (maps.copy_channels, slots | {maps.CHANNELS: x.channels, maps.OWN: 0, maps.OWN + 1: at}, self.images)
            )
            at += x.channels
        # Two parts may share a block of channels, and with it no byte.
        return calls

    def _take_channels(self, node: Node, y: Blocks) -> list[tuple]:
        return self._map(maps.copy_channels, node, y, [node.settings["first"], 0], self.images)

    def _group_norm(self, node: Node, y: Blocks) -> list[tuple]:
        settings = node.settings
        gamma, beta = (0 if settings[name] is None else address(settings[name]) for name in ("gamma", "beta"))
        own = settings["groups"], gamma, beta, self.program.keep(_filled(settings["eps"])), int(settings["relu"])
        self.cycles += y.images * y.channels * y.positions * 10
        return self._map(channel_group_norm.group_norm, node, y, own, self.images * settings["groups"])

    def _softmax(self, node: Node, y: Blocks) -> list[tuple]:
        self.cycles += y.images * y.positions * (y.blocks * 60 + y.channels * 4)
        return self._map(maps.softmax, node, y, [], self.images)

    # ---- sums --------------------------------------------------------------------------------------------------------

    def _sum(self, stage: Sum, y: Blocks) -> list[tuple]:
        node = stage.node
        ends = self._ends(stage, y)
        if node.operation == "dense":
            return self._dense(stage, y, ends)
        if node.operation == "transposed conv":
            return self._transposed(stage, y, ends)
        return self._conv(stage, y, ends)

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

    def _pack(
        self, w: np.ndarray, at: int, row: int, outputs: int, terms: int, vectors: int, blocks: int, more=()
    ) -> int:
        """Lay weights out for tiles of so many blocks, before the calls at hand; returns where they will be."""
        number = -(-blocks // vectors)
        target = self.program.keep(aligned(max(1, number * terms * vectors * LANES)))
        slots = {conv.SOURCE: address(w) + at, conv.SOURCE_ROW: row, conv.SOURCE_OUTPUTS: outputs}
        slots |= {conv.SOURCE_TERMS: terms, conv.TARGET: target, conv.TILE_VECTORS: vectors, conv.ALL_VECTORS: blocks}
        self._packs.append((conv.pack, slots | dict(more), number))
        self.cycles += number * vectors * terms * (3 if not more else 40)
        return target

    def _pixels(self, slots: dict[int, int], x: Blocks, y: Blocks, stage: Sum, tile, seen, put, pixels) -> None:
        """The tables of pixels: where an image's pixels see their first tap, and where they are put.

        `seen` lists input pixels, `put` output pixels, and `pixels` those of an addend, each (d, h, w), in the order of
        the tiles.
        """
        _, q, group = tile
        pool = slots[conv.POOL]
        count = -(-group * len(seen) // q) * q

        def places(value: Blocks, pixels: list, length: int) -> int:
            every = [n * value.image + value.at(*pixel) for n in range(group) for pixel in pixels]
            repeats = every[-(len(pixels) // len(put)) :] if value is not y else every[-1:]
            while len(every) < length:
                every += repeats
            return self.program.table(every[:length])

        slots |= {conv.PLACES: places(x, seen, count), conv.RESULTS: places(y, put, count // pool)}
        slots |= {conv.TILES: count // q, conv.GROUP: group, conv.X_IMAGE: x.image}
        if stage.addend is not None:
            other = self._value(stage.addend)
            slots[conv.ADDEND_PLACES] = places(other, pixels, count)

    def _order(self, stage: Sum, size) -> list:
        """The pixels of a map in the order of the tiles: window by window where pooling follows."""
        if stage.pool is None:
            return list(itertools.product(*map(range, size)))
        kernel, output = three(stage.pool.kernel, 1), three(stage.pool.output, 1)
        taps = list(itertools.product(*map(range, kernel)))
        windows = itertools.product(*map(range, output))
        return [tuple(p * k + t for p, k, t in zip(place, kernel, tap)) for place in windows for tap in taps]

    def _split(self, slots: dict[int, int], tile, terms: int, blocks: int, cycles: float) -> int:
        """Parts of the work; returns how many units there are."""
        vectors, _, group = tile
        groups, number = -(-self.images // group), -(-blocks // vectors)
        self.cycles += cycles
        wanted = max(1, min(int(cycles / _UNIT), 8 * self.threads) if self.threads > 1 else 1)
        pixel_parts = max(1, min(slots[conv.TILES], -(-wanted // groups)))
        vector_parts = max(1, min(number, -(-wanted // (groups * pixel_parts))))
        slots |= {conv.PIXEL_PARTS: pixel_parts, conv.VECTOR_PARTS: vector_parts, conv.VECTORS: blocks}
        return groups * pixel_parts * vector_parts

    def _conv(self, stage: Sum, y: Blocks, ends: dict[int, int]) -> list[tuple]:
        node, settings = stage.node, stage.node.settings
        x, w, groups = self._value(node.inputs[0]), settings["w"], settings["groups"]
        geometry = window3d(settings["window"])
        taps = [
            x.at(*(t * d - b for t, d, b in zip(tap, geometry.dilation, geometry.before)))
            for tap in itertools.product(*map(range, geometry.kernel))
        ]
        put_size = three(stage.pool.output, 1) if stage.pool else geometry.output
        pixels = self._order(stage, geometry.output)
        seen = [tuple(p * s for p, s in zip(pixel, geometry.stride)) for pixel in pixels]
        put = list(itertools.product(*map(range, put_size)))
        outputs, channels, blocks = len(w), w.shape[1], y.blocks
        if _is_depthwise(node):
            tile = best_tile(len(taps), len(pixels), self.images, blocks, ends[conv.POOL], True)
            slots = dict(ends)
            slots[conv.WEIGHTS] = self._pack(w, 0, len(taps) * 4, outputs, len(taps), 1, blocks)
            self._pixels(slots, x, y, stage, tile, seen, put, pixels)
            slots |= {conv.X: x.address, conv.X_BLOCK: x.block, conv.OFFSETS: self.program.table(taps)}
            slots[conv.TERMS] = len(taps)
            cycles = self._tile_cycles(tile, slots, blocks, len(taps))
            return [(conv.conv_of(1, tile[1], True), slots, self._split(slots, tile, len(taps), blocks, cycles))]
        calls, own = [], outputs // groups
        for first, count, inside in _parts(groups, own):
            terms = [
                x.channel(c) + tap for c in range(inside[0] * channels, (inside[-1] + 1) * channels) for tap in taps
            ]
            more = {}
            if len(inside) > 1:
                each = range(channels * len(taps))
                more[conv.OWNERS] = self.program.table([g for g in inside for _ in each])
                more |= {conv.WHERE: self.program.table([k * 4 for _ in inside for k in each])}
                more |= {conv.OWN: own, conv.FIRST: first}
            weights = w, w.strides[0], first, count, more
            calls.append(self._part(stage, x, y, ends, weights, terms, seen, put, pixels))
        return calls

    def _part(self, stage, x: Blocks, y: Blocks, ends, weights, offsets, seen, put, pixels) -> tuple:
        """The call for some outputs, `weights` being (w, bytes of a row, first output, outputs, slots of `pack`)."""
        w, row, first, count, more = weights
        blocks, terms = -(-count // LANES), len(offsets)
        tile = best_tile(terms, len(seen), self.images, blocks, ends[conv.POOL], False)
        slots = self._from_block(ends, y, first // LANES)
        slots[conv.WEIGHTS] = self._pack(w, first * row, row, count, terms, tile[0], blocks, more)
        self._pixels(slots, x, y, stage, tile, seen, put, pixels)
        slots |= {conv.X: x.address, conv.OFFSETS: self.program.table(offsets), conv.TERMS: terms}
        cycles = self._tile_cycles(tile, slots, blocks, terms)
        return conv.conv_of(*tile[:2]), slots, self._split(slots, tile, terms, blocks, cycles)

    def _from_block(self, ends: dict[int, int], y: Blocks, block: int) -> dict[int, int]:
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

    def _tile_cycles(self, tile, slots: dict[int, int], blocks: int, terms: int) -> float:
        vectors, q, group = tile
        number = -(-self.images // group) * slots[conv.TILES] * -(-blocks // vectors)
        return number * (terms * step_cycles(vectors, q) + vectors * q * 2 + 20)

    def _dense(self, stage: Sum, y: Blocks, ends: dict[int, int]) -> list[tuple]:
        w, x = stage.node.settings["w"], self._value(self._seen_through(stage.node.inputs[0]))
        pixels = list(itertools.product(*map(range, x.size)))
        offsets = [x.channel(c) + x.at(*pixel) for c in range(x.channels) for pixel in pixels]
        row, blocks, terms = w.strides[0], y.blocks, len(offsets)
        slots = dict(ends) | {conv.X: x.address, conv.OFFSETS: self.program.table(offsets), conv.TERMS: terms}
        if self.images > _FEW:
            tile = (*best_tile(terms, self.images, 1, blocks, 1, False)[:2], self.images)
            slots[conv.WEIGHTS] = self._pack(w, 0, row, len(w), terms, tile[0], blocks)
            self._pixels(slots, x, y, stage, tile, *[[(0, 0, 0)]] * 3)
            cycles = self._tile_cycles(tile, slots, blocks, terms)
            return [(conv.conv_of(*tile[:2]), slots, self._split(slots, tile, terms, blocks, cycles))]
        at_once = next(q for q in (1, 2, 4, 8) if q >= min(self.images, 8))
        tile = 1, at_once, self.images
        self._pixels(slots, x, y, stage, tile, *[[(0, 0, 0)]] * 3)
        slots |= {conv.WEIGHTS: address(w), conv.ROW: row, conv.OUTPUTS: len(w), conv.VECTORS: blocks}
        units = -(-blocks // conv.TURNED)
        self.cycles += units * slots[conv.TILES] * -(-terms // LANES) * max(80, 16 * at_once)
        return [(conv.dense_of(at_once), slots, units)]

    def _transposed(self, stage: Sum, y: Blocks, ends: dict[int, int]) -> list[tuple]:
        """One convolution of stride 1 for each phase of the stride."""
        settings = stage.node.settings
        x, w, groups = self._value(stage.node.inputs[0]), settings["w"], settings["groups"]
        geometry, calls = window3d(settings["window"]), []
        channels, own, all_taps = len(w) // groups, w.shape[1], math.prod(geometry.kernel)
        for phase in phases(settings["window"]):
            pixels = [range(size)[part] for part, size in zip(phase.pixels, geometry.input, strict=True)]
            numbers = [range(size)[part] for part, size in zip(phase.taps, geometry.kernel, strict=True)]
            places = itertools.product(*(range(len(along)) for along in numbers))
            offsets = [
                x.at(*(t * d - b for t, d, b in zip(tap, phase.dilation, phase.before, strict=True))) for tap in places
            ]
            taps = [int(np.ravel_multi_index(tap, geometry.kernel)) for tap in itertools.product(*numbers)]
            seen = list(itertools.product(*(range(len(along)) for along in pixels)))
            put = list(itertools.product(*pixels))
            for first, count, inside in _parts(groups, own):
                # The weights of output o in channel c are at c * own + o of its group.
                pairs = [(g, c) for g in inside for c in range(g * channels, (g + 1) * channels)]
                where = [((c - g) * own * all_taps + tap) * 4 for g, c in pairs for tap in taps]
                more = {conv.WHERE: self.program.table(where)}
                if len(inside) > 1:
                    more[conv.OWNERS] = self.program.table([g for g, _ in pairs for _ in taps])
                    more |= {conv.OWN: own, conv.FIRST: first}
                terms = [x.channel(c) + offset for _, c in pairs for offset in offsets]
                weights = w, all_taps * 4, first, count, more
                calls.append(self._part(stage, x, y, ends, weights, terms, seen, put, put))
        return calls


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


def _is_depthwise(node: Node) -> bool:
    w, groups = node.settings["w"], node.settings["groups"]
    return groups == len(w) and w.shape[1] == 1 and groups > 1


def _filled(number: float) -> np.ndarray:
    """16 times a float32."""
    vector = aligned(LANES)
    vector[...] = np.float32(number)
    return vector


# ---- tiles -----------------------------------------------------------------------------------------------------------

# (blocks of channels, pixels) of a tile; the accumulators stay in registers.
_TILES = {24: ((1, 8), (2, 8), (3, 8), (1, 1), (2, 4), (4, 4)), 6: ((1, 4), (1, 1), (2, 2))}
_DEPTHWISE = {24: (8,), 6: (4,)}


def step_cycles(vectors: int, pixels: int) -> float:
    """One term of a tile: the multiply-adds, of which eight must be in flight, or the loads."""
    return max(vectors * pixels / 2, 4, (vectors + pixels + 1) / 2)


@functools.cache
def best_tile(terms: int, pixels: int, images: int, blocks: int, pool: int, depthwise: bool) -> tuple[int, int, int]:
    """(blocks of channels, pixels, images that share a table) for maps of so many pixels."""
    wide = tiles.accumulators()
    if depthwise:
        choices = [(1, q) for q in _DEPTHWISE[wide]]
    else:
        choices = [tile for tile in _TILES[wide] if tile[0] <= blocks]
    choices = [tile for tile in choices if tile[1] % pool == 0] or [(1, 8)]
    groups = {1, images, *(g for g in range(2, images) if g * pixels <= 256)}

    def cost(choice):
        (vectors, q), group = choice
        number = -(-images // group) * -(-group * pixels // q) * -(-blocks // vectors)
        return number * (terms * step_cycles(vectors, q) + vectors * q * 2 + 20), group

    fitting = [(tile, g) for tile in choices for g in groups if g == 1 or g * pixels <= max(256, pixels)]
    (vectors, q), group = min(fitting, key=cost)
    return vectors, q, group
