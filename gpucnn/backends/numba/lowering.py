"""From a traced network to a program of native kernels, for so many images.

What follows a convolution or dense layer and has no other reader becomes the end of its tiles: batch norm, a residual
addition, ReLU, pooling without overlap. Each value is rounded where it would be if it were stored in between, so the
bits are the same.
"""

import math
from collections.abc import Iterable

import numpy as np

from gpucnn.backends.numba.channel_blocks import Blocks, address, aligned
from gpucnn.backends.numba.program import Program
from gpucnn.backends.numba.sums import OPERATIONS, Sum, Sums, borders, is_depthwise, is_near, is_partition
from gpucnn.backends.spatial import positions_per_band, window3d
from gpucnn.geometry import pool_counts
from gpucnn.inference import Unplannable
from gpucnn.inference.graph import Graph, Node
from gpucnn.kernels.numba import channel_conv as conv
from gpucnn.kernels.numba import channel_group_norm, channel_images
from gpucnn.kernels.numba import channel_maps as maps
from gpucnn.kernels.numba.addresses import VECTOR
from gpucnn.kernels.numba.simd import LANES
from gpucnn.resampling import as_arrays

# Below so many cycles of one thread it pays to have one.
_ALONE = 20_000
# A thread takes images through all layers that have so many multiply-adds at most, some milliseconds: it finds what it
# has written in its own caches and waits for nobody. With larger pieces the last one could take much of the time.
_PIECE = 400_000_000


