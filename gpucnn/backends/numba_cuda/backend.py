"""The readable GPU backend: kernels in Python, one thread a value, exact float32, 32 images side by side.

Arrays are CuPy's, which Numba's kernels take as they are; CuPy computes nothing here. In Numba's CUDA simulator
(NUMBA_ENABLE_CUDASIM=1) the same kernels run as Python threads on NumPy's arrays: very slow, but every operation can
be followed with a debugger, on a machine without a GPU.

Every operation brings its arguments into the kernels' shape (three spatial axes, leading ones of size 1) and launches
one or a few kernels on the default stream. Nothing is recorded: `capture` returns the step itself.
"""

import importlib.metadata
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.arithmetic import assert_subnormals
from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array, Backend
from gpucnn.backends.spatial import positions_per_band, three, window3d
from gpucnn.errors import BackendError, DTypeError
from gpucnn.geometry import Window, pool_counts

_INSTALL = "pip install 'gpucnn[cuda13]' for a driver of version 580 or newer, 'gpucnn[cuda12]' for an older one"


def check_machine() -> bool:
    """Whether the simulator is on. Raises BackendError with the first thing that is missing, and what mends it."""
    try:
        importlib.metadata.version("numba-cuda")
    except importlib.metadata.PackageNotFoundError:
        raise BackendError(f"numba-cuda is not installed: {_INSTALL}") from None
    from numba import config, cuda

    if config.ENABLE_CUDASIM:
        return True
    if not cuda.is_available():
        raise BackendError(
            f"Numba finds no NVIDIA GPU with a driver ({cuda.cuda_error() or 'the driver sees no GPU'}); "
            "NUMBA_ENABLE_CUDASIM=1 runs this backend on the CPU, slowly, for a look at how it works"
        )
    from numba.cuda.cudadrv import nvvm

    try:
        nvvm.NVVM()
    except (ImportError, RuntimeError, OSError) as error:
        raise BackendError(f"the CUDA compiler NVVM cannot be loaded ({error}): {_INSTALL}") from None
    try:
        import cupy  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:
        raise BackendError(f"CuPy, whose arrays this backend uses, cannot be imported ({error}): {_INSTALL}") from None
    return False


SIMULATED = check_machine()

from numba import cuda  # from here on only what can be used

from gpucnn.backends.numba_cuda.channels import NumbaCudaChannels
from gpucnn.backends.numba_cuda.group_norm import NumbaCudaGroupNorm
from gpucnn.backends.numba_cuda.pointwise import NumbaCudaPointwise
from gpucnn.backends.numba_cuda.resampling import NumbaCudaResampling
from gpucnn.kernels.numba_cuda import (
    arithmetic,
    conv,
    dense,
    elementwise,
    images,
    loss,
    norm,
    optimizers,
    pool,
    sums,
)
from gpucnn.kernels.numba_cuda import augmentation as augmentation_kernels
from gpucnn.kernels.numba_cuda import random as random_kernels
from gpucnn.kernels.numba_cuda.compiler import BLOCK, LANES

if SIMULATED:
    xp = np
else:
    import cupy as xp

# Threads in a block of a kernel whose threads do not work together: a few warps, any number would do.
_THREADS = 128
# CUDA's default stream, which is CuPy's too.
_STREAM = 0


