"""Convolution as launches of kernels/cuda/conv.cu."""

import math

from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.dense import CudaDense
from gpucnn.backends.cuda.layout import HALVES, LANES, axes, ceil_div, f32, i32, i64
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
        return self._conv(x, w, bias, window, groups, relu)

    def _conv(self, x: Batch, w, bias, window: Window, groups: int, relu: bool, norm=None, other=None) -> Batch:
        sizes, outputs, channels = window3d(window), len(w) // groups, w.shape[1]
        y = self._maps(x, len(w), window.output)
        weights = _weight_strides(outputs, channels, sizes.kernel)
        pixels = math.prod(sizes.output)
        places = 0, len(w) * pixels, outputs * pixels, pixels, *_strides(sizes.output)
        arrays = self._data(x), w, bias, other and self._data(other), y.data
        self._correlate(*arrays, sizes, (groups, channels, outputs), weights, places, relu, norm)
        return y

    def conv_inference(
        self, x: Batch, w, bias, window: Window, groups: int, *, norm=None, other=None, relu=False, pool=None
    ) -> Batch:
        if is_dense(window, groups):
            return super().conv_inference(x, w, bias, window, groups, norm=norm, other=other, relu=relu, pool=pool)
        if pool is not None and relu and other is None and (tile := self._pooled_tile(x, w, window, groups, pool)):
            return self._conv_max_pool(tile, x, w, bias, window, groups, pool, norm, None)
        y = self._conv(x, w, bias, window, groups, relu, norm, other)
        return y if pool is None else self.max_pool(y, pool)[0]

    def conv_max_pool(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int, pool: Window
    ) -> tuple[Batch, Array]:
        tile = self._pooled_tile(x, w, window, groups, pool)
        if tile is None:
            return super().conv_max_pool(x, w, bias, window, groups, pool)
        where = self._empty((x.data.shape[0], len(w), *pool.output, LANES), tap_type(pool)[0])
        return self._conv_max_pool(tile, x, w, bias, window, groups, pool, None, where), where

    def _pooled_tile(self, x: Batch, w: Array, window: Window, groups: int, pool: Window) -> tuple[int, ...] | None:
        """The tile of conv.cu's convolution with pooling; None if it has no kernel for these sizes."""
        if not _is_plain(window, pool) or is_dense(window, groups):
            return None
        sizes = three(pool.output, 1), window3d(window).kernel, x.data.shape[0], self.launcher.processors
        return self.tiles.choose("pooled conv", len(w) // groups, w.shape[1], *sizes, groups=groups)

    def _conv_max_pool(self, tile, x: Batch, w, bias, window: Window, groups: int, pool: Window, norm, where) -> Batch:
        """Max pooling of ReLU of a convolution, after batch norm if `norm` has settings; writes the maxima's taps to
        `where` if it is not None.
        """
        sizes, outputs, channels, blocks = window3d(window), len(w) // groups, w.shape[1], x.data.shape[0]
        pooled = three(pool.output, 1)
        ob, qb, wk, wp, _, _ = tile
        geometry = ", ".join(map(axes, (sizes.input, pooled, sizes.kernel, sizes.before)))
        shape = f"{groups}, {channels}, {outputs}, {geometry}"
        after, settings = _after(norm)
        y = self._maps(x, len(w), pool.output)
        grid = ceil_div(blocks * pooled[1] * ceil_div(pooled[2], qb), wp), ceil_div(outputs, ob * wk) * groups
        arguments = self._data(x), w, bias, y.data, where, i32(blocks), settings
        expression = f"conv_max_pool<Tile<{', '.join(map(str, tile))}>, {shape}, {after}>"
        self._run("conv.cu", expression, grid, (LANES, wk * wp), *arguments)
        return y

    def conv_max_pool_gradient(self, dy: Batch, y: Batch, where: Array, pool: Window, out_bias: Array | None) -> Batch:
        if not is_halving(pool):
            return super().conv_max_pool_gradient(dy, y, where, pool, out_bias)
        dz = self._maps(dy, dy.channels, pool.input)
        arguments = self._data(dy), self._data(y), halving_of(where, pool), dz.data, out_bias
        self._sum_channels("conv_max_pool_gradient", 1, dz, *arguments)
        return dz

    def _correlate(self, x, w, bias, other, y, sizes: Window3d, channels, weights, places, relu: bool, norm) -> None:
        """Launch conv.cu's forward kernel. The first and the strides: `weights` along group, output, channel and the
        kernel's axes, in elements; `places` of the outputs, as conv.cu's struct. `norm`: batch norm's settings or None.
        """
        groups, inputs, outputs = channels
        first, group, output, channel, *taps = weights
        blocks, processors = x.shape[0], self.launcher.processors
        row = sizes.stride[2], sizes.dilation[2]
        try:
            shape = outputs, inputs, sizes.output, sizes.kernel, *row, blocks, processors
            tile = self.tiles.choose("conv" if output >= channel else "input gradient", *shape, groups=groups)
        except ValueError as error:
            raise BackendError(str(error)) from None
        assert tile is not None
        ob, qb, wk, wp, _, _ = tile
        geometry = sizes.input, sizes.output, sizes.kernel, sizes.stride, sizes.dilation, sizes.before
        strides = f"WeightStrides<{group}, {output}, {channel}, {axes(taps)}>"
        after, settings = _after(norm)
        expression = (
            f"conv<Tile<{', '.join(map(str, tile))}>, {groups}, {inputs}, {outputs}, "
            f"{', '.join(map(axes, geometry))}, {strides}, {after}>"
        )
        units = blocks * sizes.output[0] * sizes.output[1] * ceil_div(sizes.output[2], qb)
        grid = ceil_div(units, wp), ceil_div(outputs, ob * wk) * groups
        outputs_at = i64(places[0]), i64(places[1]), *map(i32, places[2:])
        arguments = x, w, bias, other, y, i32(blocks), i32(first), outputs_at, settings, i32(relu)
        self._run("conv.cu", expression, grid, (LANES, wk * wp), *arguments)

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
            self._correlate(data, w, None, *ends, correlation, sizes_, weights, places, False, None)
        return dy.like(dx)

    def conv_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        if math.prod(window.output) == 1:
            self._chain_weight_gradient(dy, x, window, groups, out)
            return
        sizes, outputs, channels = window3d(window, rows=True), out.shape[0] // groups, out.shape[1]
        band, blocks = rows_per_band(sizes.output[2]), dy.data.shape[0]
        row = sizes.stride[2], sizes.dilation[2]
        shape = outputs, channels, groups, sizes.output, sizes.kernel, *row, band
        tile = self.tiles.choose("weight gradient", *shape, blocks, self.launcher.processors)
        assert tile is not None
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


def _after(norm: tuple | None) -> tuple[str, tuple]:
    """channel.cuh's type of what follows a convolution, and its struct Norm."""
    if norm is None:
        return "Unchanged", (None, None, None, None, f32(0))
    return "Normed", (*norm[:4], f32(norm[4]))


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
