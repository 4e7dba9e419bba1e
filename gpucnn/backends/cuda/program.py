"""A step's operations as stages and jobs of kernels/cuda/fused.cu."""

import functools
import math
import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.layout import LANES, axes, ceil_div, i32
from gpucnn.backends.protocol import Array, Backend
from gpucnn.backends.spatial import Window3d, is_dense, positions_per_band, rows_per_band, window3d
from gpucnn.geometry import Window

# fused.cu's constants.
_THREADS, _WARPS, _SIDE_BY_SIDE, _IMAGES = 256, 8, 4, 16
_SHARED_FLOATS = 48 * 1024 // 4  # what a block of threads has without asking for more
_MARGIN = 64  # floats before all values: a row's address may begin in the padding, and must not be below 0
_WIDEST_ROW = 24  # pixels of a row in registers
# Each image's block of threads reads all weights. Beyond so many bytes in all, layer by layer is faster (modelled).
_MOST_WEIGHT_BYTES = 256 << 20


class Unfusible(Exception):
    """A step does something that no stage does, or needs more shared memory than there is."""


@dataclass
class _Value:
    """An image's values: from stage `first` to `last` they are at float `at` of shared memory; `made` is the last stage
    that writes some of them. `array` is a weak reference to the array that the layers have for them, if there is one.
    """

    floats: int
    first: int
    last: int
    made: int = 0
    array: Any = lambda: None
    exported: bool = False  # whether they can be written there
    at: int = 0


