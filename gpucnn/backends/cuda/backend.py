"""The operations of the protocol as launches of the kernels in kernels/cuda, on any Launcher.

Every operation turns its sizes into template arguments, a grid and a few numbers. Nothing here knows whether a GPU or
the emulation runs the kernels. No array arithmetic is used: CuPy's own flushes subnormals.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

from gpucnn.arithmetic import assert_subnormals
from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda import tiles as cuda_tiles
from gpucnn.backends.cuda.channels import CudaChannels
from gpucnn.backends.cuda.group_norm import CudaGroupNorm
from gpucnn.backends.cuda.launcher import Launcher
from gpucnn.backends.cuda.pointwise import CudaPointwise
from gpucnn.backends.cuda.resampling import CudaResampling
from gpucnn.backends.protocol import Array, Backend
from gpucnn.backends.spatial import Window3d, is_dense, phases, positions_per_band, rows_per_band, three, window3d
from gpucnn.errors import BackendError, DTypeError
from gpucnn.geometry import Window, pool_counts

LANES = 32
_HALVES = 2  # blocks of 16 images, the contract's, in a block of 32 lanes
_i32, _i64, _u32, _u64, _f32 = np.int32, np.int64, np.uint32, np.uint64, np.float32


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _axes(sizes) -> str:
    return f"Axes<{', '.join(map(str, sizes))}>"


class CudaBackend(CudaPointwise, CudaResampling, CudaGroupNorm, CudaChannels, Backend):
    """See the protocol for what each method does; comments here tell only how."""

    name = "cupy"
    math = "exact"
    lanes = LANES
    dtype = np.dtype(np.float32)
    threads = 0

    def __init__(self, launcher: Launcher):
        assert_subnormals()
        self.launcher = launcher
        self.xp, self.device = launcher.xp, launcher.device
        self._constants: dict = {}

    # ---- launching -------------------------------------------------------------------------------------------------

    def _run(
        self, file: str, expression: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments, beside: tuple = ()
    ) -> None:
        self.launcher.launch(self.launcher.kernel(file, expression), grid, block, *arguments, beside=beside)

    @property
    def graph(self) -> bool:
        return self.launcher.graph

    @graph.setter
    def graph(self, value: bool) -> None:
        self.launcher.graph = bool(value)

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        return self.launcher.capture(step)

    def synchronize(self) -> None:
        self.launcher.synchronize()

    # ---- memory ----------------------------------------------------------------------------------------------------

    def _empty(self, shape: tuple[int, ...], dtype=np.float32) -> Array:
        return self.launcher.empty(shape, dtype)

    def _like(self, x: Batch) -> Batch:
        return x.like(self._empty(x.data.shape))

    def zeros(self, shape: tuple[int, ...], dtype=None) -> Array:
        array = self._empty(shape if isinstance(shape, tuple) else (shape,), self.dtype if dtype is None else dtype)
        self.launcher.clear(array)
        return array

    def array(self, host: np.ndarray) -> Array:
        array = self._empty(host.shape, host.dtype)
        self.launcher.write(array, host)
        return array

    def assign(self, array: Array, host: np.ndarray) -> None:
        self.launcher.write(array, np.asarray(host, array.dtype))

    def host(self, array: Array) -> np.ndarray:
        return self.launcher.read(array)

    def _constant(self, key, make: Callable[[], np.ndarray]) -> Array:
        """A table that depends on sizes alone, put on the device once."""
        if key not in self._constants:
            self._constants[key] = self.array(make())
        return self._constants[key]

    def _counters_of(self, count: int, use: str) -> Array:
        """At least so many counters, all 0: each kernel that counts leaves them at 0."""
        # A size for every power of two: an array is never replaced, because a captured step may still use it.
        size = max(1024, 1 << (count - 1).bit_length())
        return self._constant(("counters", size, use), lambda: np.zeros(size, np.uint32))

    def _data(self, x: Batch) -> Array:
        """A batch's values as the kernels need them; a user's own layer may have left them otherwise."""
        if x.data.dtype != np.float32:
            raise DTypeError(f"a layer gave {x.data.dtype} values; exact math takes float32: keep constants np.float32")
        return self.xp.ascontiguousarray(x.data)

    def pack(self, images: np.ndarray) -> Batch:
        if images.dtype != np.float32:
            raise DTypeError(
                f"images are {images.dtype}; exact math takes float32: convert them with images.astype('float32')"
            )
        if isinstance(images, np.ndarray):
            images = self.array(np.ascontiguousarray(images))
        indices = self.array(np.arange(len(images), dtype=np.int64))
        return self.load_images(self.xp.ascontiguousarray(images), indices, len(images))

    def unpack(self, batch: Batch) -> np.ndarray:
        data = self._data(batch)
        values = math.prod(data.shape[1:-1])
        images = self._empty(batch.shape)
        sizes = _i32(batch.images), _i32(values)
        self._run("images.cu", "unpack", (_ceil(values, LANES), len(data)), (LANES, 8), data, images, *sizes)
        return self.host(images)

    def pack_labels(self, labels: np.ndarray) -> Array:
        count = len(labels)
        labels = self.array(np.asarray(labels, np.int32))
        return self.load_labels(labels, self.array(np.arange(count, dtype=np.int64)), count)

    def load_images(
        self,
        images: Array,
        indices: Array,
        count: int,
        augmentation: Augmentation = NO_AUGMENTATION,
        *,
        seed: int = 0,
        step: Array | None = None,
    ) -> Batch:
        if not augmentation.only_shifts:
            return self._load_augmented(images, indices, count, augmentation, seed, step)
        shift = 0 if step is None else augmentation.shift
        channels, spatial = images.shape[1], tuple(images.shape[2:])
        y = self._empty((_ceil(count, LANES), channels, *spatial, LANES))
        drawn = _i32(count), _i32(shift), _i32(len(spatial) if shift else 0), _u64(seed), step
        sizes = [_i32(size) for size in (channels, *three(spatial, 1))]
        grid = _ceil(channels * math.prod(spatial), LANES), y.shape[0]
        self._run("images.cu", "load_images", grid, (LANES, 8), images, indices, y, *drawn, *sizes)
        return Batch(y, count, self)

    def _load_augmented(self, images, indices, count: int, augmentation: Augmentation, seed: int, step) -> Batch:
        channels, spatial = images.shape[1], tuple(images.shape[2:])
        output = augmentation.output(spatial)
        y = self._empty((_ceil(count, LANES), channels, *output, LANES))
        constants = (
            self._constant((name, augmentation, channels), lambda i=i: augmentation.constants(channels)[i])
            for i, name in enumerate(("mean", "scale"))
        )
        chosen = augmentation.shift, augmentation.crop is not None, augmentation.flip, augmentation.cutout, len(spatial)
        sizes = channels, *three(output, 1), *three(spatial, 1)
        given = images, indices, y, _i32(count), *map(_i32, chosen), _u64(seed), step, *constants, *map(_i32, sizes)
        grid = _ceil(channels * math.prod(output), LANES), y.shape[0]
        self._run("augmentation.cu", "load_augmented", grid, (LANES, 8), *given)
        return Batch(y, count, self)

    def load_labels(self, labels: Array, indices: Array, count: int) -> Array:
        y = self._empty((_ceil(count, LANES), LANES), np.int32)
        given = labels, indices, y, _i32(count), _i32(y.size)
        self._run("images.cu", "load_labels", (_ceil(y.size, 256),), (256,), *given, beside=(y,))
        return y

    # ---- convolution and dense -------------------------------------------------------------------------------------

    def conv(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int = 1, relu: bool = False
    ) -> Batch:
        if is_dense(window, groups):
            flat = self.dense(x.reshape(-1), w.reshape(len(w), -1), bias, relu)
            return flat.reshape(len(w), *window.output)
        sizes, outputs, channels = window3d(window), len(w) // groups, w.shape[1]
        y = self._empty((x.data.shape[0], len(w), *window.output, LANES))
        weights = _weight_strides(outputs, channels, sizes.kernel)
        pixels = math.prod(sizes.output)
        places = 0, len(w) * pixels, outputs * pixels, pixels, *_strides(sizes.output)
        self._correlate(self._data(x), w, bias, y, sizes, (groups, channels, outputs), weights, places, False, relu)
        return x.like(y)

    def conv_max_pool(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int, pool: Window
    ) -> tuple[Batch, Array]:
        sizes, outputs, channels, blocks = window3d(window), len(w) // groups, w.shape[1], x.data.shape[0]
        pooled = three(pool.output, 1)
        tile = None
        if _is_plain(window, pool) and not is_dense(window, groups):
            given = outputs, channels, pooled, sizes.kernel, blocks, self.launcher.processors
            tile = cuda_tiles.pooled_conv_tile(*given)
        if tile is None:
            return super().conv_max_pool(x, w, bias, window, groups, pool)
        ob, qb, wk, wp, _, _ = tile
        geometry = ", ".join(map(_axes, (sizes.input, pooled, sizes.kernel, sizes.before)))
        expression = f"conv_max_pool<Tile<{', '.join(map(str, tile))}>, {groups}, {channels}, {outputs}, {geometry}>"
        shape = (blocks, len(w), *pool.output, LANES)
        y, where = self._empty(shape), self._empty(shape, _tap_type(pool)[0])
        grid = _ceil(blocks * pooled[1] * _ceil(pooled[2], qb), wp), _ceil(outputs, ob * wk) * groups
        strides = tuple(map(_i32, _weight_strides(outputs, channels, sizes.kernel)))
        given = self._data(x), w, bias, y, where, _i32(blocks), strides
        self._run("conv.cu", expression, grid, (LANES, wk * wp), *given)
        return x.like(y), where

    def _correlate(
        self, x, w, bias, y, sizes: Window3d, channels, weights, places, by_output: bool, relu: bool
    ) -> None:
        """Launch conv.cu's forward kernel; `weights` and `places` are its structs of strides."""
        groups, inputs, outputs = channels
        blocks, processors = x.shape[0], self.launcher.processors
        row = sizes.stride[2], sizes.dilation[2]
        try:
            tile = cuda_tiles.conv_tile(outputs, inputs, sizes.output, sizes.kernel, *row, blocks, processors)
        except ValueError as error:
            raise BackendError(str(error)) from None
        ob, qb, wk, wp, _, _ = tile
        geometry = sizes.input, sizes.output, sizes.kernel, sizes.stride, sizes.dilation, sizes.before
        expression = (
            f"conv<Tile<{', '.join(map(str, tile))}>, {groups}, {inputs}, {outputs}, "
            f"{', '.join(map(_axes, geometry))}, {'true' if by_output else 'false'}>"
        )
        tiles = blocks * sizes.output[0] * sizes.output[1] * _ceil(sizes.output[2], qb)
        grid = _ceil(tiles, wp), _ceil(outputs, ob * wk) * groups
        strides = tuple(map(_i32, weights)), (_i64(places[0]), _i64(places[1]), *map(_i32, places[2:]))
        self._run("conv.cu", expression, grid, (LANES, wk * wp), x, w, bias, y, _i32(blocks), *strides, _i32(relu))

    def conv_input_gradient(self, dy: Batch, w: Array, window: Window, groups: int = 1) -> Batch:
        if is_dense(window, groups):
            return self.dense_input_gradient(dy.reshape(-1), w.reshape(len(w), -1)).reshape(w.shape[1], *window.input)
        sizes, outputs, channels = window3d(window), len(w) // groups, w.shape[1]
        shape = (dy.data.shape[0], channels * groups, *window.input, LANES)
        found = phases(window)
        # A phase of pixels that no output saw has no taps, and no kernel writes it.
        dx = self.zeros(shape) if any(_lengths(p.taps, sizes.kernel)[3] == 0 for p in found) else self._empty(shape)
        taps, pixels, data = math.prod(sizes.kernel), math.prod(sizes.input), self._data(dy)
        for phase in found:
            *kernel, count = _lengths(phase.taps, sizes.kernel)
            if not count:
                continue
            # Outputs and inputs of the forward kernel change places: an output here is a channel of w.
            first, along = _sliced(phase.taps, sizes.kernel)
            weights = first, outputs * channels * taps, taps, channels * taps, *along
            first, along = _sliced(phase.pixels, sizes.input)
            places = first, groups * channels * pixels, channels * pixels, pixels, *along
            target = tuple(_lengths(phase.pixels, sizes.input)[:3])
            correlation = Window3d(sizes.output, tuple(kernel), (1, 1, 1), phase.dilation, phase.before, target)
            self._correlate(data, w, None, dx, correlation, (groups, outputs, channels), weights, places, True, False)
        return dy.like(dx)

    def conv_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        if math.prod(window.output) == 1:
            self._chain_weight_gradient(dy, x, window, groups, out)
            return
        sizes, outputs, channels = window3d(window, rows=True), out.shape[0] // groups, out.shape[1]
        band, blocks = rows_per_band(sizes.output[2]), dy.data.shape[0]
        row = sizes.stride[2], sizes.dilation[2]
        shape = outputs, channels, groups, sizes.output, sizes.kernel, *row, band
        tile = cuda_tiles.gradient_tile(*shape, blocks, self.launcher.processors)
        ob, cb, rb, sb, _, warps, together = tile
        geometry = sizes.input, sizes.output, sizes.kernel, sizes.stride, sizes.dilation, sizes.before
        expression = (
            f"conv_weight_gradient<GradientTile<{', '.join(map(str, tile))}>, {groups}, {channels}, {outputs}, "
            f"{', '.join(map(_axes, geometry))}, {band}>"
        )
        kd, kh, kw = sizes.kernel
        tiles = groups * _ceil(outputs, ob) * _ceil(channels, cb) * kd * _ceil(kh, rb) * _ceil(kw, sb)
        bands = _ceil(_ceil(sizes.output[0] * sizes.output[1], band), together)
        part = self._empty((blocks * _HALVES, bands, out.size))
        grid = _ceil(tiles, warps), bands, blocks
        given = self._data(dy), self._data(x), part, _i32(dy.images)
        self._run("conv.cu", expression, grid, (LANES, warps), *given, beside=(part,))
        given = part, out, _i32(blocks * _HALVES), _i32(bands), _i32(out.size)
        self._run("sums.cu", "batch_tree", (_ceil(out.size, LANES),), (LANES, 8), *given, beside=(part, out))

    def _chain_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        """The weight gradient where each image has one position."""
        blocks, outputs, terms = dy.data.shape[0], out.shape[0] // groups, math.prod(out.shape[1:])
        source = None
        if not is_dense(window, 1):
            source = self._constant(("source", window, out.shape[1]), lambda: _sources(window, out.shape[1]))
        sizes = [_i32(size) for size in (dy.images, blocks, outputs, out.shape[1] * math.prod(window.input), terms)]
        grid = _ceil(terms, 64), _ceil(outputs, 16), groups
        kernel = f"chain_weight_gradient<{blocks.bit_length()}>"
        given = self._data(dy), self._data(x), source, out, *sizes
        self._run("dense.cu", kernel, grid, (LANES, 4), *given, beside=(out,))

    def dense(self, x: Batch, w: Array, bias: Array | None, relu: bool = False) -> Batch:
        return self._multiply(x, w, bias, w.shape[0], w.shape[1], (w.shape[1], 1), relu)

    def dense_input_gradient(self, dy: Batch, w: Array) -> Batch:
        return self._multiply(dy, w, None, w.shape[1], w.shape[0], (1, w.shape[1]), False)

    def _multiply(self, x: Batch, w, bias, outputs: int, inputs: int, strides: tuple[int, int], relu: bool) -> Batch:
        blocks = x.data.shape[0]
        y = self._empty((blocks, outputs, LANES))
        ob, nb = cuda_tiles.dense_tile(outputs, blocks, self.launcher.processors)
        kernel = f"dense<{ob}, {nb}, {'true' if strides[0] == 1 else 'false'}>"
        numbers = _i32(blocks), _i32(inputs), _i32(outputs), _i64(strides[0]), _i64(strides[1]), _i32(relu)
        grid = _ceil(outputs, 4 * ob), _ceil(blocks, nb)
        self._run("dense.cu", kernel, grid, (LANES, 4), self._data(x), w, bias, y, *numbers)
        return x.like(y)

    def dense_weight_gradient(self, dy: Batch, x: Batch, out: Array) -> None:
        # A window over one pixel without axes: values are the inputs themselves.
        self._chain_weight_gradient(dy, x, _POINT, 1, out)

    # ---- pooling ---------------------------------------------------------------------------------------------------

    def _pool(self, kernel: str, window: Window, results: Array, *arguments, more: str = "") -> None:
        """A kernel of pool.cu, one warp for each pixel of `results`."""
        sizes = window3d(window)
        geometry = sizes.input, sizes.output, sizes.kernel, sizes.stride, sizes.dilation, sizes.before
        expression = f"{kernel}<Window<{', '.join(map(_axes, geometry))}>{more}>"
        pixels = results.size // LANES
        self._run("pool.cu", expression, (_ceil(pixels, 8),), (LANES, 8), *arguments, _i64(pixels))

    def max_pool(self, x: Batch, window: Window) -> tuple[Batch, Array]:
        shape = (*x.data.shape[:2], *window.output, LANES)
        kind, name = _tap_type(window)
        y, where = self._empty(shape), self._empty(shape, kind)
        self._pool("max_pool", window, y, self._data(x), y, where, more=f", {name}")
        return x.like(y), where

    def max_pool_gradient(self, dy: Batch, where: Array, window: Window) -> Batch:
        dx = self._empty((*dy.data.shape[:2], *window.input, LANES))
        self._pool("max_pool_gradient", window, dx, self._data(dy), where, dx, more=f", {_tap_type(window)[1]}")
        return dy.like(dx)

    def _counts(self, window: Window, count_include_pad: bool) -> Array:
        make = functools.partial(pool_counts, window, count_include_pad)
        return self._constant(("counts", window, count_include_pad), lambda: make().astype(np.float32))

    def avg_pool(self, x: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        y = self._empty((*x.data.shape[:2], *window.output, LANES))
        self._pool("avg_pool", window, y, self._data(x), y, self._counts(window, count_include_pad))
        return x.like(y)

    def avg_pool_gradient(self, dy: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        dx = self._empty((*dy.data.shape[:2], *window.input, LANES))
        self._pool("avg_pool_gradient", window, dx, self._data(dy), dx, self._counts(window, count_include_pad))
        return dy.like(dx)

    def global_avg_pool(self, x: Batch) -> Batch:
        y = self._empty((*x.data.shape[:2], LANES))
        maps = x.data.shape[0] * x.channels
        sizes = _i32(maps), _i32(math.prod(x.spatial)), _i32(positions_per_band(x.spatial))
        self._run("norm.cu", "global_avg_pool", (_ceil(maps, 8),), (LANES, 8), self._data(x), y, *sizes)
        return x.like(y)

    def global_avg_pool_gradient(self, dy: Batch, spatial: tuple[int, ...]) -> Batch:
        dx = self._empty((*dy.data.shape[:2], *spatial, LANES))
        self._over_maps("global_avg_pool_gradient", dx, self._data(dy), dx)
        return dy.like(dx)

    # ---- elementwise -----------------------------------------------------------------------------------------------

    def _map(self, kernel: str, *inputs: Batch, options: tuple = (), file: str = "elementwise.cu") -> Batch:
        y = self._like(inputs[0])
        quads = y.data.size // 4
        values = (self._data(x) for x in inputs)
        self._run(file, kernel, (_ceil(quads, 256),), (256,), *values, y.data, *options, _i64(quads))
        return y

    def elementwise(self, name: str, x: Batch, *settings: float) -> Batch:
        return getattr(self, name)(x, *settings)

    def elementwise_gradient(self, name: str, dy: Batch, saved: Batch, *settings: float) -> Batch:
        return getattr(self, f"{name}_gradient")(dy, saved, *settings)

    def relu(self, x: Batch) -> Batch:
        return self._map("relu", x)

    def relu_gradient(self, dy: Batch, y: Batch) -> Batch:
        return self._map("relu_gradient", dy, y)

    def tanh(self, x: Batch) -> Batch:
        return self._map("tanh_forward", x)

    def tanh_gradient(self, dy: Batch, y: Batch) -> Batch:
        return self._map("tanh_gradient", dy, y)

    def sigmoid(self, x: Batch) -> Batch:
        return self._map("sigmoid_forward", x)

    def sigmoid_gradient(self, dy: Batch, y: Batch) -> Batch:
        return self._map("sigmoid_gradient", dy, y)

    def add(self, a: Batch, b: Batch, relu: bool = False) -> Batch:
        return self._map("add_batches", a, b, options=(_i32(relu),))

    def dropout(self, x: Batch, rate: float, seed: int, step: Array, layer: int) -> Batch:
        y = self._like(x)
        size, values = y.data.size, math.prod(y.data.shape[1:-1])
        draw = _f32(rate), _f32(1 / (1 - rate)), _u64(seed), step, _u32(layer), _i64(values), _i64(size)
        self._run("random.cu", "dropout", (_ceil(size, 256),), (256,), self._data(x), y.data, *draw)
        return y

    # ---- batch norm ------------------------------------------------------------------------------------------------

    def _sum_channels(self, kernel: str, sums: int, x: Batch, *arguments, beside: tuple = ()) -> None:
        """A kernel of norm.cu that sums over each channel of maps like x."""
        blocks, positions, band = x.data.shape[0], math.prod(x.spatial), positions_per_band(x.spatial)
        bands = _ceil(positions, band)
        part = self._empty((x.channels, sums, blocks * _HALVES, bands), np.float64)
        # One warp a band where there are few channels, several bands a warp where channels fill the GPU.
        parts = min(_ceil(blocks * bands, 8), _ceil(8 * self.launcher.processors, x.channels))
        sizes = [_i32(size) for size in (x.images, blocks, positions, band)]
        grid = x.channels, parts
        # Kernels that may run at the same time must not share counters.
        counters = self._counters_of(x.channels, "beside" if beside else "alone")
        if beside:
            beside = *beside, part, counters
        self._run("norm.cu", kernel, grid, (LANES, 8), *arguments, *sizes, part, counters, beside=beside)

    def _over_maps(self, kernel: str, results: Array, *arguments, channels: int = 0) -> None:
        """A kernel of norm.cu that walks each map of `results`, about four values a thread."""
        maps, positions = results.shape[0] * results.shape[1], math.prod(results.shape[2:-1])
        grid = maps, min(_ceil(positions, 32), 65535)
        sizes = (_i32(channels), _i32(positions)) if channels else (_i32(positions),)
        self._run("norm.cu", kernel, grid, (256,), *arguments, *sizes)

    def bias_gradient(self, dy: Batch, out: Array) -> None:
        self._sum_channels("bias_gradient", 1, dy, self._data(dy), out, beside=(out,))

    def batch_norm_statistics(self, x: Batch) -> tuple[Array, Array, Array]:
        mean, var, unbiased = (self._empty((x.channels,)) for _ in range(3))
        mean64, data = self._empty((x.channels,), np.float64), self._data(x)
        self._sum_channels("batch_norm_mean", 1, x, data, mean64, mean)
        self._sum_channels("batch_norm_variance", 1, x, data, mean64, var, unbiased)
        return mean, var, unbiased

    def batch_norm(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, relu: bool = False
    ) -> Batch:
        y = self._like(x)
        maps, positions = x.data.shape[0] * x.channels, math.prod(x.spatial)
        given = self._data(x), mean, var, gamma, beta, _f32(eps), y.data
        sizes = _i32(x.channels), _i32(positions), _i32(relu)
        self._run("norm.cu", "batch_norm", (maps, min(_ceil(positions, 32), 65535)), (256,), *given, *sizes)
        return y

    def batch_norm_gradient(
        self, dy: Batch, x: Batch, mean: Array, var: Array, gamma: Array, eps: float, out_gamma: Array, out_beta: Array
    ) -> Batch:
        dx = self._like(x)
        gradient, values = self._data(dy), self._data(x)
        means = self._empty((x.channels,)), self._empty((x.channels,))
        given = gradient, values, mean, var, _f32(eps), out_gamma, out_beta, *means
        self._sum_channels("batch_norm_sums", 2, x, *given)
        given = gradient, values, mean, var, gamma, _f32(eps), *means, dx.data, _i32(x.images)
        self._over_maps("batch_norm_gradient", dx.data, *given, channels=x.channels)
        return dx

    def batch_norm_input_gradient(self, dy: Batch, var: Array, gamma: Array, eps: float) -> Batch:
        dx = self._like(dy)
        given = self._data(dy), var, gamma, _f32(eps), dx.data
        self._over_maps("batch_norm_input_gradient", dx.data, *given, channels=dy.channels)
        return dx

    def update_running(self, running: Array, batch: Array, momentum: float) -> None:
        grid = (_ceil(running.size, 256),)
        given = running, batch, _f32(momentum), _i64(running.size)
        self._run("optimizers.cu", "update_running", grid, (256,), *given, beside=(running,))

    # ---- loss ------------------------------------------------------------------------------------------------------

    def softmax(self, x: Batch) -> Batch:
        y = self._like(x)
        positions = math.prod(x.spatial)
        units = x.data.shape[0] * positions
        sizes = _i32(x.channels), _i32(positions), _i32(units)
        self._run("loss.cu", "softmax", (_ceil(units, 4),), (LANES, 4), self._data(x), y.data, *sizes)
        return y

    def softmax_cross_entropy(self, logits: Batch, labels: Array, totals: Array | None = None) -> tuple[Array, Batch]:
        blocks = logits.data.shape[0]
        dz, mean = self._like(logits), self._empty((1,))
        part = self._empty((2, blocks * _HALVES), np.float64)
        sizes = _i32(logits.images), _i32(blocks), _i32(logits.channels), _f32(1 / logits.images)
        given = self._data(logits), labels, dz.data, mean, totals, part, self._counters_of(1, "alone")
        self._run("loss.cu", "softmax_cross_entropy", (_ceil(blocks, 4),), (LANES, 4), *given, *sizes)
        return mean, dz

    # ---- optimisers ------------------------------------------------------------------------------------------------

    def sgd(
        self, w: Array, g: Array, v: Array, hyper: Array, *, momentum: float, weight_decay: float, nesterov: bool
    ) -> None:
        numbers = _f32(momentum), _f32(weight_decay), _i32(nesterov), _i64(w.size)
        self._run("optimizers.cu", "sgd", (_ceil(w.size, 256),), (256,), w, g, v, hyper, *numbers)

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
        numbers = [_f32(c) for c in (beta1, beta2, 1 - beta1, 1 - beta2, eps, weight_decay)]
        given = w, g, m, v, hyper, *numbers, _i32(decoupled), _i64(w.size)
        self._run("optimizers.cu", "adam", (_ceil(w.size, 256),), (256,), *given)

    def watch(self, status: Array, step: Array, loss: Array, w: Array) -> None:
        self._run("optimizers.cu", "watch", (_ceil(w.size, 256),), (256,), status, step, loss, w, _i64(w.size))


_POINT = Window((), (), (), (), (), ())


def _strides(sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    """Of a contiguous array of three axes."""
    return sizes[1] * sizes[2], sizes[2], 1


def _weight_strides(outputs: int, channels: int, kernel: tuple[int, int, int]) -> tuple[int, ...]:
    """conv.cu's WeightStrides of contiguous weights: first, group, output, channel, and the kernel's axes."""
    taps = math.prod(kernel)
    return 0, outputs * channels * taps, channels * taps, taps, *_strides(kernel)


def _is_plain(window: Window, pool: Window) -> bool:
    """Whether conv.cu has a kernel for a convolution with this pooling after it: two axes, 2x2 side by side."""
    return (
        len(window.input) == 2
        and window.stride == window.dilation == pool.dilation == (1, 1)
        and pool.kernel == pool.stride == (2, 2)
        and all(pads == (0, 0) for pads in pool.padding)
        # In ceil mode the last window may reach past the image.
        and all(2 * p <= size for p, size in zip(pool.output, window.output, strict=True))
    )


def _sliced(slices, sizes) -> tuple[int, tuple[int, int, int]]:
    """(first element, strides) of a contiguous array of three axes after slicing."""
    ranges = [range(*s.indices(size)) for s, size in zip(slices, sizes, strict=True)]
    along = _strides(sizes)
    first = sum(r.start * stride for r, stride in zip(ranges, along, strict=True))
    return first, tuple(r.step * stride for r, stride in zip(ranges, along, strict=True))


def _lengths(slices, sizes) -> list[int]:
    """How many entries each slice leaves of its axis, and their product."""
    lengths = [len(range(*s.indices(size))) for s, size in zip(slices, sizes, strict=True)]
    return [*lengths, math.prod(lengths)]


def _tap_type(window: Window) -> tuple[type, str]:
    """The smallest type for a tap's number, in NumPy and in C++."""
    return (np.uint8, "unsigned char") if math.prod(window.kernel) <= 256 else (np.int32, "int")


def _sources(window: Window, channels: int) -> np.ndarray:
    """For each weight (channel, *kernel) of a window with one position, which value of (channel, *input) it meets; -1
    for one in the padding."""
    sizes = window3d(window)
    indices = np.indices((channels, *sizes.kernel)).reshape(4, -1)
    at, inside = indices[0], np.ones(indices.shape[1], bool)
    for axis in range(3):
        pixel = indices[axis + 1] * sizes.dilation[axis] - sizes.before[axis]
        inside &= (pixel >= 0) & (pixel < sizes.input[axis])
        at = at * sizes.input[axis] + pixel
    return np.where(inside, at, -1).astype(np.int32)
