"""The CPU backend: exact float32 at full speed on all cores, 16 images to a vector.

Every operation brings its arguments into the kernels' shape (three spatial axes, leading ones of size 1) and launches
one or a few kernels. Between `capture`'s start and end each launch is also written on a tape, so that a training step
repeats as a list of compiled calls on the same buffers, with nothing checked or allocated again.
"""

import functools
import math
import os
import platform
from collections.abc import Callable

import numba
import numpy as np

from gpucnn.arithmetic import assert_subnormals
from gpucnn.backends import compilation
from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.numba import tiles
from gpucnn.backends.numba.channels import NumbaChannels
from gpucnn.backends.numba.group_norm import NumbaGroupNorm
from gpucnn.backends.numba.inference import NumbaInference
from gpucnn.backends.numba.pointwise import NumbaPointwise
from gpucnn.backends.numba.resampling import NumbaResampling
from gpucnn.backends.protocol import Array, Backend
from gpucnn.backends.spatial import Window3d, is_dense, phases, positions_per_band, rows_per_band, three, window3d
from gpucnn.errors import BackendError, DTypeError
from gpucnn.geometry import Window, pool_counts
from gpucnn.kernels.numba import augmentation as augmentation_kernels
from gpucnn.kernels.numba import (
    compiler,
    conv,
    conv_rows,
    dense,
    elementwise,
    gradient_rows,
    images,
    loss,
    norm,
    norm_pool,
    optimizers,
    sums,
)
from gpucnn.kernels.numba import pool as pool_kernels
from gpucnn.kernels.numba import random as random_kernels
from gpucnn.kernels.numba.compiler import Kernel
from gpucnn.kernels.numba.simd import LANES

# Between two kernels GNU OpenMP's threads wait in a loop, by default for milliseconds: long enough to keep a busy
# machine's other work, even their own team's late thread, from running. This many turns bridge the gap between two
# kernels.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

compiler.listeners.append(compilation.tell)

# Units of work that each thread should find, so that an uneven end costs little.
_UNITS_PER_THREAD = 4
# How many tiles must read a weight before it pays to lay the weights out for them.
_PACK_USES = 32
# Kernel widths that get a machine code of their own.
_WIDTHS = (1, 3, 5)


def _deep(data: np.ndarray) -> np.ndarray:
    """(block, C, *spatial, lane) as a view (block, C, D, H, W, lane)."""
    return data[(slice(None), slice(None), *(None,) * (6 - data.ndim))]


def _flat(data: np.ndarray) -> np.ndarray:
    """(block, C, *spatial, lane) as (block, C, positions * lanes)."""
    return data.reshape(*data.shape[:2], -1)


def _rows(data: np.ndarray) -> np.ndarray:
    """Like _deep, but with one dimension as the axis H, so that a band of rows is one of 64 positions."""
    return data[:, :, None, :, None] if data.ndim == 4 else _deep(data)


