"""The base of the backends whose kernels process blocks of images in lanes: numba, cupy and numba-cuda.

It does what surrounds a kernel and is the same for all three: sizes, allocation, rounding of settings. Each backend
consists of mixins, one per family of kernels, in files named after those of its kernel folder; they implement the
methods with a leading underscore.
"""

import math
from abc import abstractmethod

import numpy as np

from gpucnn.backends import shares
from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array, Backend
from gpucnn.errors import DTypeError
from gpucnn.resampling import AxisTaps


class LaneBackend(Backend):
    """See the protocol for what each method does; comments here and in the backends explain only how."""

    math = "exact"
    dtype = np.dtype(np.float32)

    # ---- memory ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def _empty(self, shape: tuple[int, ...], dtype=np.float32) -> Array:
        """Uninitialized memory."""

    def _like(self, x: Batch) -> Batch:
        return x.like(self._empty(x.data.shape))

    def _maps(self, x: Batch, channels: int, spatial: tuple[int, ...]) -> Batch:
        """An uninitialized (N, channels, *spatial) batch with as many images as x."""
        return x.like(self._empty((self._blocks(x.images), channels, *spatial, self.lanes)))

    def _blocks(self, images: int) -> int:
        """The number of blocks that `images` images fill."""
        return -(-images // self.lanes)

    def _data(self, x: Batch) -> Array:
        """A batch's values, contiguous as the kernels require; a user-defined layer may return others."""
        if x.data.dtype != np.float32:
            raise DTypeError(
                f"a layer returned {x.data.dtype} values; exact math takes float32: keep constants as np.float32"
            )
        return self.xp.ascontiguousarray(x.data)

    # ---- images and labels -------------------------------------------------------------------------------------------

    def pack(self, images: np.ndarray) -> Batch:
        images = self._packable(images)
        return self.load_images(self._source(images), self.array(np.arange(len(images))), len(images))

    def _source(self, images: Array) -> Array:
        """Images from the host, or from the backend's array module, where kernels can read them."""
        return self.array(images) if isinstance(images, np.ndarray) else self.xp.ascontiguousarray(images)

    def pack_labels(self, labels: np.ndarray) -> Array:
        labels = np.asarray(labels, np.int32)
        return self.load_labels(self.array(labels), self.array(np.arange(len(labels))), len(labels))

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
        channels, spatial = images.shape[1], tuple(images.shape[2:])
        shape = self._blocks(count), channels, *augmentation.output(spatial), self.lanes
        y = Batch(self._empty(shape), count, self)
        if augmentation.only_shifts:
            shift = 0 if step is None else augmentation.shift
            self._load_shifted(images, indices, y, shift, shares.offset(), np.uint64(seed), step)
        else:
            self._load_augmented(images, indices, y, augmentation, shares.offset(), np.uint64(seed), step)
        return y

    def load_labels(self, labels: Array, indices: Array, count: int) -> Array:
        y = self._empty((self._blocks(count), self.lanes), np.int32)
        self._load_labels(labels, indices, y, count)
        return y

    # ---- elementwise -------------------------------------------------------------------------------------------------

    def elementwise(self, name: str, x: Batch, *settings: float) -> Batch:
        y = self._like(x)
        self._forward(name, x, y, tuple(map(np.float32, settings)))
        return y

    def elementwise_gradient(self, name: str, dy: Batch, saved: Batch, *settings: float) -> Batch:
        dx = self._like(dy)
        self._gradient(name, dy, saved, dx, tuple(map(np.float32, settings)))
        return dx

    def add(self, a: Batch, b: Batch, relu: bool = False) -> Batch:
        y = self._like(a)
        self._add(a, b, y, relu)
        return y

    # ---- group norm --------------------------------------------------------------------------------------------------

    def group_norm_statistics(self, x: Batch, groups: int) -> tuple[Batch, Batch]:
        mean, var = self._maps(x, groups, ()), self._maps(x, groups, ())
        self._group_norm_statistics(x, mean, var)
        return mean, var

    def group_norm(
        self, x: Batch, mean: Batch, var: Batch, gamma: Array | None, beta: Array | None, eps: float, relu: bool = False
    ) -> Batch:
        y = self._like(x)
        self._group_norm(x, mean, var, gamma, beta, np.float32(eps), y, bool(relu))
        return y

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
        dx = self._like(x)
        self._group_norm_gradient(dy, x, mean, var, gamma, np.float32(eps), out_gamma, out_beta, dx)
        return dx

    # ---- channels, maps along an axis --------------------------------------------------------------------------------

    def concatenate(self, batches: list[Batch]) -> Batch:
        y = self._maps(batches[0], sum(batch.channels for batch in batches), batches[0].spatial)
        first = 0
        for batch in batches:
            self._copy_channels(batch, y, 0, first, batch.channels)
            first += batch.channels
        return y

    def take_channels(self, x: Batch, first: int, count: int) -> Batch:
        y = self._maps(x, count, x.spatial)
        self._copy_channels(x, y, first, 0, count)
        return y

    def resample_axis(self, x: Batch, axis: int, taps: AxisTaps) -> Batch:
        before, after = x.spatial[:axis], x.spatial[axis + 1 :]
        y = self._maps(x, x.channels, (*before, taps.output, *after))
        self._resample_axis(x, y, taps, math.prod(after))
        return y

    # ---- random numbers, losses, optimizers: settings rounded --------------------------------------------------------

    def dropout(self, x: Batch, rate: float, seed: int, step: Array, layer: int) -> Batch:
        y = self._like(x)
        factors = np.float32(rate), np.float32(1 / (1 - rate))
        self._dropout(x, y, *factors, shares.offset(), np.uint64(seed), step, layer)
        return y

    def softmax_cross_entropy(self, logits: Batch, labels: Array, totals: Array | None = None) -> tuple[Array, Batch]:
        mean, dz = self._empty((1,)), self._like(logits)
        self._softmax_cross_entropy(logits, labels, dz, np.float32(1 / shares.whole(logits)), mean, totals)
        return mean, dz

    def weighted_cross_entropy(
        self, logits: Batch, labels: Array, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        mean, dz = self._empty((1,)), self._like(logits)
        share, keep = np.float32(smoothing / logits.channels), np.float32(1 - smoothing)
        weight = self.label_weights(labels, weights, logits.images)
        self._weighted_cross_entropy(logits, labels, weights, weight, share, keep, dz, mean, totals)
        return mean, dz

    def label_weights(self, labels: Array, weights: Array, images: int) -> Array:
        total = self._empty((1,), np.float64)
        self._label_weights(labels, weights, images, total)
        return total

    def value_loss(
        self, kind: str, x: Batch, targets: Batch, delta: float = 1.0, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        mean, dx, values = self._empty((1,)), self._like(x), math.prod(x.shape[1:])
        scale = np.float32((2 if kind == "mean_squared" else 1) / (shares.whole(x) * values))
        self._value_loss(kind, x, targets, dx, values, scale, np.float32(delta), mean, totals)
        return mean, dx

    def map_cross_entropy(
        self, logits: Batch, labels: Batch, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        mean, dz = self._empty((1,)), self._like(logits)
        share, keep = np.float32(smoothing / logits.channels), np.float32(1 - smoothing)
        totals = self.zeros((4,), np.float64) if totals is None else totals
        self._map_cross_entropy(logits, labels, weights, share, keep, dz, mean, totals)
        return mean, dz

    def dice(self, p: Batch, labels: Batch, smooth: float, totals: Array | None = None) -> tuple[Array, Batch]:
        mean, dp = self._empty((1,)), self._like(p)
        totals = self.zeros((1,), np.float64) if totals is None else totals
        self._dice(p, labels, np.float64(np.float32(smooth)), dp, mean, totals)
        return mean, dp

    def sgd(
        self, w: Array, g: Array, v: Array, hyper: Array, *, momentum: float, weight_decay: float, nesterov: bool
    ) -> None:
        self._sgd(w, g, v, hyper, np.float32(momentum), np.float32(weight_decay), bool(nesterov))

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
        b1, b2, rest1, rest2, epsilon, decay = map(np.float32, (beta1, beta2, 1 - beta1, 1 - beta2, eps, weight_decay))
        self._adam(w, g, m, v, hyper, b1, b2, rest1, rest2, epsilon, decay, bool(decoupled))

    # ---- implemented by a backend's mixins: one or a few launches, which write y, dx, mean and so on ----------------

    @abstractmethod
    def _load_shifted(self, images, indices, y: Batch, shift: int, offset: int, seed: np.uint64, step) -> None: ...

    @abstractmethod
    def _load_augmented(self, images, indices, y: Batch, augmentation, offset: int, seed: np.uint64, step) -> None: ...

    @abstractmethod
    def _load_labels(self, labels, indices, y: Array, count: int) -> None: ...

    @abstractmethod
    def _forward(self, name: str, x: Batch, y: Batch, settings: tuple[np.float32, ...]) -> None: ...

    @abstractmethod
    def _gradient(self, name: str, dy: Batch, saved: Batch, dx: Batch, settings: tuple[np.float32, ...]) -> None: ...

    @abstractmethod
    def _add(self, a: Batch, b: Batch, y: Batch, relu: bool) -> None: ...

    @abstractmethod
    def _group_norm_statistics(self, x: Batch, mean: Batch, var: Batch) -> None: ...

    @abstractmethod
    def _group_norm(self, x, mean, var, gamma, beta, eps: np.float32, y: Batch, relu: bool) -> None: ...

    @abstractmethod
    def _group_norm_gradient(self, dy, x, mean, var, gamma, eps, out_gamma, out_beta, dx: Batch) -> None: ...

    @abstractmethod
    def _copy_channels(self, x: Batch, y: Batch, first_x: int, first_y: int, count: int) -> None:
        """y's channels from first_y on = x's from first_x on."""

    @abstractmethod
    def _resample_axis(self, x: Batch, y: Batch, taps: AxisTaps, after: int) -> None:
        """`after` is the number of pixels of the axes after the mapped one."""

    @abstractmethod
    def _dropout(
        self, x: Batch, y: Batch, rate, scale, offset: int, seed: np.uint64, step: Array, layer: int
    ) -> None: ...

    @abstractmethod
    def _softmax_cross_entropy(self, logits, labels, dz: Batch, scale, mean: Array, totals) -> None: ...

    @abstractmethod
    def _label_weights(self, labels: Array, weights: Array, images: int, total: Array) -> None: ...

    @abstractmethod
    def _weighted_cross_entropy(
        self, logits, labels, weights, weight: Array, share, keep, dz: Batch, mean: Array, totals
    ) -> None: ...

    @abstractmethod
    def _value_loss(self, kind: str, x, targets, dx: Batch, values: int, scale, delta, mean: Array, totals) -> None:
        """`values` is the number of values per image."""

    @abstractmethod
    def _map_cross_entropy(self, logits, labels: Batch, weights, share, keep, dz: Batch, mean, totals) -> None: ...

    @abstractmethod
    def _dice(self, p: Batch, labels: Batch, smooth: np.float64, dp: Batch, mean: Array, totals: Array) -> None: ...

    @abstractmethod
    def _sgd(self, w, g, v, hyper, momentum, weight_decay, nesterov: bool) -> None: ...

    @abstractmethod
    def _adam(self, w, g, m, v, hyper, beta1, beta2, rest1, rest2, eps, weight_decay, decoupled: bool) -> None:
        """rest = 1 - beta."""
