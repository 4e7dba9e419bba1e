"""The backend protocol: the primitive operations on batches in lanes.

Layers call nothing else, so they are independent of the device. Conventions of every operation:

- activations are `Batch` objects; parameters, statistics and their gradients are plain arrays of `backend.xp`;
- a convolution's weights are (O, C/groups, *K), a dense layer's (out, in), biases (O,);
- sizes are passed as a `Window` (gpucnn.geometry) that has been checked; backends check nothing again;
- gradients of parameters are written into the `out...` array, because they are views of one flat buffer;
- what must change between replays of a captured step (learning rate, step number, image indices) is read from device
  arrays, never from Python numbers;
- in exact math every operation obeys kernels/CONTRACT.md to the bit; numbers in brackets below are its rules.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.arguments import array, converted, refuse
from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.memory import host_memory
from gpucnn.backends.processors import default_threads
from gpucnn.backends.step_end import StepEnd
from gpucnn.errors import BackendError, DTypeError, ShapeError
from gpucnn.geometry import Window
from gpucnn.inference import Unplannable
from gpucnn.resampling import AxisTaps, Taps, adaptive_average, adaptive_maximum

if TYPE_CHECKING:
    from gpucnn.inference import Plan
    from gpucnn.inference.graph import Graph

Array = Any


class Backend(ABC):
    """One device with its arrays, kernels and arithmetic.

    `name` is get_backend's; `math` is "exact" or "fast"; `lanes` is the number of images side by side in a block; `xp`
    is the array module (numpy or cupy); `dtype` is float32, or float64 on request with the numpy backend's fast math;
    `threads` is the number of CPU threads in use, 0 on a GPU; `device` describes the hardware in a few words.
    `graph`: whether `capture` records a step to repeat it; if it is True it may be set to False. `shares_batches`:
    whether it can compute a part of a batch whose other parts are computed elsewhere (gpucnn.backends.shares);
    `exchanges_on`: where the parts' sums are added.
    Created by get_backend as `Implementation(threads=int, dtype=np.dtype)`.
    """

    name: str
    math: str
    lanes: int
    xp: Any
    dtype: np.dtype
    threads: int
    device: str
    graph: bool = False
    looks_ahead = False  # whether end_step prepares the next step
    splits = False  # whether plans and recordings pay for parts of a network, with code in Python between them
    packs_weights = False  # whether plans keep copies of weights, and look whether they are still right
    replaced: int | None = None  # how many launches of kernels for a shape were replaced, in what `general` returns
    shares_batches: bool = False
    exchanges_on: str = ""

    def __deepcopy__(self, memo: dict) -> "Backend":
        """Itself: what is copied stays on the same device."""
        return self

    def __reduce__(self):
        """Pickled it is the one of its name where it is loaded, with as many threads if their number was chosen."""
        from gpucnn.backends import get_backend

        threads = None if self.threads == default_threads(self.name) else self.threads or None
        graph = self.graph or not type(self).graph
        return partial(get_backend, self.name, self.math, threads=threads, dtype=self.dtype, graph=graph), ()

    # ---- memory -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], dtype=None) -> Array:
        """A new array of zeros, by default of the backend's dtype."""

    @abstractmethod
    def array(self, host: np.ndarray) -> Array:
        """A copy of a host array on the device, of the same type."""

    @abstractmethod
    def assign(self, array: Array, host: np.ndarray) -> None:
        """Overwrite a device array in place with host values of the same shape; a captured step sees them."""

    @abstractmethod
    def host(self, array: Array) -> np.ndarray:
        """A copy of a device array on the host; waits for the kernels that write it."""

    def staging(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        """Uninitialized host memory that `assign` and `host_into` copy fastest; not to be changed between `assign` and
        the next call that waits.
        """
        return np.empty(shape, dtype)

    def host_into(self, array: Array, out: np.ndarray) -> None:
        """`host` into a host array of the same shape and type."""
        out[...] = self.host(array)

    def memory(self) -> int:
        """Total bytes of the memory in which arrays are stored; 0 if unknown."""
        return host_memory()

    @abstractmethod
    def pack(self, images: np.ndarray) -> Batch:
        """(N, C, *spatial) of `dtype` from the host, or from the backend's own module, to lanes. Raises DTypeError or
        ShapeError for anything else.
        """

    def _packable(self, images: Any) -> Array:
        """What `pack` was given, as an array, if it is a batch."""
        given, images = images, images if type(images) is self.xp.ndarray else array("images", images)
        if images.dtype.kind in "OSUV":
            raise refuse("images", given, f"an array (N, C) or (N, C, *spatial) of {self.dtype}", DTypeError)
        if images.dtype != self.dtype:
            raise DTypeError(
                f"images are {images.dtype}; {self.math} math on {self.name} takes {self.dtype}: convert them with "
                f"{converted('images', given, self.dtype)}"
            )
        if not 2 <= images.ndim <= 5 or not images.size:
            one_each = ": one value an image is images[:, None]" if images.ndim == 1 and images.size else ""
            raise ShapeError(
                f"images have shape {images.shape}; a batch is (N, C), or (N, C, *spatial) with 1 to 3 spatial axes, "
                f"and no axis is empty{one_each}"
            )
        return images

    @abstractmethod
    def unpack(self, batch: Batch) -> np.ndarray:
        """Lanes to (N, C, *spatial) on the host."""

    def rows(self, batch: Batch) -> Array:
        """What `unpack` gives, (N, C, *spatial), as an array on the device."""
        array = self.zeros(batch.shape)
        self.between(lambda: self.assign(array, self.unpack(batch)))
        return array

    @abstractmethod
    def pack_labels(self, labels: np.ndarray) -> Array:
        """Integer labels (N,) to int32 (block, lane); -1 pads the last block."""

    @abstractmethod
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
        """Gather images[indices[i]] for i < count into lanes, (count, C, *augmentation.output(spatial)).

        images (M, C, *spatial) of `dtype` and indices (at least count,) int64 are on the device. Random numbers [10]
        are drawn for image i of the batch at (seed, step); step is uint32 (1,) on the device. Without a step nothing is
        random: crops are from the middle, without shift, flip or cutout. With draw = the first Philox word >> 8:

        - shift: along each spatial axis output pixel p shows input pixel p - offset, +0 where there is none, offset =
          ((draw * (2*shift + 1)) >> 24) - shift with SHIFT's draw;
        - crop from size I to K: p shows p + origin, origin = ((draw * (I - K + 2*shift + 1)) >> 24) - shift with CROP's
          draw; without a step (I - K) // 2;
        - flip: where the highest bit of FLIP's word is set, p along the last axis is K - 1 - p instead;
        - mean and std: (x - mean) * f32(1 / std), two operations, on pixels that show an image pixel;
        - cutout: +0 at the output pixels that are, along every spatial axis, in [first, first + cutout) with first =
          ((draw * K) >> 24) - cutout // 2 and CUTOUT's draw.
        """

    @abstractmethod
    def load_labels(self, labels: Array, indices: Array, count: int) -> Array:
        """Gather labels[indices[i]] for i < count as int32 (block, lane), -1 past count. labels (M,) int32."""

    def load_batch(
        self,
        images: Array,
        labels: Array,
        indices: Array,
        count: int,
        augmentation: Augmentation = NO_AUGMENTATION,
        *,
        seed: int = 0,
        step: Array | None = None,
    ) -> tuple[Batch, Array]:
        """load_images and load_labels, in one kernel if the backend has one."""
        batch = self.load_images(images, indices, count, augmentation, seed=seed, step=step)
        return batch, self.load_labels(labels, indices, count)

    @abstractmethod
    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Run `step` once and return a function that repeats its kernels on the same arrays.

        A backend that cannot record, or whose `graph` is off, returns `step` itself. What `step` computes outside the
        backend's operations (a user-defined layer in plain array code) is repeated only if the backend can record it.
        A step that keeps a result drops the previous one first: where it is run a second time to be recorded, that must
        find the memory of the first.
        """

    def capture_step(self, step: Callable[[], None]) -> Callable[[], None]:
        """`capture` of a whole network's step, in fewer kernels than operations if the backend knows how. A result
        that the step leaves somewhere is there after each replay; it is the same array each time.
        """
        return self.capture(step)

    def prepare(self, step: Callable[[], None]) -> None:  # noqa: B027 - most backends have nothing to prepare
        """Make ready what `step` will need, such as kernels, without computing anything.

        Only for steps that compute nothing outside the backend's operations.
        """

    def arrivals(self) -> int:
        """How often faster kernels have arrived: a step that was recorded before is worth being recorded again."""
        return 0

    def general(self) -> "Backend | None":
        """A backend that computes with those kernels alone that serve while this one's for a shape are being compiled;
        `replaced` counts what they stand for. None: every kernel is compiled before it is needed.
        """
        return None

    @property
    def is_recording(self) -> bool:
        """Whether this thread records, on a backend that splits recordings."""
        return False

    def between(self, work: Callable[[], None]) -> None:
        """Call `work`, which reads and writes arrays on the host, now and at the same place of each replay. On a
        backend that splits recordings it may launch operations too.
        """
        work()

    def images_at_once(self, graph: "Graph") -> int:
        """How many images a plan of a traced network should compute at most."""
        if not self.graph:
            raise Unplannable(f"backend {self.name} records nothing")
        return 1024  # what a caller passes as batch_size counts up to here

    def plan(
        self, graph: "Graph", count: int, preparation: Augmentation, image_shape: tuple[int, ...], steady: bool
    ) -> "Plan":
        """A plan that computes a traced network on `count` images, prepared first. `steady`: the weights are likely to
        stay as they are.

        Raises Unplannable where the backend has none, or none for an operation: then layers compute it.
        """
        from gpucnn.inference.recorded import RecordedPlan

        return RecordedPlan(self, graph, count, preparation, image_shape)

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for all launched work."""

    def elapsed(self, work: Callable[[], Any]) -> float:
        """Seconds that `work` takes, launched kernels included. On a GPU by the device's clock, between two events."""
        self.synchronize()
        started = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - started

    # ---- convolution and dense [2, 3, 4] -----------------------------------------------------------------------------

    @abstractmethod
    def conv(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int = 1, relu: bool = False
    ) -> Batch:
        """Cross-correlation of x (N, C, *I) with w, (N, O, *P); with `relu` followed by max(0, .)."""

    def conv_max_pool(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int, pool: Window
    ) -> tuple[Batch, Any]:
        """max_pool of relu of conv, in one kernel if the backend has one.

        The returned taps may differ where the maximum is not above zero; ReLU's gradient is zero there.
        """
        return self.max_pool(self.conv(x, w, bias, window, groups, relu=True), pool)

    def conv_inference(
        self,
        x: Batch,
        w: Array,
        bias: Array | None,
        window: Window,
        groups: int,
        *,
        norm: tuple[Array, Array, Array, Array, float] | None = None,
        other: Batch | None = None,
        relu: bool = False,
        pool: Window | None = None,
    ) -> Batch:
        """conv; then, as far as they are given, batch_norm with `norm` (mean, var, gamma, beta, eps), plus `other`,
        max(0, .), max_pool. Each value is rounded as if it were stored in between; one kernel if the backend has one.
        """
        y = self.conv(x, w, bias, window, groups, relu=relu and norm is None and other is None)
        if norm is not None:
            return self.batch_norm_inference(y, *norm, other=other, relu=relu, pool=pool)
        if other is not None:
            y = self.add(y, other, relu)
        return y if pool is None else self.max_pool(y, pool)[0]

    def conv_max_pool_gradient(self, dy: Batch, y: Batch, where: Any, pool: Window, out_bias: Array | None) -> Batch:
        """The gradient before ReLU from dy and conv_max_pool's y and where, in one kernel if the backend has one;
        writes the bias's gradient into out_bias.
        """
        dz = self.max_pool_gradient(self.elementwise_gradient("relu", dy, y), where, pool)
        if out_bias is not None:
            self.bias_gradient(dz, out_bias)
        return dz

    @abstractmethod
    def conv_input_gradient(self, dy: Batch, w: Array, window: Window, groups: int = 1) -> Batch:
        """dx (N, C, *I) from dy (N, O, *P); with transposed_window's window, a transposed convolution's output."""

    def conv_input_gradient_add(self, dy: Batch, w: Array, window: Window, groups: int, other: Batch) -> Batch:
        """conv_input_gradient, plus `other`; one kernel if the backend has one."""
        return self.add(self.conv_input_gradient(dy, w, window, groups), other)

    @abstractmethod
    def conv_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        """out (O, C/groups, *K) = the sum over images and positions of dy times x.

        For a transposed convolution pass its x as dy and its dy as x.
        """

    @abstractmethod
    def bias_gradient(self, dy: Batch, out: Array) -> None:
        """out (O,) = the sum of dy over images and positions, in float64, rounded once."""

    @abstractmethod
    def dense(self, x: Batch, w: Array, bias: Array | None, relu: bool = False) -> Batch:
        """x (N, in) to (N, out)."""

    @abstractmethod
    def dense_input_gradient(self, dy: Batch, w: Array) -> Batch:
        """dx (N, in) from dy (N, out)."""

    @abstractmethod
    def dense_weight_gradient(self, dy: Batch, x: Batch, out: Array) -> None:
        """out (out, in)."""

    def dense_gradients(
        self, dy: Batch, y: Batch | None, x: Batch, w: Array, out_w: Array, out_b: Array | None, input_gradient: bool
    ) -> Batch | None:
        """All gradients of a dense layer, in one kernel if the backend has one: writes out_w and, unless None, out_b;
        returns dx if `input_gradient`. `y` is the layer's output after ReLU, None without ReLU.
        """
        if y is not None:
            dy = self.elementwise_gradient("relu", dy, y)
        if out_b is not None:
            self.bias_gradient(dy, out_b)
        self.dense_weight_gradient(dy, x, out_w)
        return self.dense_input_gradient(dy, w) if input_gradient else None

    # ---- pooling [7] -------------------------------------------------------------------------------------------------

    @abstractmethod
    def max_pool(self, x: Batch, window: Window) -> tuple[Batch, Any]:
        """(y, where): the maxima and, in a backend-specific form for max_pool_gradient, their positions."""

    @abstractmethod
    def max_pool_gradient(self, dy: Batch, where: Any, window: Window) -> Batch:
        """dx from dy and what max_pool returned."""

    @abstractmethod
    def avg_pool(self, x: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        """Means over the window."""

    @abstractmethod
    def avg_pool_gradient(self, dy: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        """dx from dy."""

    @abstractmethod
    def global_avg_pool(self, x: Batch) -> Batch:
        """(N, C, *I) to (N, C): the mean of each map, in float64 by rules 3 and 4 within the image, rounded once."""

    @abstractmethod
    def global_avg_pool_gradient(self, dy: Batch, spatial: tuple[int, ...]) -> Batch:
        """dx (N, C, *spatial): dy / count at every pixel."""

    # ---- maps along spatial axes: padding, upsampling, adaptive pooling [7] ------------------------------------------

    @abstractmethod
    def resample_axis(self, x: Batch, axis: int, taps: AxisTaps) -> Batch:
        """x (N, C, *I) with spatial axis `axis` mapped by taps for as many positions (gpucnn.resampling).

        y[p] = acc + 0, acc from +0 by fma(weight, x[i], acc) over the taps of p in order, or the fill where p has none.
        """

    def resample(self, x: Batch, taps: Taps) -> Batch:
        """Map one axis after the other, the first axis first; None leaves an axis unchanged."""
        for axis, axis_taps in enumerate(taps):
            if axis_taps is not None:
                x = self.resample_axis(x, axis, axis_taps)
        return x

    def resample_gradient(self, dy: Batch, taps: Taps) -> Batch:
        """dx of resample from dy: the transposed maps, the last axis first."""
        for axis, axis_taps in reversed(list(enumerate(taps))):
            if axis_taps is not None:
                dy = self.resample_axis(dy, axis, axis_taps.transposed())
        return dy

    def adaptive_avg_pool(self, x: Batch, output: tuple[int, ...]) -> Batch:
        """The means of windows that divide each axis evenly: (N, C, *output)."""
        taps, window = adaptive_average(x.spatial, output)
        return self.resample(x, taps) if window is None else self.avg_pool(x, window)

    def adaptive_avg_pool_gradient(self, dy: Batch, spatial: tuple[int, ...]) -> Batch:
        """dx (N, C, *spatial) from dy."""
        taps, window = adaptive_average(spatial, dy.spatial)
        return self.resample_gradient(dy, taps) if window is None else self.avg_pool_gradient(dy, window)

    def adaptive_max_pool(self, x: Batch, output: tuple[int, ...]) -> tuple[Batch, Any]:
        """(y, where): the maxima of adaptive_avg_pool's windows, and their positions for the gradient."""
        taps, window = adaptive_maximum(x.spatial, output)
        return self.max_pool(self.resample(x, taps), window)

    def adaptive_max_pool_gradient(self, dy: Batch, where: Any, spatial: tuple[int, ...]) -> Batch:
        """dx (N, C, *spatial) from dy and what adaptive_max_pool returned."""
        taps, window = adaptive_maximum(spatial, dy.spatial)
        return self.resample_gradient(self.max_pool_gradient(dy, where, window), taps)

    # ---- elementwise [5, 6, 7] ---------------------------------------------------------------------------------------

    @abstractmethod
    def elementwise(self, name: str, x: Batch, *settings: float) -> Batch:
        """An activation of gpucnn.backends.elementwise.ELEMENTWISE, applied to every value of x.

        relu          x > 0 ? x : +0
        tanh          by rule 6, +0 for -0
        sigmoid       1 / (1 + exp(-x)) by rule 6
        leaky_relu    x > 0 ? x : slope * x + 0
        gelu          x * Phi(x) by rule 6, Phi the normal distribution's cdf
        silu          x / (1 + exp(-x)) by rule 6
        """

    @abstractmethod
    def elementwise_gradient(self, name: str, dy: Batch, saved: Batch, *settings: float) -> Batch:
        """Its gradient from dy and `saved`: the output y for the first three, the input x for the others.

        relu          y > 0 ? dy : +0
        tanh          dy * fma(-y, y, 1)
        sigmoid       dy * (y * (1 - y))
        leaky_relu    x > 0 ? dy : slope * dy
        gelu          dy * f32(Phi(x) + x * phi(x)), phi the normal density
        silu          dy * f32(s * (1 + x * (1 - s))), s = 1 / (1 + exp(-x)) in float64
        """

    @abstractmethod
    def add(self, a: Batch, b: Batch, relu: bool = False) -> Batch:
        """a + b of the same shape (a residual connection); with `relu` followed by max(0, .)."""

    @abstractmethod
    def dropout(self, x: Batch, rate: float, seed: int, step: Array, layer: int) -> Batch:
        """u < rate ? +0 : x * f32(1 / (1 - rate)) with u from Philox at (logical index, step, DROPOUT, layer) [10].

        The same call on dy is the gradient. step is uint32 (1,) on the device.
        """

    # ---- batch norm [4, 5] -------------------------------------------------------------------------------------------

    @abstractmethod
    def batch_norm_statistics(self, x: Batch) -> tuple[Array, Array, Array]:
        """(mean, var, unbiased var), each (C,), over images and positions."""

    def batch_norm_moving_statistics(
        self, x: Batch, running_mean: Array, running_var: Array, momentum: float
    ) -> tuple[Array, Array]:
        """(mean, var) of batch_norm_statistics; running_mean and running_var (C,) move toward the mean and the unbiased
        variance, as update_running does. In the same kernels if the backend has such.
        """
        mean, var, unbiased = self.batch_norm_statistics(x)
        self.update_running(running_mean, mean, momentum)
        self.update_running(running_var, unbiased, momentum)
        return mean, var

    @abstractmethod
    def batch_norm(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, relu: bool = False
    ) -> Batch:
        """fma(gamma, (x - mean) * (1 / sqrt(var + eps)), beta); with `relu` followed by max(0, .)."""

    @abstractmethod
    def batch_norm_gradient(
        self, dy: Batch, x: Batch, mean: Array, var: Array, gamma: Array, eps: float, out_gamma: Array, out_beta: Array
    ) -> Batch:
        """dx through the batch's own statistics; writes dgamma (C,) and dbeta (C,)."""

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
        """batch_norm_gradient of ReLU's gradient from dy and y, the rectified batch norm of x;
        in one kernel if the backend has one.
        """
        dy = self.elementwise_gradient("relu", dy, y)
        return self.batch_norm_gradient(dy, x, mean, var, gamma, eps, out_gamma, out_beta)

    def batch_norm_max_pool(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, pool: Window
    ) -> tuple[Batch, Any]:
        """(y, kept): max_pool of relu of batch_norm, and what its gradient needs; one kernel if there is one."""
        rectified = self.batch_norm(x, mean, var, gamma, beta, eps, relu=True)
        y, where = self.max_pool(rectified, pool)
        return y, (rectified, where)

    def batch_norm_inference(
        self,
        x: Batch,
        mean: Array,
        var: Array,
        gamma: Array,
        beta: Array,
        eps: float,
        *,
        other: Batch | None = None,
        relu: bool = False,
        pool: Window | None = None,
    ) -> Batch:
        """batch_norm, then as in conv_inference."""
        settings = x, mean, var, gamma, beta, eps
        if pool is not None and relu and other is None:
            return self.batch_norm_max_pool(*settings, pool)[0]
        y = self.batch_norm(*settings, relu) if other is None else self.batch_norm_add(*settings, other, relu)
        return y if pool is None else self.max_pool(y, pool)[0]

    def batch_norm_max_pool_gradient(
        self,
        dy: Batch,
        kept: Any,
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
        """dx through the batch's own statistics; writes dgamma (C,) and dbeta (C,). `kept` is batch_norm_max_pool's."""
        rectified, where = kept
        through = self.max_pool_gradient(dy, where, pool), rectified
        return self.batch_norm_relu_gradient(*through, x, mean, var, gamma, beta, eps, out_gamma, out_beta)

    def batch_norm_add(
        self,
        x: Batch,
        mean: Array,
        var: Array,
        gamma: Array,
        beta: Array,
        eps: float,
        other: Batch,
        relu: bool = False,
    ) -> Batch:
        """batch_norm of x, plus `other`; with `relu` followed by max(0, .). One kernel if the backend has one."""
        return self.add(self.batch_norm(x, mean, var, gamma, beta, eps), other, relu)

    def batch_norm_add_gradient(
        self,
        dy: Batch,
        y: Batch | None,
        x: Batch,
        mean: Array,
        var: Array,
        gamma: Array,
        eps: float,
        out_gamma: Array,
        out_beta: Array,
    ) -> tuple[Batch, Batch]:
        """(dx through the batch's own statistics, the gradient of `other`) of batch_norm_add; y is its output after
        ReLU, None without ReLU. Writes dgamma (C,) and dbeta (C,).
        """
        if y is not None:
            dy = self.elementwise_gradient("relu", dy, y)
        return self.batch_norm_gradient(dy, x, mean, var, gamma, eps, out_gamma, out_beta), dy

    def batch_norm_training(
        self,
        x: Batch,
        running_mean: Array,
        running_var: Array,
        momentum: float,
        gamma: Array,
        beta: Array,
        eps: float,
        other: Batch | None = None,
        relu: bool = False,
    ) -> tuple[Batch, Array, Array]:
        """(y, mean, var): batch_norm_moving_statistics, and batch_norm with them or batch_norm_add of `other`. In one
        kernel if the backend has one.
        """
        mean, var = self.batch_norm_moving_statistics(x, running_mean, running_var, momentum)
        if other is None:
            return self.batch_norm(x, mean, var, gamma, beta, eps, relu), mean, var
        return self.batch_norm_add(x, mean, var, gamma, beta, eps, other, relu), mean, var

    @abstractmethod
    def batch_norm_input_gradient(self, dy: Batch, var: Array, gamma: Array, eps: float) -> Batch:
        """dx where the statistics are constants (inference mode): dy * (gamma * inv)."""

    @abstractmethod
    def update_running(self, running: Array, batch: Array, momentum: float) -> None:
        """running = fma(momentum, batch - running, running), in place."""

    def batch_norm_gradient_by_means(
        self,
        dy: Batch,
        x: Batch,
        mean: Array,
        var: Array,
        gamma: Array,
        eps: float,
        gamma_mean: Array,
        beta_mean: Array,
    ) -> Batch:
        """dx of batch_norm_gradient from f32(dgamma64 / M) and f32(dbeta64 / M), each (C,)."""
        raise self._shares_nothing()

    def channel_sums(self, x: Batch, y: Batch | None = None, center: Array | None = None) -> Array:
        """The sum of x, of x * y, or of (x - center)**2 over images and positions, float64 (C,) as is center."""
        raise self._shares_nothing()

    def _shares_nothing(self) -> BackendError:
        return BackendError(f"backend {self.name} with {self.math} math cannot share a batch with other processes")

    # ---- group norm and layer norm [4, 5] ----------------------------------------------------------------------------

    @abstractmethod
    def group_norm_statistics(self, x: Batch, groups: int) -> tuple[Batch, Batch]:
        """(mean, var), each (N, groups), of each image's `groups` equal groups of channels,
        over channels and positions.
        """

    @abstractmethod
    def group_norm(
        self, x: Batch, mean: Batch, var: Batch, gamma: Array | None, beta: Array | None, eps: float, relu: bool = False
    ) -> Batch:
        """fma(gamma, (x - mean) * (1 / sqrt(var + eps)), beta); with `relu` followed by max(0, .).

        gamma and beta (C,), one per channel; both None for 1 and 0. Layer norm: x flattened to (N, values), one group.
        """

    @abstractmethod
    def group_norm_gradient(
        self,
        dy: Batch,
        x: Batch,
        mean: Batch,
        var: Batch,
        gamma: Array | None,
        eps: float,
        out_gamma: Array | None,
        out_beta: Array | None,
    ) -> Batch:
        """dx through the statistics; writes dgamma (C,) and dbeta (C,) unless gamma and both are None."""

    # ---- loss [8] ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def softmax(self, x: Batch) -> Batch:
        """Along the channels: e / s with e = f32(exp(z - max)), s their sequential sum."""

    @abstractmethod
    def softmax_cross_entropy(self, logits: Batch, labels: Array, totals: Array | None = None) -> tuple[Array, Batch]:
        """(loss (1,), dlogits): the mean over the images, and its gradient.

        logits (N, classes); labels int32 (block, lane). totals, float64 (2,), is increased by the sum of the losses
        (the float64 tree of rule 3) and the number of images whose first largest logit is the label's.
        """

    # ---- optimizers [9] ----------------------------------------------------------------------------------------------

    @abstractmethod
    def sgd(
        self, w: Array, g: Array, v: Array, hyper: Array, *, momentum: float, weight_decay: float, nesterov: bool
    ) -> None:
        """In place on the flat buffers. hyper float32 (1,) on the device: (lr,)."""

    @abstractmethod
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
        """In place on the flat buffers. hyper float32 (4,) on the device: (lr, c1, c2, f32(lr * weight_decay)).

        Adam adds fma(weight_decay, w, g) first; `decoupled` (AdamW) does w = fma(-hyper[3], w, w) first instead. The
        betas, 1 - beta (computed in float64), eps and weight_decay are rounded to float32 once.
        """

    @abstractmethod
    def watch(self, status: Array, step: Array, loss: Array, w: Array) -> None:
        """If status is still -1 and the loss or any weight is not finite, status = step. status int64 (1,)."""

    def optimize(self, kind: str, w: Array, *arrays: Array, end: StepEnd, **settings: Any) -> None:
        """The update `kind`, "sgd" or "adam", of w, then end_step; in one kernel if the backend has one."""
        getattr(self, kind)(w, *arrays, **settings)
        self.end_step(end, w)

    def end_step(self, end: StepEnd, w: Array) -> None:
        """`watch`, after the weights w were updated. A backend whose `looks_ahead` is True then also prepares the next
        step: the row and step number grow by 1, and while rows are left, indices and hyper are those of the row.
        """
        self.watch(end.status, end.step, end.loss, w)

    # ---- more losses, clipping [8, 9] --------------------------------------------------------------------------------

    @abstractmethod
    def softmax_gradient(self, dy: Batch, y: Batch) -> Batch:
        """(dy - s) * y with y = softmax(x) along the channels and s the chain of dy * y over them."""

    @abstractmethod
    def weighted_cross_entropy(
        self, logits: Batch, labels: Array, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        """softmax_cross_entropy with label smoothing and class weights (classes,): (loss (1,), dlogits).

        For an image with label t, the target of class c is q_c = weights[c] * (smoothing / classes + (c == t) * (1 -
        smoothing)). The loss is the sum of -q_c * log(softmax_c), over classes and images, divided by the sum of the
        images' weights[t]. totals, float64 (3,), is increased by the sum of the losses, the number of hits and
        that divisor.
        """

    def label_weights(self, labels: Array, weights: Array, images: int) -> Array:
        """The sum of weights[label] over the images, float64 (1,)."""
        raise self._shares_nothing()

    @abstractmethod
    def value_loss(
        self, kind: str, x: Batch, targets: Batch, delta: float = 1.0, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        """(loss (1,), dx): the mean over all values of x, and its gradient; targets have x's shape, kind is one of

            mean_squared            d**2, d = x - target
            mean_absolute           |d|
            huber                   d**2 / 2 where |d| <= delta, delta * (|d| - delta / 2) beyond
            binary_cross_entropy    max(x, 0) - x * target + log(1 + exp(-|x|)): x are logits

        totals, float64 (1,), is increased by the sum over all values.
        """

    @abstractmethod
    def map_cross_entropy(
        self, logits: Batch, labels: Batch, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        """weighted_cross_entropy at each position: (loss (1,), dlogits). logits (N, classes, *spatial); labels
        (N, 1, *spatial) hold class + 1, or 0 for a position to ignore.

        totals, float64 (4,), is increased by the sum of the losses, the hits, the sum of the labels' weights, by which
        the loss is divided (no label: the loss is 0), and the number of labels that are not ignored.
        """

    def label_map_weights(self, labels: Batch, weights: Array) -> Array:
        """Float64 (2,): the sum of the labels' weights over images and positions, and the number of labels."""
        raise self._shares_nothing()

    @abstractmethod
    def dice(self, p: Batch, labels: Batch, smooth: float, totals: Array | None = None) -> tuple[Array, Batch]:
        """(loss (1,), dp) from probabilities p (N, classes, *spatial) and labels as in map_cross_entropy.

        The loss is the mean over images and classes of 1 - (2 * I + smooth) / (P + T + smooth): over an image's
        positions that are not ignored, I is the sum of p where the label is the class, P that of p, T the number of
        such labels. totals, float64 (1,), is increased by the sum over the images.
        """

    @abstractmethod
    def clip_value(self, g: Array, limit: float) -> None:
        """Each value of the flat g clamped to [-limit, limit], in place."""

    @abstractmethod
    def clip_norm(self, g: Array, limit: float) -> None:
        """If the flat g's Euclidean norm exceeds limit, g *= f32(limit / norm), in place; the norm in float64."""

    # ---- biases and channels [2] -------------------------------------------------------------------------------------

    @abstractmethod
    def add_bias(self, x: Batch, bias: Array, relu: bool = False) -> Batch:
        """(x + bias) + 0 with bias (C,), as at the end of a dot product; with `relu` followed by max(0, .)."""

    @abstractmethod
    def concatenate(self, batches: list[Batch]) -> Batch:
        """Batches of the same images, (N, C1, *spatial), (N, C2, *spatial) ... or flat,
        to (N, C1 + C2 + ..., *spatial).
        """

    @abstractmethod
    def take_channels(self, x: Batch, first: int, count: int) -> Batch:
        """A copy of channels first to first + count - 1: (N, count, *spatial)."""
