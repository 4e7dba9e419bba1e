"""Convolution as launches of kernels/cuda/conv.cu."""

import math

from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda import tiles
from gpucnn.backends.cuda.dense import CudaDense
from gpucnn.backends.cuda.layout import HALVES, LANES, axes, ceil_div, i32, i64
from gpucnn.backends.cuda.norm import CudaNorm, halving_of
from gpucnn.backends.cuda.pool import tap_type
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import Three, Window3d, is_dense, is_halving, phases, rows_per_band, three, window3d
from gpucnn.errors import BackendError
from gpucnn.geometry import Window


class CudaConv(CudaDense, CudaNorm):
    """See the protocol for what each method does."""

    def conv(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int = 1, relu: bool = False
    ) -> Batch:
        if is_dense(window, groups):
            flat = self.dense(x.reshape(-1), w.reshape(len(w), -1), bias, relu)
            return flat.reshape(len(w), *window.output)
        sizes, outputs, channels = window3d(window), len(w) // groups, w.shape[1]
        y = self._maps(x, len(w), window.output)
        weights = _weight_strides(outputs, channels, sizes.kernel)
        pixels = math.prod(sizes.output)
        places = 0, len(w) * pixels, outputs * pixels, pixels, *_strides(sizes.output)
        arrays, counts = (self._data(x), w, bias, None, y.data), (groups, channels, outputs)
        self._correlate(*arrays, sizes, counts, weights, places, relu)
        return y

    def conv_max_pool(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int, pool: Window
    ) -> tuple[Batch, Array]:
        sizes, outputs, channels, blocks = window3d(window), len(w) // groups, w.shape[1], x.data.shape[0]
        pooled = three(pool.output, 1)
        tile = None
        if _is_plain(window, pool) and not is_dense(window, groups):
            tile = tiles.pooled_conv_tile(outputs, channels, pooled, sizes.kernel, blocks, self.launcher.processors)
        if tile is None:
            return super().conv_max_pool(x, w, bias, window, groups, pool)
        ob, qb, wk, wp, _, _ = tile
        geometry = ", ".join(map(axes, (sizes.input, pooled, sizes.kernel, sizes.before)))
        expression = f"conv_max_pool<Tile<{', '.join(map(str, tile))}>, {groups}, {channels}, {outputs}, {geometry}>"
        y = self._maps(x, len(w), pool.output)
        where = self._empty(y.data.shape, tap_type(pool)[0])
        grid = ceil_div(blocks * pooled[1] * ceil_div(pooled[2], qb), wp), ceil_div(outputs, ob * wk) * groups
        arguments = self._data(x), w, bias, y.data, where, i32(blocks)
        self._run("conv.cu", expression, grid, (LANES, wk * wp), *arguments)
        return y, where

    def conv_max_pool_gradient(self, dy: Batch, y: Batch, where: Array, pool: Window, out_bias: Array | None) -> Batch:
        if not is_halving(pool):
            return super().conv_max_pool_gradient(dy, y, where, pool, out_bias)
        dz = self._maps(dy, dy.channels, pool.input)
        arguments = self._data(dy), self._data(y), halving_of(where, pool), dz.data, out_bias
        self._sum_channels("conv_max_pool_gradient", 1, dz, *arguments)
        return dz

    def _correlate(self, x, w, bias, other, y, sizes: Window3d, channels, weights, places, relu: bool) -> None:
        """Launch conv.cu's forward kernel. The first and the strides: `weights` along group, output, channel and the
        kernel's axes, in elements; `places` of the outputs, as conv.cu's struct.
        """
        groups, inputs, outputs = channels
        blocks, processors = x.shape[0], self.launcher.processors
        row = sizes.stride[2], sizes.dilation[2]
        try:
            tile = tiles.conv_tile(outputs, inputs, sizes.output, sizes.kernel, *row, blocks, processors)
        except ValueError as error:
            raise BackendError(str(error)) from None
        ob, qb, wk, wp, _, _ = tile
        geometry = sizes.input, sizes.output, sizes.kernel, sizes.stride, sizes.dilation, sizes.before
        first, group, output, channel, *taps = weights
        strides = f"WeightStrides<{group}, {output}, {channel}, {axes(taps)}>"
        expression = (
            f"conv<Tile<{', '.join(map(str, tile))}>, {groups}, {inputs}, {outputs}, "
            f"{', '.join(map(axes, geometry))}, {strides}>"
        )
        units = blocks * sizes.output[0] * sizes.output[1] * ceil_div(sizes.output[2], qb)
        grid = ceil_div(units, wp), ceil_div(outputs, ob * wk) * groups
        numbers = i32(blocks), i32(first), (i64(places[0]), i64(places[1]), *map(i32, places[2:])), i32(relu)
        self._run("conv.cu", expression, grid, (LANES, wk * wp), x, w, bias, other, y, *numbers)

    def conv_input_gradient(self, dy: Batch, w: Array, window: Window, groups: int = 1) -> Batch:
        return self._input_gradient(dy, w, window, groups, None)

    def conv_input_gradient_add(self, dy: Batch, w: Array, window: Window, groups: int, other: Batch) -> Batch:
        reached = all(_lengths(phase.taps, window3d(window).kernel)[1] for phase in phases(window))
        if is_dense(window, groups) or not reached:
            return super().conv_input_gradient_add(dy, w, window, groups, other)
        return self._input_gradient(dy, w, window, groups, self._data(other))

    def _input_gradient(self, dy: Batch, w: Array, window: Window, groups: int, other: Array | None) -> Batch:
        if is_dense(window, groups):
            return self.dense_input_gradient(dy.reshape(-1), w.reshape(len(w), -1)).reshape(w.shape[1], *window.input)
        sizes, outputs, channels = window3d(window), len(w) // groups, w.shape[1]
        shape = (dy.data.shape[0], channels * groups, *window.input, LANES)
        # A phase of pixels that no output reads has no taps, and no kernel writes it.
        complete = all(_lengths(phase.taps, sizes.kernel)[1] for phase in phases(window))
        dx = self._empty(shape) if complete else self.zeros(shape)
        taps, pixels, data = math.prod(sizes.kernel), math.prod(sizes.input), self._data(dy)
        for phase in phases(window):
            kernel, count = _lengths(phase.taps, sizes.kernel)
            if not count:
                continue
            # Outputs and inputs of the forward kernel are swapped: an output here is a channel of w.
            first, along = _sliced(phase.taps, sizes.kernel)
            weights = first, outputs * channels * taps, taps, channels * taps, *along
            first, along = _sliced(phase.pixels, sizes.input)
            places = first, groups * channels * pixels, channels * pixels, pixels, *along
            target, _ = _lengths(phase.pixels, sizes.input)
            correlation = Window3d(sizes.output, kernel, (1, 1, 1), phase.dilation, phase.before, target)
            sizes_, ends = (groups, outputs, channels), (other, dx)
            self._correlate(data, w, None, *ends, correlation, sizes_, weights, places, False)
        return dy.like(dx)

    def conv_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        if math.prod(window.output) == 1:
            self._chain_weight_gradient(dy, x, window, groups, out)
            return
        sizes, outputs, channels = window3d(window, rows=True), out.shape[0] // groups, out.shape[1]
        band, blocks = rows_per_band(sizes.output[2]), dy.data.shape[0]
        row = sizes.stride[2], sizes.dilation[2]
        shape = outputs, channels, groups, sizes.output, sizes.kernel, *row, band
        tile = tiles.gradient_tile(*shape, blocks, self.launcher.processors)
        ob, cb, rb, sb, _, warps, together = tile
        geometry = sizes.input, sizes.output, sizes.kernel, sizes.stride, sizes.dilation, sizes.before
        expression = (
            f"conv_weight_gradient<GradientTile<{', '.join(map(str, tile))}>, {groups}, {channels}, {outputs}, "
            f"{', '.join(map(axes, geometry))}, {band}>"
        )
        kd, kh, kw = sizes.kernel
        units = groups * ceil_div(outputs, ob) * ceil_div(channels, cb) * kd * ceil_div(kh, rb) * ceil_div(kw, sb)
        bands = ceil_div(ceil_div(sizes.output[0] * sizes.output[1], band), together)
        part = self._empty((blocks * HALVES, bands, out.size))
        self._next_branch()
        grid = ceil_div(units, warps), bands, blocks
        counters = self._counters_of(grid[0], overlap=True)
        arguments = self._data(dy), self._data(x), part, out, i32(dy.images), counters
        self._run("conv.cu", expression, grid, (LANES, warps), *arguments, overlap=(part, out, counters))