class Lowered(Sums):
    """`program`, with `source` and `target`: the slots of the calls that read the images and write the results.

    `prepared`: nothing is to be done to the images before the first layer. `steady`: few runs will find other weights
    than the run before. Raises Unplannable for an operation that has no kernel.
    """

    def __init__(self, graph: Graph, images: int, threads: int, prepared: bool, steady: bool):
        self.images, self.threads, self.steady = images, threads, steady
        self.together = images_together(images, threads, multiply_adds(graph))
        self.program = Program(threads, images // self.together if self.together else 1)
        self.cycles = 0.0
        self._graph, self._prepared = graph, prepared
        self._readers: dict[int, list[Node]] = {id(node): [] for node in graph.nodes}
        for node in graph.nodes:
            for before in dict.fromkeys(node.inputs):
                self._readers[id(before)].append(node)
        self._values: dict[int, Blocks] = {}
        # Which calls a thread makes one after the other for some of the images; what `_is_apart` has one of its own.
        self._sections: dict[int, int] = {}
        self._free: dict[tuple, list[np.ndarray]] = {}
        self._packs: list[tuple] = []
        self._stages = self._fuse()
        self._plan_borders()
        self._emit()
        self.bytes = sum(array.nbytes for array in self.program._kept)
        self.program.finish(self.source, self.target, alone=self.cycles < _ALONE)

    # ---- which operations go together --------------------------------------------------------------------------------

    def _fuse(self) -> list[Sum | Node]:
        stages, computed, taken, section = [], set(), set(), 0
        result = self._graph.nodes[-1]
        for node in self._graph.nodes:
            if id(node) in taken:
                continue
            stage: Sum | Node = node
            computed.add(id(node))
            apart = self._is_apart(node)
            section += apart
            self._sections[id(node)] = section
            if node.operation in OPERATIONS:
                stage = Sum(node)
                while stage.last is not result and len(self._readers[id(stage.last)]) == 1:
                    following = self._readers[id(stage.last)][0]
                    if not stage.takes(following, computed, self.images, self.together):
                        break
                    taken.add(id(following))
                    computed.add(id(following))
                    self._sections[id(following)] = self._sections[id(node)]
            stages.append(stage)
            section += apart
        return stages

    def _value(self, node: Node) -> Blocks:
        if id(node) not in self._values:
            images = self.together if self._passes(node) else self.images
            self._values[id(node)] = Blocks.of(images, node.shape)
        return self._values[id(node)]

    def _is_apart(self, node: Node) -> bool:
        """Whether a unit of its work takes several images, as a dense layer's and some operations' at one position."""
        if math.prod(node.shape[1:]) > 1:
            return False
        return node.operation in ("dense", "group norm") or (node.operation == "softmax" and self.images > 1)

    def _passes(self, node: Node) -> bool:
        """Whether the thread that computes a value still has the same images when the value is read."""
        if not self.together or node.operation == "input" or node is self._graph.nodes[-1]:
            return False
        return all(self._sections[id(reader)] == self._sections[id(node)] for reader in self._final_readers(node))

    def _seen_through(self, node: Node) -> Node:
        """The node whose values a dense layer reads: a flattened map as it lies, or a flat copy."""
        return node.inputs[0] if self._is_free(node) else node

    def _plan_borders(self) -> None:
        """How far convolutions look past each map, and whether the images may stay planar."""
        planar = True
        first = self._graph.nodes[0]
        for stage in self._stages:
            node = stage.node if isinstance(stage, Sum) else stage
            if node.operation in OPERATIONS:
                source = self._value(node.inputs[0])
                source.reach(*borders(node, source.size))
                planar = planar and not (node.operation == "conv" and node.inputs[0] is first and is_depthwise(node))
            elif node.operation != "input" and not self._is_free(node):
                planar = planar and first not in node.inputs
            if isinstance(stage, Sum) and stage.addend is first:
                planar = False
        if self._graph.nodes[-1] is first:
            planar = False
        value = self._value(first)
        value.planar = planar
        # Without a border the images are what the first layers read.
        value.elsewhere = planar and self._prepared and value.padded == value.size

    def _is_free(self, node: Node) -> bool:
        """Whether this is a reshape that only dense layers read which take the map as it lies, see is_near."""
        if node.operation != "reshape" or len(node.shape) != 1 or node is self._graph.nodes[-1]:
            return False
        return all(
            reader.operation == "dense" and is_near(node.inputs[0], reader, self.images, self.steady)
            for reader in self._readers[id(node)]
        )

    # ---- memory ------------------------------------------------------------------------------------------------------

    def _give(self, value: Blocks) -> None:
        if value.elsewhere:
            return
        free = self._free.get(value.geometry)
        if free:
            value.allocate(free.pop())
        elif value.images == self.images:
            value.allocate()
            assert value.memory is not None
            self.program.keep(value.memory)
        else:
            value.allocate(aligned(self.threads * value.bytes // 4))
            assert value.memory is not None
            self.program.room(value.memory, self.together * value.image)

    def _release(self, done: set[int]) -> None:
        """Memory of values whose readers are all done serves others."""
        for node in self._graph.nodes[:-1]:
            value = self._values.get(id(node))
            if value is None or value.memory is None or id(node) in self._released:
                continue
            if all(id(reader) in done for reader in self._final_readers(node)):
                self._released.add(id(node))
                self._free.setdefault(value.geometry, []).append(value.memory)

    def _final_readers(self, node: Node) -> list[Node]:
        found: list[Node] = []
        for reader in self._readers[id(node)]:
            found += self._readers[id(reader)] if self._is_free(reader) else [reader]
        return found

    # ---- calls -------------------------------------------------------------------------------------------------------

    def _emit(self) -> None:
        program, done = self.program, set()
        self._released: set[int] = set()
        for stage in self._stages:
            node = stage.node if isinstance(stage, Sum) else stage
            if self._is_free(node):
                continue
            last = stage.last if isinstance(stage, Sum) else node
            value = self._value(last)
            self._give(value)
            before = self.cycles
            calls = self._calls_of(stage, value)
            cycles = self.cycles - before
            for kernel, slots, units, its_cycles in self._packs:
                program.call(kernel, slots, units, its_cycles, once=True)
                self.cycles += its_cycles
            self._packs = []
            program.begin()
            for kernel, slots, units in calls:
                made = program.call(kernel, slots, units, cycles / len(calls), by_image=not self._is_apart(node))
                if node.operation == "input":
                    self.source = made
                elif isinstance(stage, Sum) and self._value(self._seen_through(node.inputs[0])).elsewhere:
                    program.reads_images(made, conv.X)
            following: Node | None = last
            while following is not None:
                done.add(id(following))
                if not isinstance(stage, Sum) or following is node:
                    break
                following = next(n for n in following.inputs if self._inside(stage, n))
            self._release(done)
        result = self._value(self._graph.nodes[-1])
        program.begin()
        slots = dict(enumerate(result.slots)) | self._sizes(result)
        slots[maps.Y + 1] = 4 * math.prod(self._graph.nodes[-1].shape)
        kernel, units = channel_images.copy_flat, 1
        if result.positions > 1:
            kernel, units = channel_images.flatten_of(False), result.blocks
        cycles = 8.0 * self.images * result.blocks * result.positions
        self.target = program.call(kernel, slots, self.images * units, cycles, by_image=True)

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
        """A call of a kernel with the slots of channel_maps that takes some cycles for each vector of y."""
        slots = dict(enumerate(self._value(node.inputs[0]).slots if node.inputs else []))
        slots |= dict(enumerate(y.slots, maps.Y)) | self._sizes(y) | dict(enumerate(own, maps.OWN))
        self.cycles += self.images * y.blocks * y.positions * 4
        return [(kernel, slots, self.images * y.blocks if units is None else units)]

    def _input(self, node: Node, y: Blocks) -> list[tuple]:
        if y.elsewhere:
            self.cycles += self.images * y.channels * y.positions / 8
            return [(channel_images.look_at_images, {}, self.images)]
        if y.planar:
            return self._map(channel_images.load_planes, node, y, [y.lane], self.images * y.channels)
        if len(node.shape) == 1:
            return self._map(channel_images.load_flat, node, y, [], self.images)
        self.cycles += self.images * y.blocks * y.positions * 8
        return self._map(channel_images.load_blocks, node, y, [])

    def _reshape(self, node: Node, y: Blocks) -> list[tuple]:
        x = self._value(node.inputs[0])
        if len(node.shape) == 1:
            calls = self._map(channel_images.flatten_of(False), node, y, [], self.images * x.blocks)
            calls[0][1].update(self._sizes(x))
        elif len(node.inputs[0].shape) == 1:
            calls = self._map(channel_images.flatten_of(True), node, y, [])
        else:
            raise Unplannable("reshape of a map to a map")
        return calls

    def _elementwise(self, node: Node, y: Blocks) -> list[tuple]:
        name, settings = node.settings["name"], node.settings["numbers"]
        numbers = aligned(LANES)
        numbers[: len(settings)] = settings
        self.cycles += self.images * y.blocks * y.positions * (4 if name == "relu" else 60)
        return self._alike(maps.elementwise_of(name, len(settings)), node, y, [self.program.keep(numbers)])

    def _alike(self, kernel, node: Node, y: Blocks, own: Iterable[int]) -> list[tuple]:
        """`_map` for a kernel that treats all channels alike: at one position the blocks of an image are a row."""
        calls = self._map(kernel, node, y, own)
        if all(value.block == VECTOR for value in (y, *map(self._value, node.inputs))):
            kernel, slots, _ = calls[0]
            calls = [(kernel, slots | {maps.BLOCKS: 1, maps.WIDTH: y.blocks}, self.images)]
        return calls

    def _add(self, node: Node, y: Blocks) -> list[tuple]:
        calls = self._alike(maps.add_maps, node, y, [int(node.settings["relu"])])
        calls[0][1].update(enumerate(self._value(node.inputs[1]).slots, maps.Z))
        return calls

    def _norm_arrays(self, node: Node) -> list[int]:
        settings = node.settings
        arrays = [address(settings[name]) for name in ("mean", "var", "gamma", "beta")]
        return [*arrays, self.program.keep(_filled(settings["eps"]))]

    def _batch_norm(self, node: Node, y: Blocks) -> list[tuple]:
        mean, variance, gamma, beta, eps = self._norm_arrays(node)
        inverse = self.program.keep(aligned(y.blocks * LANES))
        slots = {maps.Y: inverse, maps.OWN: variance, maps.OWN + 1: eps}
        self._packs.append((maps.deviations, slots, y.blocks, y.blocks * 40))
        own = [mean, inverse, gamma, beta, int(node.settings["relu"])]
        if y.positions == 1:
            return self._map(maps.batch_norm_of_flat, node, y, own, self.images)
        return self._map(maps.batch_norm, node, y, own)

    def _add_bias(self, node: Node, y: Blocks) -> list[tuple]:
        return self._map(maps.add_bias, node, y, [address(node.settings["bias"]), int(node.settings["relu"])])

    def _pool(self, node: Node, y: Blocks, largest: bool, counts: int) -> list[tuple]:
        w = window3d(node.settings["window"])
        self.cycles += self.images * y.blocks * y.positions * (math.prod(w.kernel) * 3 + 10)
        own = [*w.input, *w.kernel, *w.stride, *w.dilation, *w.before, counts]
        aside = largest and is_partition(node.settings["window"])
        return self._map(maps.pool_windows if aside else maps.pool_of(largest), node, y, own)

    def _max_pool(self, node: Node, y: Blocks) -> list[tuple]:
        return self._pool(node, y, True, 0)

    def _average_pool(self, node: Node, y: Blocks) -> list[tuple]:
        counts = pool_counts(node.settings["window"], node.settings["count_include_pad"])
        numbers = aligned(y.positions)
        numbers[...] = np.broadcast_to(counts, node.settings["window"].output).reshape(-1)
        return self._pool(node, y, False, self.program.keep(numbers))

    def _global_average_pool(self, node: Node, y: Blocks) -> list[tuple]:
        x = self._value(node.inputs[0])
        self.cycles += self.images * x.blocks * x.positions * 8
        return self._map(maps.global_avg_pool, node, y, [*x.size, positions_per_band(node.inputs[0].shape[1:])])

    def _resample(self, node: Node, y: Blocks) -> list[tuple]:
        axis = node.settings["axis"] + 3 - (len(node.shape) - 1)
        first, position, weight, start = as_arrays(node.settings["taps"])
        arrays = [self.program.keep(np.ascontiguousarray(a)) for a in (first, position, weight, start)]
        self.cycles += self.images * y.blocks * y.positions * 20
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
        groups, eps = settings["groups"], self.program.keep(_filled(settings["eps"]))
        channels = y.channels // groups
        together = min(groups, math.lcm(LANES, channels) // channels)
        own = groups, together, gamma, beta, eps, int(settings["relu"]), self.images, self.program.failed
        if self._is_apart(node):
            self.cycles += self.images * y.channels * 2
            return self._map(channel_group_norm.group_norm_of_images, node, y, own, -(-self.images // LANES))
        self.cycles += self.images * y.blocks * y.positions * 20
        return self._map(channel_group_norm.group_norm, node, y, own, self.images * -(-groups // together))

    def _softmax(self, node: Node, y: Blocks) -> list[tuple]:
        own = self.images, self.program.failed
        if self._is_apart(node):
            self.cycles += self.images * (y.channels * 4 + y.blocks * 16)
            return self._map(maps.softmax_of_images, node, y, own, -(-self.images // LANES))
        self.cycles += self.images * y.positions * (y.blocks * 60 + y.channels * 4)
        return self._map(maps.softmax, node, y, own, self.images)


def multiply_adds(graph: Graph) -> int:
    """Those of an image, without dense layers."""
    total = 0
    for node in graph.nodes:
        if node.operation in ("conv", "transposed conv"):
            values = node.shape if node.operation == "conv" else node.inputs[0].shape
            total += math.prod(values) * math.prod(node.settings["w"].shape[1:])
    return total


def images_together(images: int, threads: int, each: int) -> int:
    """How many images a thread takes through a section's layers; 0 if threads share each image.

    `each` image has so many multiply-adds. None may have much more to do than the others.
    """
    for size in (4, 2, 1):
        parts = images // size
        even = 10 * -(-parts // threads) * threads <= 11 * parts
        enough = parts >= (4 if size == 4 else 2) * threads
        if even and enough and images % size == 0 and size * each <= _PIECE:
            return size
    return 0


def _filled(number: float) -> np.ndarray:
    """16 times a float32."""
    vector = aligned(LANES)
    vector[...] = np.float32(number)
    return vector