class NumbaCudaBackend(NumbaCudaPointwise, NumbaCudaResampling, NumbaCudaGroupNorm, NumbaCudaChannels, Backend):
    """See the protocol for what each method does; comments here tell only how."""

    name = "numba-cuda"
    math = "exact"
    lanes = LANES
    xp = xp

    def __init__(self, threads: int, dtype: np.dtype):
        """RuntimeError if this process flushes subnormal numbers. `threads` is for CPUs and not used."""
        assert_subnormals()
        self.threads = 0
        self.dtype = dtype
        self.device = "simulator on the CPU" if SIMULATED else f"GPU {_text(cuda.get_current_device().name)}"
        self._probed = False

    # ---- launching ---------------------------------------------------------------------------------------------------

    def _run(self, kernel, values: int, *arguments) -> None:
        """Launch with a thread for each of so many values, the last block of threads filled up."""
        if values:
            self._launch(kernel, (-(-values // _THREADS), min(_THREADS, values)), arguments)

    def _run_lanes(self, kernel, sums_: int, *arguments) -> None:
        """Launch with a block of 32 threads, one a lane, for each of so many sums over images."""
        self._launch(kernel, (sums_, LANES, _STREAM, sums.SHARED_BYTES), arguments)

    def _launch(self, kernel, configuration: tuple[int, ...], arguments: tuple) -> None:
        if not self._probed:
            self._probe()
        if not SIMULATED:
            # All work is on one stream: taking CuPy's arrays needs no waiting.
            arguments = tuple(cuda.as_cuda_array(a, sync=False) if isinstance(a, xp.ndarray) else a for a in arguments)
        kernel[configuration](*arguments)

    def _probe(self) -> None:
        """Before the first kernel: RuntimeError if the device flushes subnormal numbers to zero."""
        self._probed = True
        values = self.array(np.array([1e-30, 1e-12, 0], np.float32))
        self._run(arithmetic.small_product, 1, values)
        if self.host(values)[2] == 0:
            raise RuntimeError("this device flushes subnormal numbers to zero: exact math is not possible on it")

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        step()
        return step

    def synchronize(self) -> None:
        cuda.synchronize()

    def elapsed(self, work: Callable[[], Any]) -> float:
        if SIMULATED:
            return super().elapsed(work)
        from gpucnn.backends.cuda.cupy_events import elapsed

        return elapsed(work, xp.cuda.Stream.null)

    # ---- memory ------------------------------------------------------------------------------------------------------

    def _empty(self, shape: tuple[int, ...], dtype=np.float32) -> Array:
        return xp.empty(shape, dtype)

    def _like(self, x: Batch) -> Batch:
        return x.like(self._empty(x.data.shape))

    def zeros(self, shape: tuple[int, ...], dtype=None) -> Array:
        return xp.zeros(shape, self.dtype if dtype is None else dtype)

    def array(self, host: np.ndarray) -> Array:
        return xp.array(host, order="C")

    def assign(self, array: Array, host: np.ndarray) -> None:
        array[...] = xp.asarray(host, dtype=array.dtype)

    def host(self, array: Array) -> np.ndarray:
        return np.array(array) if SIMULATED else xp.asnumpy(array)

    def memory(self) -> int:
        return super().memory() if SIMULATED else xp.cuda.runtime.memGetInfo()[1]

    def _data(self, x: Batch) -> Array:
        """A batch's values as the kernels need them; a user's own layer may have left them otherwise."""
        if x.data.dtype != np.float32:
            raise DTypeError(
                f"a layer gave {x.data.dtype} values; exact math takes float32: keep constants as np.float32"
            )
        return xp.ascontiguousarray(x.data)

    def _deep(self, x: Batch) -> Array:
        """Values as (block, C, D, H, W, lane)."""
        return self._data(x).reshape(*x.data.shape[:2], *three(x.spatial, 1), LANES)

    def _pixels(self, x: Batch) -> Array:
        """Values as (block, C, position, lane)."""
        return self._data(x).reshape(*x.data.shape[:2], -1, LANES)

    def _flat(self, x: Batch) -> Array:
        return self._data(x).reshape(-1)

    def pack(self, images_: np.ndarray) -> Batch:
        if images_.dtype != np.float32:
            raise DTypeError(
                f"images are {images_.dtype}; exact math takes float32: convert them with images.astype('float32')"
            )
        return self.load_images(xp.array(images_, order="C"), xp.arange(len(images_)), len(images_))

    def unpack(self, batch: Batch) -> np.ndarray:
        result = self._empty((batch.images, math.prod(batch.shape[1:])))
        data = self._data(batch).reshape(batch.data.shape[0], -1, LANES)
        self._run(images.unpack, result.size, data, result)
        return self.host(result).reshape(batch.shape)

    def pack_labels(self, labels: np.ndarray) -> Array:
        return self.load_labels(self.array(np.asarray(labels, np.int32)), xp.arange(len(labels)), len(labels))

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
        y = Batch(self._empty((-(-count // LANES), channels, *spatial, LANES)), count, self)
        moves = self.zeros((count, 3), np.int64)
        if shift:
            self._run(images.draw_moves, count * len(spatial), moves, shift, len(spatial), np.uint64(seed), step)
        source = images_.reshape(len(images_), channels, *three(spatial, 1))
        self._run(images.load_images, y.data.size, source, indices, self._deep(y), moves)
        return y

    def _load_augmented(self, images_, indices, count: int, augmentation: Augmentation, seed: int, step) -> Batch:
        channels, spatial = images_.shape[1], images_.shape[2:]
        output = augmentation.output(spatial)
        y = Batch(self._empty((-(-count // LANES), channels, *output, LANES)), count, self)
        sizes = three(spatial, 1), three(output, 1)
        if step is None:
            middle = [(size - kept) // 2 for size, kept in zip(*sizes, strict=True)]
            plan, cutout = self.array(np.tile(np.array([*middle, 0, 0, 0, 0], np.int64), (count, 1))), 0
        else:
            plan, cutout = self._empty((count, augmentation_kernels.DRAWS), np.int64), augmentation.cutout
            chosen = augmentation.shift, augmentation.crop is not None, augmentation.flip, cutout, len(spatial)
            self._run(augmentation_kernels.draw, plan.size, plan, *sizes, *chosen, np.uint64(seed), step)
        source = images_.reshape(len(images_), channels, *three(spatial, 1))
        constants = map(self.array, augmentation.constants(channels))
        given = source, indices, self._deep(y), plan, cutout, *constants
        self._run(augmentation_kernels.load_augmented, y.data.size, *given)
        return y

    def load_labels(self, labels: Array, indices: Array, count: int) -> Array:
        y = self._empty((-(-count // LANES), LANES), np.int32)
        self._run(images.load_labels, y.size, labels, indices, y, count)
        return y

    # ---- convolution and dense ---------------------------------------------------------------------------------------

    def conv(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int = 1, relu: bool = False
    ) -> Batch:
        y = x.like(self._empty((x.data.shape[0], len(w), *window.output, LANES)))
        bias = self.zeros((len(w),)) if bias is None else bias
        given = self._deep(x), _deep_weights(w), bias, self._deep(y)
        self._run(conv.conv, y.data.size, *given, *_steps(window), groups, relu)
        return y

    def conv_input_gradient(self, dy: Batch, w: Array, window: Window, groups: int = 1) -> Batch:
        dx = dy.like(self._empty((dy.data.shape[0], w.shape[1] * groups, *window.input, LANES)))
        given = self._deep(dy), _deep_weights(w), self._deep(dx)
        self._run(conv.conv_input_gradient, dx.data.size, *given, *_steps(window), groups)
        return dx

    def conv_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        shape = _deep_weights(out).shape
        stride, dilation, before = _steps(window)
        given = self._deep(dy), self._deep(x)
        if math.prod(window.output) == 1:
            part, bands = self._part(dy, 1, out.size, np.float32), 1
            given = *given, part, dy.images, groups, shape, dilation, before
            self._run(conv.conv_point_weight_gradient, part.size, *given)
        else:
            band = positions_per_band(window.output)
            bands = -(-math.prod(window.output) // band)
            part = self._part(dy, bands, out.size, np.float32)
            given = *given, part, dy.images, groups, band, shape, stride, dilation, before
            self._run_lanes(conv.conv_weight_gradient, dy.data.shape[0] * bands * out.size, *given)
        self._run(sums.weight_total, out.size, part, out.reshape(-1), bands)

    def _part(self, x: Batch, bands: int, wanted: int, dtype) -> Array:
        """(blocks of 16 images * bands, wanted): what the sums over images are made of."""
        return self._empty((-(-x.images // BLOCK) * bands, wanted), dtype)

    def _sums(self, kernel, x: Batch, *arguments) -> tuple[Array, int]:
        """(part, bands) with a float64 sum for each channel, band and block of 16 images."""
        band = positions_per_band(x.spatial)
        bands = -(-math.prod(x.spatial) // band)
        part = self._part(x, bands, x.channels, np.float64)
        self._run_lanes(kernel, x.data.shape[0] * bands * x.channels, *arguments, part, x.images, band)
        return part, bands

    def bias_gradient(self, dy: Batch, out: Array) -> None:
        part, bands = self._sums(norm.value_sums, dy, self._pixels(dy))
        self._run(norm.sum_of, out.size, part, out, bands)

    def dense(self, x: Batch, w: Array, bias: Array | None, relu: bool = False) -> Batch:
        y = x.like(self._empty((x.data.shape[0], len(w), LANES)))
        bias = self.zeros((len(w),)) if bias is None else bias
        self._run(dense.dense, y.data.size, self._data(x), w, bias, y.data, relu)
        return y

    def dense_input_gradient(self, dy: Batch, w: Array) -> Batch:
        dx = dy.like(self._empty((dy.data.shape[0], w.shape[1], LANES)))
        self._run(dense.dense_input_gradient, dx.data.size, self._data(dy), w, dx.data)
        return dx

    def dense_weight_gradient(self, dy: Batch, x: Batch, out: Array) -> None:
        part = self._part(dy, 1, out.size, np.float32)
        self._run(dense.dense_weight_gradient, part.size, self._data(dy), self._data(x), part, dy.images)
        self._run(sums.weight_total, out.size, part, out.reshape(-1), 1)

    # ---- pooling -----------------------------------------------------------------------------------------------------

    def max_pool(self, x: Batch, window: Window) -> tuple[Batch, Array]:
        y = x.like(self._empty((*x.data.shape[:2], *window.output, LANES)))
        where = self._empty(self._deep(y).shape, np.int32)
        geometry = window3d(window).kernel, *_steps(window)
        self._run(pool.max_pool, y.data.size, self._deep(x), self._deep(y), where, *geometry)
        return y, where

    def max_pool_gradient(self, dy: Batch, where: Array, window: Window) -> Batch:
        dx = dy.like(self._empty((*dy.data.shape[:2], *window.input, LANES)))
        geometry = window3d(window).kernel, *_steps(window)
        self._run(pool.max_pool_gradient, dx.data.size, self._deep(dy), where, self._deep(dx), *geometry)
        return dx

    def avg_pool(self, x: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        y = x.like(self._empty((*x.data.shape[:2], *window.output, LANES)))
        geometry = window3d(window).kernel, *_steps(window)
        counts = self._counts(window, count_include_pad)
        self._run(pool.avg_pool, y.data.size, self._deep(x), self._deep(y), counts, *geometry)
        return y

    def avg_pool_gradient(self, dy: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        dx = dy.like(self._empty((*dy.data.shape[:2], *window.input, LANES)))
        geometry = window3d(window).kernel, *_steps(window)
        counts = self._counts(window, count_include_pad)
        self._run(pool.avg_pool_gradient, dx.data.size, self._deep(dy), self._deep(dx), counts, *geometry)
        return dx

    def _counts(self, window: Window, count_include_pad: bool) -> Array:
        counts = pool_counts(window, count_include_pad)
        return self.array(counts.reshape(window3d(window).output).astype(np.float32))

    def global_avg_pool(self, x: Batch) -> Batch:
        y = x.like(self._empty((*x.data.shape[:2], LANES)))
        positions, band = math.prod(x.spatial), positions_per_band(x.spatial)
        part = self._empty((-(-positions // band), y.data.size), np.float64)
        maps = self._data(x).reshape(-1, positions, LANES)
        self._run(norm.map_sums, part.size, maps, part, band)
        self._run(norm.global_avg_pool, y.data.size, part, self._flat(y), np.float64(positions))
        return y

    def global_avg_pool_gradient(self, dy: Batch, spatial: tuple[int, ...]) -> Batch:
        dx = dy.like(self._empty((*dy.data.shape[:2], *spatial, LANES)))
        positions = math.prod(spatial)
        given, wanted = self._data(dy).reshape(-1, LANES), dx.data.reshape(-1, positions, LANES)
        self._run(norm.global_avg_pool_gradient, dx.data.size, given, wanted, np.float32(positions))
        return dx

    # ---- elementwise -------------------------------------------------------------------------------------------------

    def _map(self, kernel, *inputs: Batch, options: tuple = ()) -> Batch:
        y = self._like(inputs[0])
        self._run(kernel, y.data.size, *map(self._flat, inputs), self._flat(y), *options)
        return y

    def elementwise(self, name: str, x: Batch, *settings: float) -> Batch:
        return getattr(self, name)(x, *settings)

    def elementwise_gradient(self, name: str, dy: Batch, saved: Batch, *settings: float) -> Batch:
        return getattr(self, f"{name}_gradient")(dy, saved, *settings)

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
        drawn = np.float32(rate), np.float32(1 / (1 - rate)), np.uint64(seed), step, layer
        self._run(random_kernels.dropout, y.data.size, self._data(x).reshape(shape), y.data.reshape(shape), *drawn)
        return y

    # ---- batch norm --------------------------------------------------------------------------------------------------

    def batch_norm_statistics(self, x: Batch) -> tuple[Array, Array, Array]:
        mean, var, unbiased = (self._empty((x.channels,)) for _ in range(3))
        mean64, count = self._empty((x.channels,), np.float64), _count(x)
        part, bands = self._sums(norm.value_sums, x, self._pixels(x))
        self._run(norm.mean_of, x.channels, part, bands, count, mean64, mean)
        part, bands = self._sums(norm.square_sums, x, self._pixels(x), mean64)
        self._run(norm.variance_of, x.channels, part, bands, count, np.float64(max(count - 1, 1)), var, unbiased)
        return mean, var, unbiased

    def batch_norm(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, relu: bool = False
    ) -> Batch:
        y = self._like(x)
        given = self._flat(x), mean, var, gamma, beta, np.float32(eps)
        self._run(norm.batch_norm, y.data.size, *given, self._flat(y), _map_size(x), relu)
        return y

    def batch_norm_gradient(
        self, dy: Batch, x: Batch, mean: Array, var: Array, gamma: Array, eps: float, out_gamma: Array, out_beta: Array
    ) -> Batch:
        dx = self._like(x)
        dgamma_mean, dbeta_mean = self._empty((x.channels,)), self._empty((x.channels,))
        count, eps = _count(x), np.float32(eps)
        part, bands = self._sums(norm.product_sums, x, self._pixels(dy), self._pixels(x), mean, var, eps)
        self._run(norm.sum_and_mean_of, x.channels, part, bands, count, out_gamma, dgamma_mean)
        part, bands = self._sums(norm.value_sums, dy, self._pixels(dy))
        self._run(norm.sum_and_mean_of, x.channels, part, bands, count, out_beta, dbeta_mean)
        given = self._flat(dy), self._flat(x), mean, var, gamma, eps, dbeta_mean, dgamma_mean
        self._run(norm.batch_norm_gradient, dx.data.size, *given, self._flat(dx), _map_size(x), x.images)
        return dx

    def batch_norm_input_gradient(self, dy: Batch, var: Array, gamma: Array, eps: float) -> Batch:
        dx = self._like(dy)
        given = self._flat(dy), var, gamma, np.float32(eps)
        self._run(norm.batch_norm_input_gradient, dx.data.size, *given, self._flat(dx), _map_size(dy))
        return dx

    def update_running(self, running: Array, batch: Array, momentum: float) -> None:
        self._run(optimizers.update_running, running.size, running, batch, np.float32(momentum))

    # ---- loss --------------------------------------------------------------------------------------------------------

    def softmax(self, x: Batch) -> Batch:
        y = self._like(x)
        self._run(loss.softmax, x.data.size // x.channels, self._pixels(x), self._pixels(y))
        return y

    def softmax_cross_entropy(self, logits: Batch, labels: Array, totals: Array | None = None) -> tuple[Array, Batch]:
        dz, mean, count = self._like(logits), self._empty((1,)), logits.images
        losses, hits = self._empty((count, 1), np.float64), self._empty((count,), np.float64)
        totals = self.zeros((2,), np.float64) if totals is None else totals
        given = self._data(logits), labels, dz.data, losses, hits
        self._run(loss.softmax_cross_entropy, labels.size, *given, np.float32(1 / count))
        self._run(loss.mean_loss, 1, losses, hits, np.float64(count), mean, totals)
        return mean, dz

    # ---- optimisers --------------------------------------------------------------------------------------------------

    def sgd(
        self, w: Array, g: Array, v: Array, hyper: Array, *, momentum: float, weight_decay: float, nesterov: bool
    ) -> None:
        constants = np.float32(momentum), np.float32(weight_decay), bool(nesterov)
        self._run(optimizers.sgd, w.size, w, g, v, hyper, *constants)

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
        self._run(optimizers.adam, w.size, w, g, m, v, hyper, *constants, bool(decoupled))

    def watch(self, status: Array, step: Array, loss: Array, w: Array) -> None:
        self._run(optimizers.watch, w.size, status, step, loss, w)


def _deep_weights(w: Array) -> Array:
    """(O, C/groups, *K) with three kernel axes."""
    return w.reshape(*w.shape[:2], *three(w.shape[2:], 1))


def _steps(window: Window) -> tuple[tuple, tuple, tuple]:
    """Stride, dilation and the padding before, along three axes."""
    sizes = window3d(window)
    return sizes.stride, sizes.dilation, sizes.before


def _map_size(x: Batch) -> int:
    """Values of one channel of one block."""
    return math.prod(x.spatial) * LANES


def _count(x: Batch) -> np.float64:
    """Images times positions."""
    return np.float64(x.images * math.prod(x.spatial))


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
