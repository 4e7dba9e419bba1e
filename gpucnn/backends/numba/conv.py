"""Convolution on the CPU backend, with its gradients."""

import math

import numpy as np

from gpucnn.arithmetic.sums import BAND
from gpucnn.backends.batch import Batch
from gpucnn.backends.numba import correlation, tiles
from gpucnn.backends.numba.correlation import UNITS_PER_THREAD
from gpucnn.backends.numba.dense import NumbaDense
from gpucnn.backends.numba.layout import deep, flat, is_side_by_side, rows
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import Window3d, is_dense, is_halving, phases, positions_per_band, rows_per_band, window3d
from gpucnn.geometry import Window
from gpucnn.kernels.numba import conv, gradient_maps, gradient_rows, sums
from gpucnn.kernels.numba import pool as pool_kernels
from gpucnn.kernels.numba.simd import LANES


class NumbaConv(NumbaDense):
    """See the protocol for what each method does."""

    def conv(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int = 1, relu: bool = False
    ) -> Batch:
        if is_dense(window, groups):
            flat = self.dense(x.reshape(-1), w.reshape(len(w), -1), bias, relu)
            return flat.reshape(len(w), *window.output)
        y = self._maps(x, len(w), window.output)
        c = window3d(window)
        weights = w.reshape(groups, len(w) // groups, w.shape[1], *c.kernel)
        bias = np.zeros(len(w), np.float32) if bias is None else bias
        geometry = c.stride, c.dilation, c.before
        self._correlate(x, weights, bias, deep(y.data), *geometry, relu)
        return y

    def conv_input_gradient(self, dy: Batch, w: Array, window: Window, groups: int = 1) -> Batch:
        return self._input_gradient(dy, w, window, groups, None)

    def conv_input_gradient_add(self, dy: Batch, w: Array, window: Window, groups: int, other: Batch) -> Batch:
        return self._input_gradient(dy, w, window, groups, other)

    def _input_gradient(self, dy: Batch, w: Array, window: Window, groups: int, other: Batch | None) -> Batch:
        """The gradient, plus `other` if it is not None."""
        if is_dense(window, groups):
            dx = self.dense_input_gradient(dy.reshape(-1), w.reshape(len(w), -1)).reshape(w.shape[1], *window.input)
            return dx if other is None else self.add(dx, other)
        channels = w.shape[1] * groups
        dx = self._maps(dy, channels, window.input)
        if groups == channels == len(w) and self._map_input_gradient(dy, w, window3d(window), dx):
            return dx if other is None else self.add(dx, other)
        # (group, O/group, C/group, *K) as (group, C/group, O/group, *K): outputs become inputs.
        turned = w.reshape(groups, len(w) // groups, w.shape[1], *window3d(window).kernel).swapaxes(1, 2)
        target, nothing = deep(dx.data), np.zeros(channels, np.float32)
        addends = None if other is None else deep(self._data(other))
        for phase in phases(window):
            seen = slice(None), slice(None), *phase.pixels
            weights = turned[(slice(None), slice(None), slice(None), *phase.taps)]
            addend = None if addends is None else addends[seen]
            geometry = (1, 1, 1), phase.dilation, phase.before
            self._correlate(dy, weights, nothing, target[seen], *geometry, False, addend)
        return dx

    def conv_max_pool(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int, pool: Window
    ) -> tuple[Batch, Array]:
        if not (window.stride == window.dilation == (1, 1) and is_halving(pool)):
            return super().conv_max_pool(x, w, bias, window, groups, pool)
        y = self._maps(x, len(w), pool.output)
        where = self._empty(y.data.shape)
        outputs, width = len(w) // groups, window.kernel[1]
        sizes = outputs, 2 * pool.output[1]
        weights = w.reshape(groups, outputs, w.shape[1], 1, *window.kernel)
        bias = np.zeros(len(w), np.float32) if bias is None else bias
        maps = deep(self._data(x)), weights, bias, deep(y.data), deep(where)

        def launch(ob: int, qb: int, width: int) -> tuple:
            number = -(-outputs // ob)
            packed = self._empty((groups, number, math.prod(w.shape[1:]), ob))
            chunks = min(number, -(-UNITS_PER_THREAD * self.threads // (len(where) * groups * pool.output[0])))
            return conv.conv_max_pool_of(ob, qb, width), *maps, packed, window3d(window).before, chunks

        if not self._try(launch(*tiles.pooled_tile(*sizes), width if width in correlation.WIDTHS else 0)):
            self._run(*launch(*tiles.general(tiles.GENERAL_POOLED, *sizes), 0))
        return y, where

    def conv_max_pool_gradient(self, dy: Batch, y: Batch, where: Array, pool: Window, out_bias: Array | None) -> Batch:
        covers = is_side_by_side(pool) and all(k * p == i for k, p, i in zip(pool.kernel, pool.output, pool.input))
        if out_bias is None or not covers:
            return super().conv_max_pool_gradient(dy, y, where, pool, out_bias)
        blocks, channels = dy.data.shape[:2]
        dx = self._maps(dy, channels, pool.input)
        band = positions_per_band(pool.input)
        part = self._empty((blocks, channels), np.float64)
        levels = sums.levels(max(-(-math.prod(pool.input) // band), blocks))
        slots = self._empty((blocks * channels, levels), np.float64)
        kernel = pool_kernels.max_pool_relu_bias_gradient_of(*window3d(pool).kernel)
        arguments = deep(self._data(dy)), deep(self._data(y)), deep(where), deep(dx.data)
        self._run(kernel, *arguments, out_bias, dy.images, band, part, slots)
        return dx

    def conv_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        if math.prod(window.output) == 1:
            self._chain_weight_gradient(dy, x, window, groups, out)
            return
        outputs, channels = out.shape[0], out.shape[1]
        c = window3d(window)
        sizes = outputs // groups, channels, *c.kernel
        few, halves, awaited = tiles.fills_half(dy.images), tiles.halves(), False
        pairs = few and sizes[0] % 2 == 0
        if c.kernel[0] == c.input[0] == c.output[0] == 1 and c.before[0] == 0:
            settings = dy, x, c, groups, out
            is_line, row_tile = len(window.input) == 1, None
            if c.dilation == (1, 1, 1) and not (is_line and c.output[2] > BAND):
                if groups > 1 and channels == 1 and sizes[0] < 4 and tiles.fits_registers(math.prod(c.kernel)):
                    if self._map_weight_gradient(dy, x, c, out):
                        return
                    awaited = True
                outside = tiles.outside(c.input[2], c.before[2], c.output[2], c.stride[2], c.kernel[2])
                # Under a stride the rows that no window sees would be copied in vain.
                if c.stride[1] <= c.kernel[1]:
                    row_tile = tiles.gradient_row_tile(
                        *sizes[:2], c.kernel[2], c.output[2], outside, c.stride[2], pairs
                    )
            if row_tile and not awaited:
                if self._row_weight_gradient(row_tile, pairs, outside, *settings):
                    return
                awaited = True
            elif is_line and not awaited:
                line_tile = tiles.gradient_line_tile(*sizes[:2], c.kernel[2], c.stride[2], c.dilation[2], pairs)
                if line_tile and self._line_weight_gradient(line_tile, pairs, *settings):
                    return
                awaited = line_tile is not None
        c = window3d(window, rows=True)
        kernel, output = c.kernel, c.output
        sizes = outputs // groups, channels, *kernel
        blocks = dy.data.shape[0]
        part = self._empty((blocks, outputs, channels, *kernel))
        band = rows_per_band(output[2])
        maps = rows(self._data(dy)), rows(self._data(x)), part
        dense_taps = c.dilation[2] == 1 and maps[1].strides[4] == LANES * 4
        own = halves
        if halves and few:  # one half of a vector holds them, without pairs
            own, pairs = 1, False

        def launch(tile, dense_taps: bool, pairs: bool, halves: int) -> tuple:
            pair = 2 if pairs else 1
            corners = tiles.corners((pair * tile[0], *tile[1:]), sizes)
            chunks = min(len(corners), -(-UNITS_PER_THREAD * self.threads // (blocks * groups)))
            levels = sums.levels(-(-output[0] * output[1] // band)) * -(-len(corners) // chunks)
            slots = self._empty((self.threads, levels * -(-math.prod(tile) * pair // LANES) * LANES))
            gradient = conv.conv_weight_gradient_of(*tile, dense_taps, pairs, halves)
            numbers = dy.images, groups, band, c.stride, c.dilation, c.before, chunks
            return gradient, *maps, slots, corners, *numbers

        tile = tiles.product_tile(sizes[0] // 2 if pairs else sizes[0], channels, kernel[2])
        if awaited or not self._try(launch(tile, dense_taps, pairs, own)):
            self._run(*launch(tiles.general(tiles.GENERAL_PRODUCT, *sizes[:2], kernel[2]), False, False, halves))
        self._block_tree(part.reshape(blocks, 1, -1), out.reshape(-1))

    def _map_input_gradient(self, dy: Batch, w: Array, c: Window3d, dx: Batch) -> bool:
        """The input gradient of a depthwise convolution with a stride; False if there is no kernel, or not yet."""
        planes = c.kernel[0] == c.input[0] == c.output[0] == 1 and c.before[0] == 0
        if not planes or c.stride == (1, 1, 1) or c.dilation != (1, 1, 1):
            return False
        (_, *kernel), (_, *stride) = c.kernel, c.stride
        seen = [-(-k // s) for k, s in zip(kernel, stride, strict=True)]
        sizes = [(i - 1 + b) // s + a for i, b, s, a in zip(c.input[1:], c.before[1:], stride, seen, strict=True)]
        maps = self._empty((self.threads, *sizes, LANES))
        factors = self._empty((self.threads, -(-math.prod(stride) * math.prod(seen) // LANES) * LANES))
        arguments = deep(self._data(dy)), w.reshape(len(w), *kernel), deep(dx.data), maps, factors, c.before
        return self._try((gradient_maps.input_gradient_maps_of(*kernel, *stride), *arguments))

    def _map_weight_gradient(self, dy: Batch, x: Batch, c: Window3d, out: Array) -> bool:
        """The weight gradient of a depthwise convolution; False if its kernel is still being compiled."""
        blocks, (_, tall, wide) = dy.data.shape[0], ((o - 1) * s + k for o, s, k in zip(c.output, c.stride, c.kernel))
        gradient, band = deep(self._data(dy)), rows_per_band(c.output[2])
        part = self._empty((blocks, len(out), 1, *c.kernel))
        maps = self._empty((self.threads, tall, wide, LANES))
        slot = -(-math.prod(c.kernel) // LANES) * LANES
        scratch = self._empty((self.threads, sums.levels(-(-c.output[1] // band)) * slot))
        data, reading = self._reading(x)
        arguments = gradient, deep(data), part, maps, scratch, dy.images, band, c.stride, c.before, *reading
        if not self._try((gradient_maps.gradient_maps_of(*c.kernel[1:]), *arguments)):
            return False
        self._block_tree(part.reshape(blocks, 1, -1), out.reshape(-1))
        return True

    def _row_weight_gradient(
        self, tile, pairs: bool, outside, dy: Batch, x: Batch, c: Window3d, groups: int, out: Array
    ) -> bool:
        """The weight gradient by whole kernel rows, with tiles of (OB, CB), OB counting pairs of channels if there are
        any; False if its kernel is still being compiled.
        """
        channels, (_, height, width) = out.shape[1], c.kernel
        data, reading = self._reading(x)
        gradient = deep(self._data(dy))
        blocks, outputs, pair = len(gradient), len(out) // groups, 2 if pairs else 1
        over_o, over_c = -(-outputs // pair // tile[0]), -(-channels // tile[1])
        band = rows_per_band(c.output[2])
        bands = -(-c.output[1] // band)
        units = -(-UNITS_PER_THREAD * self.threads // (blocks * groups))
        span = tiles.bands_together(bands, units)
        parts = -(-bands // span)
        chunks = min(over_o, -(-units // parts))
        slot = -(-math.prod(tile) * width * pair // LANES) * LANES
        scratch = self._empty((self.threads, sums.levels(span) * -(-over_o // chunks) * over_c * height * slot))
        part = self._empty((blocks, parts, len(out), channels, *c.kernel))
        rows = (min(c.input[1], (n * band - 1) * c.stride[1] + height) for n in (span, 1))
        room = tiles.strip_rows(channels, c.input[2], *rows)
        strips = self._empty((self.threads, channels * room * c.input[2] * LANES))
        most = min(outputs // 2, (-(-over_o // chunks) + 1) * tile[0]) if pairs else 0
        paired = self._empty((self.threads, most * band * c.output[2] * LANES))
        kernel = gradient_rows.gradient_rows_of(*tile, width, *outside, c.stride[2], pairs, tiles.halves())
        numbers = dy.images, groups, band, span, c.stride[1], c.before, chunks, room
        if not self._try((kernel, gradient, deep(data), part, strips, paired, scratch, *numbers, *reading)):
            return False
        self._block_tree(part.reshape(blocks, parts, -1), out.reshape(-1))
        return True

    def _line_weight_gradient(
        self, tile, pairs: bool, dy: Batch, x: Batch, c: Window3d, groups: int, out: Array
    ) -> bool:
        """The same of images of one axis, with tiles of (OB, CB, taps)."""
        channels, width, stride = out.shape[1], c.kernel[2], c.stride[2]
        data, reading = self._reading(x)
        gradient, launches = deep(self._data(dy)), list[tuple]()
        blocks, pair = len(gradient), 2 if pairs else 1
        places = tiles.line_places(width, stride, c.dilation[2], tile[2])
        over_o, over_c = -(-len(out) // groups // pair // tile[0]), -(-channels // tile[1])
        chunks = min(over_o, -(-UNITS_PER_THREAD * self.threads // (blocks * groups)))
        slot = len(places) * -(-math.prod(tile) * pair // LANES) * LANES
        levels = sums.levels(-(-c.output[2] // BAND))
        scratch = self._empty((self.threads, levels * -(-over_o // chunks) * over_c * slot))
        part = self._empty((blocks, *out.shape[:2], *c.kernel))
        if pairs:
            gradient = self._empty((blocks, len(out) // 2, *gradient.shape[2:]))
            launches.append((gradient_rows.channel_pairs, flat(self._data(dy)), flat(gradient)))
        reach = (width - 1) * c.dilation[2] + 1
        room = -(-((min(BAND, c.output[2]) - 1) * stride + reach) // stride)
        strips = self._empty((self.threads, channels * stride * room * LANES))
        kernel = gradient_rows.gradient_lines_of(*tile, pairs, tiles.halves())
        numbers = dy.images, groups, BAND, stride, reach, room, c.before[2], chunks
        launches.append((kernel, gradient, deep(data), part, strips, scratch, places, *numbers, *reading))
        if not self._try(*launches):
            return False
        self._block_tree(part.reshape(blocks, 1, -1), out.reshape(-1))
        return True

    def _block_tree(self, part: np.ndarray, out: np.ndarray) -> None:
        slots = self._empty((self.threads, (sums.levels(len(part)) + sums.levels(part.shape[1])) * LANES))
        self._run(sums.block_tree, part, slots, out)