@dataclass
class Program:
    """A step as launches: some as they are, image_step, image_sums, more as they are.

    Methods that are named as the backend's operations add stages and jobs; they raise Unfusible for what has none.
    """

    backend: Any  # the CudaBackend that runs it
    images: int = 0
    _loads: list[str] = field(default_factory=list)
    _stages: list[str] = field(default_factory=list)
    _jobs: list[tuple[str, int]] = field(default_factory=list)  # and the blocks of threads of each
    _before: list[Callable[[], None]] = field(default_factory=list)
    _after: list[Callable[[], None]] = field(default_factory=list)
    _arrays: list[Array] = field(default_factory=list)  # the kernels' arguments
    _numbers: dict[int, int] = field(default_factory=dict)  # of the arrays, by address
    _values: list[_Value] = field(default_factory=list)
    _places: dict[int, int] = field(default_factory=dict)  # of the values, by their array's address
    _labels: dict[int, tuple[Any, Array, Array]] = field(default_factory=dict)
    _needed: set[int] = field(default_factory=set)  # addresses that launches after the stages take
    _alive: list[Array] = field(default_factory=list)
    _weight_bytes: int = 0

    # ---- what a step does ------------------------------------------------------------------------------------------

    def keep(self, array: Array) -> Array:
        """An array that was made while the step is traced: no other gets its address until the end."""
        self._alive.append(array)
        return array

    def launch(self, run: Callable[[], None], arguments: tuple) -> None:
        """A launch that stays as it is."""
        if not self._stages:
            self._before.append(run)
            return
        self._after.append(run)
        members = (m for a in arguments for m in (a if isinstance(a, tuple) else (a,)))
        self._needed |= {self._address(m) for m in members if isinstance(m, self.backend.xp.ndarray)}

    def finish(self) -> None:
        """Nothing more follows. What somebody still refers to, or a later launch takes, is written to its array."""
        if not self._stages:
            raise Unfusible("no operation has a stage")
        if self._weight_bytes * self.images > _MOST_WEIGHT_BYTES:
            raise Unfusible("each image would read all weights")
        del self._alive[:]
        addresses = {place: address for address, place in self._places.items()}
        exports: dict[int, list[str]] = {}
        for place, value in enumerate(self._values):
            array = value.array()
            if array is None and addresses.get(place) not in self._needed:
                continue
            if array is None or not value.exported:
                raise Unfusible("a later launch takes what is in shared memory")
            value.last = max(value.last, value.made + 1)  # also while the next stage runs
            export = f"ToLanes<{value.floats}, @{place}@, {self._number(array)}>"
            exports.setdefault(value.made, []).append(export)
        for of, labels, indices in self._labels.values():
            if (array := of()) is not None:
                y = array.view(np.int32)
                load = functools.partial(self.backend._load_labels, labels, indices, y, self.images)
                self._before.append(load)
        stages = [*self._loads, *(s for n, stage in enumerate(self._stages) for s in (stage, *exports.get(n, ())))]
        for value in self._values:
            while value.last < len(self._stages) and self._stages[value.last].startswith("Beside"):
                value.last += 1
        floats = self._place()
        text = ", ".join(re.sub(r"@(\d+)@", lambda m: str(self._values[int(m[1])].at), stage) for stage in stages)
        count = len(self._arrays)
        self._kernels: list[tuple] = [(f"image_step<{floats}, {count}, Stages<{text}>>", self.images, (_THREADS,))]
        if self._jobs:
            jobs, blocks = zip(*reversed(self._jobs))  # the first layers' have the most terms
            name = f"image_sums<{count}, Jobs<{', '.join(jobs)}>>"
            self._kernels.append((name, sum(blocks), (LANES, _WARPS), i32(self.images)))

    def run(self) -> None:
        """The launches."""
        for launch in self._before:
            launch()
        for expression, blocks, threads, *numbers in self._kernels:
            self.backend._run("fused.cu", expression, (blocks,), threads, tuple(self._arrays), *numbers)
        for launch in self._after:
            launch()

    def _place(self) -> int:
        """Give each value a place that no other has at the same time; returns how many floats that takes."""
        placed: list[_Value] = []
        for value in sorted(self._values, key=lambda value: value.first):
            value.at = _MARGIN
            for other in sorted(placed, key=lambda other: other.at):
                beside = other.last < value.first or value.last < other.first
                if not beside and value.at < other.at + other.floats and other.at < value.at + value.floats:
                    value.at = ceil_div(other.at + other.floats, 4) * 4
            placed.append(value)
        floats = max(value.at + value.floats for value in placed)
        if floats > _SHARED_FLOATS:
            raise Unfusible(f"{4 * floats} bytes of shared memory")
        return floats

    # ---- the parts of a stage's type -------------------------------------------------------------------------------

    def _address(self, array: Array) -> int:
        return self.backend.launcher.address(array)

    def _number(self, array: Array | None) -> int:
        """An array's number among the kernels' arguments."""
        if array is None:
            return -1
        address = self._address(array)
        if address not in self._numbers:
            self._numbers[address] = len(self._arrays)
            self._arrays.append(array)
        return self._numbers[address]

    def _constant(self, *numbers: np.float32) -> int:
        """The number of an array of constants."""
        return self._number(self.backend._constant(("numbers", numbers), lambda: np.array(numbers, np.float32)))

    def _part(self, shape: tuple[int, ...], dtype=np.float32) -> Array:
        """An array of what each image leaves."""
        if not self.images:
            raise Unfusible("images that were not loaded")
        return self.backend._empty((self.images, *shape), dtype)

    def _stage(self, text: str, beside: bool = False) -> None:
        """`beside`: it writes no values, so the next stage need not wait for it."""
        if self._after:
            raise Unfusible("a kernel between those of single images")
        self._stages.append(f"Beside<{text}>" if beside else text)

    def _reads(self, array: Array) -> str:
        """The place of values that the stage at hand reads."""
        address = self._address(array)
        if address not in self._places:
            floats = math.prod(array.shape[1:-1])
            place = self._new(array, 0, floats)
            self._loads.append(f"FromLanes<{floats}, @{place}@, {self._number(array)}>")
            self._values[place].array = lambda: None  # it is where it should be
        value = self._values[self._places[address]]
        value.last = len(self._stages)
        return f"@{self._places[address]}@"

    def _writes(self, array: Array) -> str:
        """The place of values that the stage at hand makes, or a part of them."""
        if self._address(array) not in self._places:
            self._new(array, len(self._stages), ceil_div(math.prod(array.shape[1:-1]) * array.dtype.itemsize, 4))
        self._values[self._places[self._address(array)]].made = len(self._stages)
        return self._reads(array)

    def _new(self, array: Array, first: int, floats: int) -> int:
        self._places[self._address(array)] = len(self._values)
        owner, exported = weakref.ref(_owner(array)), array.dtype == np.float32
        self._values.append(_Value(floats, first, first, array=owner, exported=exported))
        return len(self._values) - 1

    def _scratch(self, floats: int) -> str:
        """Room for the stage at hand alone."""
        self._values.append(_Value(floats, len(self._stages), len(self._stages)))
        return f"@{len(self._values) - 1}@"

    def _sum(self, kind: str, part: Array, bands: int, end: str) -> None:
        """A job: the sums of `part` over images and bands."""
        count, each = math.prod(part.shape[1:]) // bands, _share(ceil_div(self.images, _IMAGES) * _filled(bands))
        together = min(each, 4)
        depth = (each // together).bit_length()
        job = f"Sums<{kind}, {count}, {bands}, {depth}, {together}, {self._number(part)}, {end}>"
        self._jobs.append((job, ceil_div(count, LANES)))

    # ---- images ----------------------------------------------------------------------------------------------------

    def _load_shifted(self, images, indices, y: Batch, shift: int, offset, seed, step) -> None:
        self.images = y.images
        if shift:
            self.backend._plainly("_load_shifted", images, indices, y, shift, offset, seed, step)
        else:
            self._gather(images, indices, y, "")

    def _load_augmented(self, images, indices, y: Batch, augmentation: Augmentation, offset, seed, step) -> None:
        self.images = y.images
        if augmentation != Augmentation(mean=augmentation.mean, std=augmentation.std):
            self.backend._plainly("_load_augmented", images, indices, y, augmentation, offset, seed, step)
        else:
            mean, scale = (self._constant(*numbers) for numbers in augmentation.constants(y.channels))
            self._gather(images, indices, y, f", {math.prod(y.spatial)}, {mean}, {scale}")

    def _gather(self, images, indices, y: Batch, normalized: str) -> None:
        size, arrays = math.prod(y.shape[1:]), f"{self._number(images)}, {self._number(indices)}"
        self._stage(f"Gather<{size}, {self._writes(y.data)}, {arrays}{normalized}>")
        labels, gathered = self.backend._at_hand.labels
        if gathered is not None:
            self._labels[self._address(gathered)] = weakref.ref(_owner(gathered)), labels, indices

    def rows(self, batch: Batch) -> Array:
        y, size = self.backend._empty(batch.shape), math.prod(batch.shape[1:])
        self._stage(f"ToRows<{size}, {self._reads(batch.data)}, {self._number(y)}>", beside=True)
        return y

    # ---- dot products ----------------------------------------------------------------------------------------------

    def _correlate(self, x, w, bias, other, y, sizes: Window3d, channels, weights, places, relu: bool, norm) -> None:
        groups, inputs, outputs = channels
        ob, qb = _tile(groups, inputs, outputs, sizes)
        geometry = sizes.input, sizes.output, sizes.kernel, sizes.stride, sizes.dilation, sizes.before
        first, _, *along = places
        strides = f"Strides<{_list(weights)}>, Strides<{_list((first, along[0], along[1], 0, *along[2:]))}>"
        ends = f"{self._number(w)}, {self._number(bias)}, {-1 if other is None else self._reads(other)}, {_truth(relu)}"
        self._weight_bytes += w.nbytes
        self._stage(
            f"Correlate<{ob}, {qb}, {groups}, {inputs}, {outputs}, {', '.join(map(axes, geometry))}, {strides}, "
            f"{self._reads(x)}, {self._writes(y)}, {ends}>"
        )

    def _multiply(self, x: Batch, w, bias, outputs: int, inputs: int, strides: tuple[int, int], relu: bool) -> Batch:
        y = self.backend._maps(x, outputs, ())
        squares = 0 if strides[0] == 1 else min(_WARPS, ceil_div(outputs, LANES))
        scratch = self._scratch(squares * LANES * (LANES + 1)) if squares else 0
        places = f"{self._reads(x.data)}, {self._writes(y.data)}, {self._number(w)}, {self._number(bias)}"
        self._weight_bytes += w.nbytes
        self._stage(f"Multiply<{inputs}, {outputs}, {_list(strides)}, {places}, {_truth(relu)}, {scratch}>")
        return y

    # ---- pooling, value by value -----------------------------------------------------------------------------------

    def _pool(self, kernel: str, window: Window, results: Batch, *arguments, more: str = "") -> None:
        stage = {
            "max_pool": "MaxPool",
            "max_pool_gradient": "MaxPoolGradient",
            "avg_pool": "AvgPool",
            "avg_pool_gradient": "AvgPoolGradient",
        }[kernel]
        sizes = window3d(window)
        geometry = sizes.input, sizes.output, sizes.kernel, sizes.stride, sizes.dilation, sizes.before
        if kernel == "max_pool":
            x, y, where = arguments
            ends = f"{self._reads(x)}, {self._writes(y)}, {self._writes(where)}"
        elif kernel == "max_pool_gradient":
            dy, where, dx = arguments
            ends = f"{self._reads(dy)}, {self._reads(where)}, {self._writes(dx)}"
        else:
            given, made, counts = arguments
            ends = f"{self._reads(given)}, {self._writes(made)}, {self._number(counts)}"
        self._stage(f"{stage}<Window<{', '.join(map(axes, geometry))}>{more}, {results.channels}, {ends}>")

    def global_avg_pool(self, x: Batch) -> Batch:
        y, positions, band = self.backend._maps(x, x.channels, ()), math.prod(x.spatial), positions_per_band(x.spatial)
        sizes = f"{x.channels}, {positions}, {band}, {ceil_div(positions, band).bit_length()}"
        self._stage(f"GlobalAvgPool<{sizes}, {self._reads(x.data)}, {self._writes(y.data)}>")
        return y

    def global_avg_pool_gradient(self, dy: Batch, spatial: tuple[int, ...]) -> Batch:
        dx = self.backend._maps(dy, dy.channels, spatial)
        sizes = f"{dy.channels}, {math.prod(spatial)}"
        self._stage(f"GlobalAvgPoolGradient<{sizes}, {self._reads(dy.data)}, {self._writes(dx.data)}>")
        return dx

    def _forward(self, name: str, x: Batch, y: Batch, settings: tuple) -> None:
        places = f"{_size(x)}, {self._reads(x.data)}, {self._writes(y.data)}"
        self._stage(f"Elementwise<{_list((f'operations::{name}', places, *map(self._constant, settings)))}>")

    def _gradient(self, name: str, dy: Batch, saved: Batch, dx: Batch, settings: tuple) -> None:
        places = f"{_size(dy)}, {self._reads(dy.data)}, {self._reads(saved.data)}, {self._writes(dx.data)}"
        self._stage(f"ElementwiseGradient<{_list((f'operations::{name}', places, *map(self._constant, settings)))}>")

    def _add(self, a: Batch, b: Batch, y: Batch, relu: bool) -> None:
        places = f"{self._reads(a.data)}, {self._reads(b.data)}, {self._writes(y.data)}"
        self._stage(f"Add<{_size(a)}, {places}, {_truth(relu)}>")

    def _batch_norm(self, x: Batch, mean, var, gamma, beta, eps: float, other: Array | None, relu: bool) -> Batch:
        y = self.backend._like(x)
        arrays = _list(map(self._number, (mean, var, gamma, beta)))
        places = f"{self._reads(x.data)}, {self._writes(y.data)}, {arrays}, {self._constant(np.float32(eps))}"
        ends = f"{-1 if other is None else self._reads(other)}, {_truth(relu)}"
        self._stage(f"BatchNorm<{x.channels}, {math.prod(x.spatial)}, {places}, {ends}>")
        return y

    def _dropout(self, x: Batch, y: Batch, rate, scale, offset, seed, step, layer: int) -> None:
        places = f"{self._reads(x.data)}, {self._writes(y.data)}, {self._constant(rate, scale)}"
        self._stage(f"Dropout<{_size(x)}, {places}, {int(seed)}ull, {self._number(step)}, {layer}>")

    def _copy_channels(self, x: Batch, y: Batch, first_x: int, first_y: int, count: int) -> None:
        positions = math.prod(x.spatial)
        places = f"{self._reads(x.data)} + {first_x * positions}, {self._writes(y.data)} + {first_y * positions}"
        self._stage(f"Copy<{count * positions}, {places}>")

    # ---- softmax and cross-entropy ---------------------------------------------------------------------------------

    def softmax(self, x: Batch) -> Batch:
        if math.prod(x.spatial) != 1:
            raise Unfusible("softmax of maps")
        y = self.backend._like(x)
        self._stage(f"Softmax<{x.channels}, {self._reads(x.data)}, {self._writes(y.data)}>")
        return y

    def _softmax_cross_entropy(self, logits: Batch, labels, dz: Batch, scale, mean: Array, totals) -> None:
        _, labels, indices = self._labels.get(self._address(labels), (None, labels, None))
        part = self._part((2,), np.float64)
        places = f"{self._reads(logits.data)}, {self._writes(dz.data)}, {self._number(labels)}, {self._number(indices)}"
        self._stage(f"CrossEntropy<{logits.channels}, {places}, {self._constant(scale)}, {self._number(part)}>")
        self._sum("double", part, 1, f"Loss<{self._number(mean)}, {self._number(totals)}>")

    # ---- gradients of weights --------------------------------------------------------------------------------------

    def bias_gradient(self, dy: Batch, out: Array) -> None:
        positions, band = math.prod(dy.spatial), positions_per_band(dy.spatial)
        bands = ceil_div(positions, band)
        part = self._part((bands, dy.channels), np.float64)
        sizes = f"{dy.channels}, {positions}, {band}"
        self._stage(f"BandsOfChannels<{sizes}, {self._reads(dy.data)}, {self._number(part)}>", beside=True)
        self._sum("double", part, bands, f"Rounded<{self._number(out)}>")

    def conv_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        if math.prod(window.output) == 1:
            if not is_dense(window, groups):
                raise Unfusible("a window with one position that is no dense layer")
            self.dense_weight_gradient(dy.reshape(-1), x.reshape(-1), out)
            return
        sizes, outputs, channels = window3d(window, rows=True), out.shape[0] // groups, out.shape[1]
        band = rows_per_band(sizes.output[2])
        bands = ceil_div(sizes.output[0] * sizes.output[1], band)
        if sizes.kernel[2] > _WIDEST_ROW:
            raise Unfusible("a wide kernel")
        part = self._part((bands, *out.shape))
        geometry = sizes.input, sizes.output, sizes.kernel, sizes.stride, sizes.dilation, sizes.before
        items = bands * groups * channels * math.prod(sizes.kernel[:2])
        times = {
            ob: _time(items * ceil_div(outputs, ob), ob + sizes.kernel[2] * (ob + 1) + 8)
            for ob in (1, 2, 3, 4)
            if ob <= outputs
        }
        wide = min(times, key=times.__getitem__)
        places = f"{self._reads(dy.data)}, {self._reads(x.data)}, {self._number(part)}"
        shape = f"{wide}, {groups}, {channels}, {outputs}, {', '.join(map(axes, geometry))}, {band}"
        self._stage(f"BandsOfWeights<{shape}, {places}>", beside=True)
        self._sum("float", part, bands, f"Weight<{self._number(out)}>")

    def dense_weight_gradient(self, dy: Batch, x: Batch, out: Array) -> None:
        inputs, outputs = _size(x), _size(dy)
        numbers = ", ".join(str(self._number(self.rows(batch))) for batch in (dy, x))
        depth = _share(ceil_div(self.images, _IMAGES)).bit_length()
        job = f"DenseWeights<{inputs}, {outputs}, {depth}, {numbers}, {self._number(out)}>"
        self._jobs.append((job, ceil_div(inputs, LANES) * ceil_div(outputs, _SIDE_BY_SIDE)))

    # ---- made of the operations above, where a layer has a kernel of its own ---------------------------------------

    def conv_inference(self, *arguments, **ends):
        return Backend.conv_inference(self.backend, *arguments, **ends)

    def batch_norm_max_pool(self, x: Batch, *settings):
        return Backend.batch_norm_max_pool(self.backend, x, *settings)

    def conv_max_pool(self, *arguments):
        return Backend.conv_max_pool(self.backend, *arguments)

    def conv_max_pool_gradient(self, *arguments):
        return Backend.conv_max_pool_gradient(self.backend, *arguments)

    def dense_gradients(self, *arguments):
        return Backend.dense_gradients(self.backend, *arguments)


def _owner(array: Array) -> Array:
    """The array whose memory a view shows."""
    while type(base := array.base) is type(array):
        array = base
    return array


def _size(x: Batch) -> int:
    return math.prod(x.shape[1:])


def _list(parts) -> str:
    return ", ".join(map(str, parts))


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _filled(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def _share(nodes: int) -> int:
    """How many of so many nodes a warp has at most."""
    return _filled(ceil_div(nodes, _WARPS))


def _time(items: int, instructions: float) -> float:
    """Of the busiest scheduler, one of four: it has at least a warp for every 32 of `items`, a thread's work."""
    return ceil_div(ceil_div(items, LANES), 4) * instructions


def _tile(groups: int, inputs: int, outputs: int, sizes: Window3d) -> tuple[int, int]:
    """(OB, QB) of Correlate: the least time of the busiest thread."""
    best, best_time = None, math.inf
    for ob in (1, 2, 4):
        for qb in range(1, 9):
            row = (qb - 1) * sizes.stride[2] + (sizes.kernel[2] - 1) * sizes.dilation[2] + 1
            if ob > outputs or qb > sizes.output[2] or row > _WIDEST_ROW:
                continue
            items = groups * ceil_div(outputs, ob) * sizes.output[0] * sizes.output[1] * ceil_div(sizes.output[2], qb)
            step = sizes.kernel[2] * ob * (qb + 1) + row + 12
            time = _time(items, step)
            if time < best_time:
                best, best_time = (ob, qb), time
    if best is None:
        raise Unfusible("a wide kernel")
    return best