class NumbaBackend(NumbaPointwise, NumbaResampling, NumbaGroupNorm, NumbaChannels, NumbaInference, Backend):
    """See the protocol for what each method does; comments here tell only how."""

    name = "numba"
    math = "exact"
    lanes = LANES
    xp = np
    graph = True

    def __init__(self, threads: int, dtype: np.dtype):
        assert_subnormals()
        most = numba.config.NUMBA_NUM_THREADS
        if threads > most:
            raise BackendError(
                f"threads is {threads}, but Numba was started with {most}; set NUMBA_NUM_THREADS to change that"
            )
        self.threads = threads
        self.dtype = dtype
        self.device = f"CPU {platform.processor() or platform.machine()}, {threads} thread{'s' * (threads > 1)}"
        self._tape: list[tuple[Callable, tuple]] | None = None

    # ---- launching --------------------------------------------------------------------------------------------------

    def _run(self, kernel: Kernel, *arguments) -> None:
        entry = kernel.prepare(*arguments)
        if numba.get_num_threads() != self.threads:
            numba.set_num_threads(self.threads)
        entry(*arguments)
        if self._tape is not None:
            self._tape.append((entry, arguments))

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        if self._tape is not None:
            raise BackendError("a capture inside a capture: capture the whole step once")
        if not self.graph:
            step()
            return step
        self._tape = []
        try:
            step()
            tape = self._tape
        finally:
            self._tape = None

        def replay() -> None:
            numba.set_num_threads(self.threads)
            for entry, arguments in tape:
                entry(*arguments)

        return replay

    def synchronize(self) -> None:
        pass

    # ---- memory -----------------------------------------------------------------------------------------------------

    def _empty(self, shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
        """Uninitialised memory that starts at a cache line, so that no vector straddles two."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        memory = np.empty(size + 64, np.uint8)
        start = -memory.ctypes.data % 64
        return memory[start : start + size].view(dtype).reshape(shape)

    def _like(self, x: Batch) -> Batch:
        return x.like(self._empty(x.data.shape))

    def zeros(self, shape: tuple[int, ...], dtype=None) -> Array:
        array = self._empty(shape if isinstance(shape, tuple) else (shape,), self.dtype if dtype is None else dtype)
        array[...] = 0
        return array

    def array(self, host: np.ndarray) -> Array:
        array = self._empty(host.shape, host.dtype)
        array[...] = host
        return array

    def assign(self, array: Array, host: np.ndarray) -> None:
        array[...] = host

    def host(self, array: Array) -> np.ndarray:
        return np.array(array)

    def _data(self, x: Batch) -> np.ndarray:
        """A batch's values as the kernels need them; a user's own layer may have left them otherwise."""
        if x.data.dtype != np.float32:
            raise DTypeError(
                f"a layer gave {x.data.dtype} values; exact math takes float32: keep constants as np.float32"
            )
        return np.ascontiguousarray(x.data)

    def pack(self, images_: np.ndarray) -> Batch:
        if images_.dtype != np.float32:
            raise DTypeError(
                f"images are {images_.dtype}; exact math takes float32: convert them with images.astype('float32')"
            )
        return self.load_images(np.ascontiguousarray(images_), np.arange(len(images_)), len(images_))

    def unpack(self, batch: Batch) -> np.ndarray:
        result = np.empty((batch.images, batch.channels, math.prod(batch.spatial)), np.float32)
        data = self._data(batch)
        self._run(images.unpack, data.reshape(*data.shape[:2], -1, LANES), result)
        return result.reshape(batch.shape)

    def pack_labels(self, labels: np.ndarray) -> Array:
        return self.load_labels(np.asarray(labels, np.int32), np.arange(len(labels)), len(labels))

    def load_images(
        self,
        images_: Array,
        indices: Array,
        count: int,
        augmentation: Augmentation = NO_AUGMENTATION,
        *,
        seed: int = 0,
        step: Array | None = None,
    ) -> Batch:
        if not augmentation.only_shifts:
            return self._load_augmented(images_, indices, count, augmentation, seed, step)
        shift = 0 if step is None else augmentation.shift
        channels, spatial = images_.shape[1], images_.shape[2:]
        y = self._empty((-(-count // LANES), channels, *spatial, LANES))
        source = np.ascontiguousarray(images_).reshape(len(images_), channels, *three(spatial, 1))
        step = np.zeros(1, np.uint32) if step is None else step
        moves = self._empty((len(y) * LANES, 3), np.int64)
        moves[...] = 0
        rows = self._empty((self.threads, LANES, -(-source.shape[-1] // LANES) * LANES))
        drawn = count, shift, len(spatial) if shift else 0, np.uint64(seed), step
        self._run(images.load_images, source, indices, _deep(y), *drawn, moves, rows)
        return Batch(y, count, self)

    def _load_augmented(self, images_, indices, count: int, augmentation: Augmentation, seed: int, step) -> Batch:
        channels, spatial = images_.shape[1], images_.shape[2:]
        y = self._empty((-(-count // LANES), channels, *augmentation.output(spatial), LANES))
        source = np.ascontiguousarray(images_).reshape(len(images_), channels, *three(spatial, 1))
        plan = self._empty((len(y) * LANES, 10), np.int64)
        rows = self._empty((self.threads, LANES, -(-y.shape[-2] // LANES) * LANES))
        chosen = augmentation.shift, augmentation.crop is not None, augmentation.flip, augmentation.cutout
        drawn = step is not None, np.uint64(seed), np.zeros(1, np.uint32) if step is None else step
        given = source, indices, _deep(y), count, *chosen, len(spatial), *drawn
        self._run(augmentation_kernels.load_augmented, *given, *augmentation.constants(channels), plan, rows)
        return Batch(y, count, self)

    def load_labels(self, labels: Array, indices: Array, count: int) -> Array:
        y = self._empty((-(-count // LANES), LANES), np.int32)
        self._run(images.load_labels, labels, indices, y, count)
        return y

    # ---- convolution and dense ---------------------------------------------------------------------------------------

    def _correlate(self, x, w, bias, y, stride, dilation, before, relu: bool) -> None:
        """Launch the forward kernel on (block, C, D, H, W, lane) views; w (group, O/group, C/group, *K)."""
        if x.shape[2:5] == y.shape[2:5] == w.shape[3:] == (1, 1, 1) and before == (0, 0, 0):
            # One pixel an image, and no tap beside it: let the blocks be the row of pixels, so that a tile reuses each
            # weight.
            x, y = x.transpose(4, 1, 2, 3, 0, 5), y.transpose(4, 1, 2, 3, 0, 5)
        outputs, width = w.shape[1], w.shape[5]
        if stride == dilation == (1, 1, 1) and w.shape[3] == x.shape[2] == 1 and before[0] == 0:
            outside = before[2], y.shape[4] + width - 1 - x.shape[4] - before[2]
            tile = tiles.row_tile(outputs, y.shape[4], width, outside)
            if tile and x.strides[4] == y.strides[4] == LANES * 4:
                self._correlate_rows(tile, outside, x, w, bias, y, before, relu)
                return
        ob, qb = tiles.broadcast_tile(outputs, y.shape[4], (x.shape[4], width, stride[2], before[2], dilation[2]))
        number = -(-outputs // ob)
        rows = y.shape[0] * w.shape[0] * y.shape[2] * y.shape[3]
        # A dense layer on few images reads each weight too seldom to lay it out first.
        packs = width > 1 or rows * y.shape[4] >= _PACK_USES * qb
        packed = self._empty((w.shape[0], number, math.prod(w.shape[2:]) if packs else 0, ob))
        chunks = min(number, -(-_UNITS_PER_THREAD * self.threads // max(rows, 1)))
        common = width in _WIDTHS and stride[2] == 1 and x.strides[4] == LANES * x.itemsize
        kernel = conv.conv_of(ob, qb, width if common or not packs else 0, common, packs)
        self._run(kernel, x, w, bias, y, packed, stride, dilation, before, relu, chunks)

    def _correlate_rows(self, tile, outside, x, w, bias, y, before, relu: bool) -> None:
        """_correlate by whole kernel rows, with tiles of (OB, QB)."""
        ob, qb = tile
        (groups, outputs, channels), (height, width) = w.shape[:3], w.shape[4:]
        packed = self._empty((groups, -(-outputs // ob), math.prod(w.shape[2:]), ob))
        line, rows = x.shape[4], y.shape[3]
        depth = tiles.strip_depth(channels, line, height, rows, y.shape[0] * groups, self.threads)
        strips = self._empty((self.threads, channels * (depth + height - 1) * line * LANES))
        kernel = conv_rows.conv_rows_of(ob, qb, width, *outside, qb == y.shape[4])
        self._run(kernel, x, w, bias, y, packed, strips, before, relu, depth)

    def conv_max_pool(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int, pool: Window
    ) -> tuple[Batch, Array]:
        if not (window.stride == window.dilation == (1, 1) and _is_halving(pool)):
            return super().conv_max_pool(x, w, bias, window, groups, pool)
        y = self._empty((x.data.shape[0], len(w), *pool.output, LANES))
        where = self._empty(y.shape)
        outputs, width = len(w) // groups, window.kernel[1]
        ob, qb = tiles.pooled_tile(outputs, 2 * pool.output[1])
        number = -(-outputs // ob)
        weights = w.reshape(groups, outputs, w.shape[1], 1, *window.kernel)
        packed = self._empty((groups, number, math.prod(w.shape[1:]), ob))
        chunks = min(number, -(-_UNITS_PER_THREAD * self.threads // (len(y) * groups * pool.output[0])))
        bias = np.zeros(len(w), np.float32) if bias is None else bias
        before = window3d(window).before
        kernel = conv.conv_max_pool_of(ob, qb, width if width in _WIDTHS else 0)
        self._run(kernel, _deep(self._data(x)), weights, bias, _deep(y), _deep(where), packed, before, chunks)
        return x.like(y), where

    def conv(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int = 1, relu: bool = False
    ) -> Batch:
        if is_dense(window, groups):
            flat = self.dense(x.reshape(-1), w.reshape(len(w), -1), bias, relu)
            return flat.reshape(len(w), *window.output)
        y = self._empty((x.data.shape[0], len(w), *window.output, LANES))
        c = window3d(window)
        weights = w.reshape(groups, len(w) // groups, w.shape[1], *c.kernel)
        bias = np.zeros(len(w), np.float32) if bias is None else bias
        geometry = c.stride, c.dilation, c.before
        self._correlate(_deep(self._data(x)), weights, bias, _deep(y), *geometry, relu)
        return x.like(y)

    def conv_max_pool_gradient(self, dy: Batch, y: Batch, where: Array, pool: Window, out_bias: Array | None) -> Batch:
        covers = _is_halving(pool) and all(2 * p == i for p, i in zip(pool.output, pool.input))
        if out_bias is None or not covers:
            return super().conv_max_pool_gradient(dy, y, where, pool, out_bias)
        blocks, channels = dy.data.shape[:2]
        dx = self._empty((blocks, channels, *pool.input, LANES))
        band = rows_per_band(pool.input[1])
        part = self._empty((blocks, channels), np.float64)
        levels = sums.levels(max(-(-pool.input[0] // band), blocks))
        slots = self._empty((blocks * channels, levels), np.float64)
        given = self._data(dy), self._data(y), where
        self._run(pool_kernels.max_pool_relu_bias_gradient, *given, dx, out_bias, dy.images, band, part, slots)
        return dy.like(dx)

    def conv_input_gradient(self, dy: Batch, w: Array, window: Window, groups: int = 1) -> Batch:
        if is_dense(window, groups):
            return self.dense_input_gradient(dy.reshape(-1), w.reshape(len(w), -1)).reshape(w.shape[1], *window.input)
        channels = w.shape[1] * groups
        dx = self._empty((dy.data.shape[0], channels, *window.input, LANES))
        # (group, O/group, C/group, *K) turned into (group, C/group, O/group, *K): outputs become inputs.
        turned = w.reshape(groups, len(w) // groups, w.shape[1], *window3d(window).kernel).swapaxes(1, 2)
        gradient, target, nothing = _deep(self._data(dy)), _deep(dx), np.zeros(channels, np.float32)
        for phase in phases(window):
            view = target[(slice(None), slice(None), *phase.pixels)]
            weights = turned[(slice(None), slice(None), slice(None), *phase.taps)]
            self._correlate(gradient, weights, nothing, view, (1, 1, 1), phase.dilation, phase.before, False)
        return dy.like(dx)

    def conv_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        if math.prod(window.output) == 1:
            self._chain_weight_gradient(dy, x, window, groups, out)
            return
        outputs, channels = out.shape[0], out.shape[1]
        c = window3d(window, rows=True)
        kernel, output = c.kernel, c.output
        sizes = outputs // groups, channels, *kernel
        if c.stride == c.dilation == (1, 1, 1) and kernel[0] == c.input[0] == 1:
            before, pixels = c.before[2], output[2]
            outside = before, pixels + kernel[2] - 1 - c.input[2] - before
            row_tile = tiles.gradient_row_tile(*sizes[:2], kernel[2], pixels, outside)
            if row_tile and c.before[0] == 0:
                self._row_weight_gradient(row_tile, outside, dy, x, c, groups, out)
                return
        tile = tiles.product_tile(sizes[0], channels, kernel[2])
        corners = tiles.corners(tile, sizes)
        blocks = dy.data.shape[0]
        part = self._empty((blocks, outputs, channels, *kernel))
        band = rows_per_band(output[2])
        chunks = min(len(corners), -(-_UNITS_PER_THREAD * self.threads // (blocks * groups)))
        levels = sums.levels(-(-output[0] * output[1] // band))
        slots = self._empty((self.threads, levels * -(-len(corners) // chunks) * -(-math.prod(tile) // LANES) * LANES))
        given = _rows(self._data(dy)), _rows(self._data(x)), part, slots, corners, dy.images, groups, band
        dense_taps = c.dilation[2] == 1 and given[1].strides[4] == LANES * 4
        gradient = conv.conv_weight_gradient_of(*tile, dense_taps)
        self._run(gradient, *given, c.stride, c.dilation, c.before, chunks)
        self._block_tree(part.reshape(blocks, -1), out.reshape(-1))

    def _row_weight_gradient(self, tile, outside, dy: Batch, x: Batch, c: Window3d, groups: int, out: Array) -> None:
        """The weight gradient by whole kernel rows, with tiles of (OB, CB)."""
        (outputs, channels), (_, height, width) = out.shape[:2], c.kernel
        over_o, over_c = -(-(outputs // groups) // tile[0]), -(-channels // tile[1])
        blocks, band, line = dy.data.shape[0], rows_per_band(c.output[2]), c.input[2]
        bands = -(-c.output[1] // band)
        depth = tiles.strip_bands(channels, line, height, band, bands)
        part = self._empty((blocks, outputs, channels, *c.kernel))
        strips = self._empty((self.threads, channels * (depth * band + height - 1) * line * LANES))
        chunks = min(over_o, -(-_UNITS_PER_THREAD * self.threads // (blocks * groups)))
        slot = -(-math.prod(tile) * width // LANES) * LANES
        scratch = self._empty((self.threads, sums.levels(bands) * -(-over_o // chunks) * over_c * height * slot))
        given = _deep(self._data(dy)), _deep(self._data(x)), part, strips, scratch, dy.images, groups, band
        self._run(gradient_rows.gradient_rows_of(*tile, width, *outside), *given, c.before, chunks, depth)
        self._block_tree(part.reshape(blocks, -1), out.reshape(-1))

    def _block_tree(self, part: np.ndarray, out: np.ndarray) -> None:
        slots = self._empty((-(-part.shape[1] // LANES), sums.levels(len(part)) * LANES))
        self._run(sums.block_tree, part, slots, out)

    def _chain_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        """The weight gradient where each image has one position."""
        blocks, outputs = dy.data.shape[0], out.shape[0]
        terms = math.prod(out.shape[1:])  # of one group
        vectors = -(-terms // LANES)
        ob, cb = tiles.broadcast_tile(outputs // groups, vectors)
        # The last tile of the last group may read past the terms: leave it room.
        turned = self._empty((blocks, LANES, -(-terms * groups // LANES) * LANES + cb * LANES))
        c = window3d(window)
        square = self._empty((self.threads, LANES * LANES))
        self._run(dense.patches, _deep(self._data(x)), c.kernel, c.dilation, c.before, turned, square)
        slots = self._empty((self.threads, sums.levels(blocks) * ob * cb * LANES))
        gradient = self._data(dy).reshape(blocks, outputs, LANES)
        kernel = dense.dense_weight_gradient_of(ob, cb)
        self._run(kernel, gradient, turned, out.reshape(outputs, terms), slots, dy.images, groups)

    def bias_gradient(self, dy: Batch, out: Array) -> None:
        slots = self._slots64(dy, 2)
        self._run(norm.bias_gradient, _flat(self._data(dy)), out, dy.images, positions_per_band(dy.spatial), slots)

    def _slots64(self, x: Batch, trees: int) -> np.ndarray:
        """Waiting sums for trees over a map's bands and over the blocks."""
        positions = math.prod(x.spatial)
        terms = max(-(-positions // positions_per_band(x.spatial)), x.data.shape[0])
        return self._empty((x.channels, trees, sums.levels(terms)), np.float64)

    def dense(self, x: Batch, w: Array, bias: Array | None, relu: bool = False) -> Batch:
        y = self._empty((x.data.shape[0], len(w), LANES))
        bias = np.zeros(len(w), np.float32) if bias is None else bias
        weights = w.reshape(1, *w.shape, 1, 1, 1)
        one, none = (1, 1, 1), (0, 0, 0)
        self._correlate(_deep(self._data(x)), weights, bias, _deep(y), one, one, none, relu)
        return x.like(y)

    def dense_input_gradient(self, dy: Batch, w: Array) -> Batch:
        dx = self._empty((dy.data.shape[0], w.shape[1], LANES))
        weights = w.reshape(1, *w.shape, 1, 1, 1).swapaxes(1, 2)
        one, none = (1, 1, 1), (0, 0, 0)
        nothing = np.zeros(w.shape[1], np.float32)
        self._correlate(_deep(self._data(dy)), weights, nothing, _deep(dx), one, one, none, False)
        return dy.like(dx)

    def dense_weight_gradient(self, dy: Batch, x: Batch, out: Array) -> None:
        self._chain_weight_gradient(dy, x, _POINT, 1, out)

    # ---- pooling -----------------------------------------------------------------------------------------------------

    def max_pool(self, x: Batch, window: Window) -> tuple[Batch, Array]:
        y = self._empty((*x.data.shape[:2], *window.output, LANES))
        where = self._empty(y.shape)
        self._run(pool_kernels.max_pool, _deep(self._data(x)), _deep(y), _deep(where), *_pool_geometry(window))
        return x.like(y), where

    def max_pool_gradient(self, dy: Batch, where: Array, window: Window) -> Batch:
        dx = self._empty((*dy.data.shape[:2], *window.input, LANES))
        apart = all(s >= d * (k - 1) + 1 for s, d, k in zip(window.stride, window.dilation, window.kernel, strict=True))
        kernel = pool_kernels.max_pool_gradient_apart if apart else pool_kernels.max_pool_gradient
        self._run(kernel, _deep(self._data(dy)), _deep(where), _deep(dx), *_pool_geometry(window))
        return dy.like(dx)

    def avg_pool(self, x: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        y = self._empty((*x.data.shape[:2], *window.output, LANES))
        counts = _counts(window, count_include_pad)
        self._run(pool_kernels.avg_pool, _deep(self._data(x)), _deep(y), counts, *_pool_geometry(window))
        return x.like(y)

    def avg_pool_gradient(self, dy: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        dx = self._empty((*dy.data.shape[:2], *window.input, LANES))
        counts = _counts(window, count_include_pad)
        self._run(pool_kernels.avg_pool_gradient, _deep(self._data(dy)), _deep(dx), counts, *_pool_geometry(window))
        return dy.like(dx)

    def global_avg_pool(self, x: Batch) -> Batch:
        y = self._empty((*x.data.shape[:2], LANES))
        bands = -(-math.prod(x.spatial) // positions_per_band(x.spatial))
        slots = self._empty((*x.data.shape[:2], sums.levels(bands), LANES), np.float64)
        self._run(norm.global_avg_pool, _flat(self._data(x)), y, positions_per_band(x.spatial), slots)
        return x.like(y)

    def global_avg_pool_gradient(self, dy: Batch, spatial: tuple[int, ...]) -> Batch:
        dx = self._empty((*dy.data.shape[:2], *spatial, LANES))
        self._run(norm.global_avg_pool_gradient, self._data(dy), _flat(dx), np.float32(math.prod(spatial)))
        return dy.like(dx)

    # ---- elementwise -------------------------------------------------------------------------------------------------

    def _map(self, kernel: Kernel, *inputs: Batch, options: tuple = ()) -> Batch:
        y = self._like(inputs[0])
        self._run(kernel, *(self._data(x).reshape(-1) for x in inputs), y.data.reshape(-1), *options)
        return y

    def relu(self, x: Batch) -> Batch:
        return self._map(elementwise.relu, x)

    def relu_gradient(self, dy: Batch, y: Batch) -> Batch:
        return self._map(elementwise.relu_gradient, dy, y)

    def tanh(self, x: Batch) -> Batch:
        return self._map(elementwise.tanh, x)

    def tanh_gradient(self, dy: Batch, y: Batch) -> Batch:
        return self._map(elementwise.tanh_gradient, dy, y)

    def sigmoid(self, x: Batch) -> Batch:
        return self._map(elementwise.sigmoid, x)

    def sigmoid_gradient(self, dy: Batch, y: Batch) -> Batch:
        return self._map(elementwise.sigmoid_gradient, dy, y)

    def add(self, a: Batch, b: Batch, relu: bool = False) -> Batch:
        return self._map(elementwise.add_batches, a, b, options=(relu,))

    def dropout(self, x: Batch, rate: float, seed: int, step: Array, layer: int) -> Batch:
        y = self._like(x)
        shape = (x.data.shape[0], -1, LANES)
        scale = np.float32(1 / (1 - rate))
        values, results = self._data(x).reshape(shape), y.data.reshape(shape)
        self._run(random_kernels.dropout, values, results, np.float32(rate), scale, np.uint64(seed), step, layer)
        return y

    # ---- batch norm --------------------------------------------------------------------------------------------------

    def batch_norm_statistics(self, x: Batch) -> tuple[Array, Array, Array]:
        results = tuple(self._empty((x.channels,)) for _ in range(3))
        data = _flat(self._data(x))
        self._run(
            norm.batch_norm_statistics, data, *results, x.images, positions_per_band(x.spatial), self._slots64(x, 2)
        )
        return results

    def batch_norm(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, relu: bool = False
    ) -> Batch:
        y = self._like(x)
        data = _flat(self._data(x))
        self._run(norm.batch_norm, data, mean, var, gamma, beta, np.float32(eps), _flat(y.data), relu)
        return y

    def batch_norm_gradient(
        self, dy: Batch, x: Batch, mean: Array, var: Array, gamma: Array, eps: float, out_gamma: Array, out_beta: Array
    ) -> Batch:
        # Without ReLU beta has no part in it: gamma stands in its place.
        return self._batch_norm_gradient(dy, x, mean, var, gamma, gamma, eps, False, out_gamma, out_beta)

    def batch_norm_relu_gradient(
        self,
        dy: Batch,
        y: Batch,
        x: Batch,
        mean: Array,
        var: Array,
        gamma: Array,
        beta: Array,
        eps: float,
        out_gamma: Array,
        out_beta: Array,
    ) -> Batch:
        return self._batch_norm_gradient(dy, x, mean, var, gamma, beta, eps, True, out_gamma, out_beta)

    def _batch_norm_gradient(self, dy, x, mean, var, gamma, beta, eps, rectified, out_gamma, out_beta) -> Batch:
        dx = self._like(x)
        given = _flat(self._data(dy)), _flat(self._data(x)), mean, var, gamma, beta, np.float32(eps), rectified
        wanted = _flat(dx.data), out_gamma, out_beta
        self._run(
            norm.batch_norm_gradient, *given, *wanted, x.images, positions_per_band(x.spatial), self._slots64(x, 4)
        )
        return dx

    def batch_norm_max_pool(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, pool: Window
    ) -> tuple[Batch, Array]:
        if not _is_halving(pool):
            return super().batch_norm_max_pool(x, mean, var, gamma, beta, eps, pool)
        y = self._empty((*x.data.shape[:2], *pool.output, LANES))
        where = self._empty(y.shape)
        given = self._data(x), mean, var, gamma, beta, np.float32(eps)
        self._run(norm_pool.batch_norm_max_pool, *given, y, where)
        return x.like(y), where

    def batch_norm_max_pool_gradient(
        self,
        dy: Batch,
        kept: Array,
        x: Batch,
        mean: Array,
        var: Array,
        gamma: Array,
        beta: Array,
        eps: float,
        pool: Window,
        out_gamma: Array,
        out_beta: Array,
    ) -> Batch:
        if not _is_halving(pool):
            given = dy, kept, x, mean, var, gamma, beta, eps, pool
            return super().batch_norm_max_pool_gradient(*given, out_gamma, out_beta)
        dx = self._like(x)
        given = self._data(dy), kept, self._data(x), mean, var, gamma, beta, np.float32(eps)
        sums_ = x.images, rows_per_band(pool.input[1]), self._slots64(x, 4)
        self._run(norm_pool.batch_norm_max_pool_gradient, *given, dx.data, out_gamma, out_beta, *sums_)
        return dx

    def batch_norm_input_gradient(self, dy: Batch, var: Array, gamma: Array, eps: float) -> Batch:
        dx = self._like(dy)
        self._run(norm.batch_norm_input_gradient, _flat(self._data(dy)), var, gamma, np.float32(eps), _flat(dx.data))
        return dx

    def update_running(self, running: Array, batch: Array, momentum: float) -> None:
        self._run(optimizers.update_running, running, batch, np.float32(momentum))

    # ---- loss --------------------------------------------------------------------------------------------------------

    def softmax(self, x: Batch) -> Batch:
        y = self._like(x)
        self._run(loss.softmax, _flat(self._data(x)), _flat(y.data))
        return y

    def softmax_cross_entropy(self, logits: Batch, labels: Array, totals: Array | None = None) -> tuple[Array, Batch]:
        blocks = logits.data.shape[0]
        dz, mean = self._like(logits), self._empty((1,))
        totals = np.zeros(2) if totals is None else totals
        part, slots = self._empty((2, blocks), np.float64), self._empty((sums.levels(blocks),), np.float64)
        scale = np.float32(1 / logits.images)
        given = self._data(logits), labels, dz.data, logits.images, scale
        self._run(loss.softmax_cross_entropy, *given, mean, totals, part, slots)
        return mean, dz

    # ---- optimisers --------------------------------------------------------------------------------------------------

    def sgd(
        self, w: Array, g: Array, v: Array, hyper: Array, *, momentum: float, weight_decay: float, nesterov: bool
    ) -> None:
        self._run(optimizers.sgd, w, g, v, hyper, np.float32(momentum), np.float32(weight_decay), bool(nesterov))

    def adam(
        self,
        w: Array,
        g: Array,
        m: Array,
        v: Array,
        hyper: Array,
        *,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        constants = [np.float32(c) for c in (beta1, beta2, 1 - beta1, 1 - beta2, eps, weight_decay)]
        self._run(optimizers.adam, w, g, m, v, hyper, *constants, bool(decoupled))

    def watch(self, status: Array, step: Array, loss: Array, w: Array) -> None:
        self._run(optimizers.watch, status, step, loss, w)


_POINT = Window((), (), (), (), (), ())


def _pool_geometry(window: Window) -> tuple:
    c = window3d(window)
    return c.kernel, c.stride, c.dilation, c.before


def _is_halving(pool: Window) -> bool:
    """Whether it takes 2x2 pixels each, none of them twice or outside the image."""
    return (
        pool.kernel == pool.stride == (2, 2)
        and pool.dilation == (1, 1)
        and pool.padding == ((0, 0), (0, 0))
        and all(2 * p <= i for p, i in zip(pool.output, pool.input, strict=True))
    )


@functools.cache
def _counts(window: Window, count_include_pad: bool) -> np.ndarray:
    counts = pool_counts(window, count_include_pad)
    return counts.reshape(window3d(window).output).astype(np.float32)