def _strides(sizes: Three) -> Three:
    """The strides of a contiguous array of three axes."""
    return sizes[1] * sizes[2], sizes[2], 1


def _weight_strides(outputs: int, channels: int, kernel: Three) -> tuple[int, ...]:
    """The first of contiguous weights and their strides along group, output, channel, and the kernel's axes."""
    taps = math.prod(kernel)
    return 0, outputs * channels * taps, channels * taps, taps, *_strides(kernel)


def _is_plain(window: Window, pool: Window) -> bool:
    """Whether conv.cu has a kernel for this convolution and pooling: two axes, disjoint 2x2 windows."""
    return len(window.input) == 2 and window.stride == window.dilation == (1, 1) and is_halving(pool)


def _sliced(slices, sizes: Three) -> tuple[int, Three]:
    """(first element, strides) of a contiguous array of three axes after slicing."""
    d, h, w = (range(*s.indices(size)) for s, size in zip(slices, sizes, strict=True))
    along = _strides(sizes)
    first = d.start * along[0] + h.start * along[1] + w.start * along[2]
    return first, (d.step * along[0], h.step * along[1], w.step * along[2])


def _lengths(slices, sizes: Three) -> tuple[Three, int]:
    """The number of entries in each slice, and their product."""
    d, h, w = (len(range(*s.indices(size))) for s, size in zip(slices, sizes, strict=True))
    return (d, h, w), d * h * w
