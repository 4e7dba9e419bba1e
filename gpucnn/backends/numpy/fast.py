"""Every operation in NumPy with BLAS, for speed or for float64: `get_backend("numpy", "fast", dtype=...)`.

Nothing here promises bits. Sums are in whatever order BLAS and NumPy like, so results are held against float64 with the
derived bound `k * 2**-24 * sum(|x||w|)`. One lane a block: `data` is (N, C, *spatial, 1), and most of the code works on
(N, C, *spatial). No loop runs over pixels; loops run over the taps of a kernel and over chunks of images. What needs no
BLAS and no library function (pooling, ReLU, dropout) is inherited from the code that both NumPy backends share.
"""

import math
from collections.abc import Iterator

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase, padded, taps
from gpucnn.backends.numpy.group_norm import FastGroupNorm
from gpucnn.backends.numpy.pointwise import NumpyFastPointwise
from gpucnn.geometry import Window

Array = np.ndarray

CHUNK = 1 << 20  # values of a convolution's unfolded images at a time: 4 MiB of float32 stay in the cache


class NumpyFast(NumpyFastPointwise, FastGroupNorm, NumpyBase):
    """The protocol of gpucnn.backends.protocol in BLAS and vectorised NumPy, float32 or float64."""

    math = "fast"

    # ---- convolution and dense --------------------------------------------------------------------------------------

    def conv(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int = 1, relu: bool = False
    ) -> Batch:
        y = np.empty((x.images, w.shape[0], *window.output), self.dtype)
        filters = w.reshape(groups, w.shape[0] // groups, -1)  # (G, O/G, C/G * K)
        for images, columns in _unfold(x.data[..., 0], window, groups):
            maps = filters @ columns  # (G, O/G, n * P)
            y[images] = maps.reshape(w.shape[0], -1, *window.output).swapaxes(0, 1)
        return self._finish(y, bias, relu)

    def conv_input_gradient(self, dy: Batch, w: Array, window: Window, groups: int = 1) -> Batch:
        channels = w.shape[1] * groups
        dx = np.empty((dy.images, channels, *window.input), self.dtype)
        filters = w.reshape(groups, w.shape[0] // groups, -1).swapaxes(1, 2)  # (G, C/G * K, O/G)
        for images in _chunks(dy.images, channels, window):
            columns = filters @ _by_channel(dy.data[images, ..., 0], groups)  # (G, C/G * K, n * P)
            columns = columns.reshape(channels, -1, images.stop - images.start, *window.output)  # (C, K, n, *P)
            products = columns.swapaxes(0, 2)  # (n, K, C, *P): each returns to the pixel that it came from
            dx[images] = self._gather(window, products[:, 0], lambda k, products=products: products[:, k]).data[..., 0]
        return self.batch(dx)

    def conv_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        total = np.zeros((groups, out.shape[0] // groups, out[0].size), self.dtype)
        for images, columns in _unfold(x.data[..., 0], window, groups):
            total += _by_channel(dy.data[images, ..., 0], groups) @ columns.swapaxes(1, 2)
        out[...] = total.reshape(out.shape)

    def bias_gradient(self, dy: Batch, out: Array) -> None:
        out[...] = dy.data.sum(_all_but_channels(dy), dtype=np.float64)

    def dense(self, x: Batch, w: Array, bias: Array | None, relu: bool = False) -> Batch:
        return self._finish(x.data[..., 0] @ w.T, bias, relu)

    def dense_input_gradient(self, dy: Batch, w: Array) -> Batch:
        return self.batch(dy.data[..., 0] @ w)

    def dense_weight_gradient(self, dy: Batch, x: Batch, out: Array) -> None:
        np.matmul(dy.data[..., 0].T, x.data[..., 0], out=out)

    def _finish(self, y: Array, bias: Array | None, relu: bool) -> Batch:
        """Bias and ReLU of a convolution's or dense layer's y (N, O, *P), in place."""
        if bias is not None:
            y += bias.reshape(-1, *(1 for _ in y.shape[2:]))
        if relu:
            np.maximum(y, 0, out=y)
        return self.batch(y)

    # ---- pooling ----------------------------------------------------------------------------------------------------

    def global_avg_pool(self, x: Batch) -> Batch:
        return self.batch(x.data.mean(tuple(range(2, x.data.ndim)), dtype=np.float64).astype(self.dtype))

    def _fused(self, weight: Array, x: Array, acc: Array) -> Array:
        return weight * x + acc

    # ---- elementwise ------------------------------------------------------------------------------------------------

    def tanh(self, x: Batch) -> Batch:
        return x.like(np.tanh(x.data))

    def tanh_gradient(self, dy: Batch, y: Batch) -> Batch:
        return dy.like(dy.data * (1 - y.data * y.data))

    def sigmoid(self, x: Batch) -> Batch:
        small = np.exp(-np.abs(x.data))  # at most 1: no overflow on either side
        return x.like(np.where(x.data >= 0, self.dtype.type(1), small) / (1 + small))

    def sigmoid_gradient(self, dy: Batch, y: Batch) -> Batch:
        return dy.like(dy.data * (y.data * (1 - y.data)))

    # ---- batch norm -------------------------------------------------------------------------------------------------

    def batch_norm_statistics(self, x: Batch) -> tuple[Array, Array, Array]:
        axes = _all_but_channels(x)
        count = x.data.size // x.channels
        mean = x.data.mean(axes, dtype=np.float64)
        deviation = x.data - _per_channel(mean, x)
        var = np.square(deviation, out=deviation).mean(axes)
        unbiased = var * count / (count - 1) if count > 1 else var  # one value has no spread: 0
        return mean.astype(self.dtype), var.astype(self.dtype), unbiased.astype(self.dtype)

    def batch_norm(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, relu: bool = False
    ) -> Batch:
        y = x.data - _per_channel(mean, x)
        y *= _per_channel(gamma * _inverse(var, eps), x)
        y += _per_channel(beta, x)
        return x.like(np.maximum(y, 0, out=y) if relu else y)

    def batch_norm_gradient(
        self, dy: Batch, x: Batch, mean: Array, var: Array, gamma: Array, eps: float, out_gamma: Array, out_beta: Array
    ) -> Batch:
        axes, inverse = _all_but_channels(x), _inverse(var, eps)
        xhat = (x.data - _per_channel(mean, x)) * _per_channel(inverse, x)
        dgamma = (dy.data * xhat).sum(axes, dtype=np.float64)
        dbeta = dy.data.sum(axes, dtype=np.float64)
        out_gamma[...], out_beta[...] = dgamma, dbeta
        count = x.data.size // x.channels
        xhat *= _per_channel((dgamma / count).astype(self.dtype), x)
        dx = dy.data - _per_channel((dbeta / count).astype(self.dtype), x)
        dx -= xhat
        dx *= _per_channel(gamma * inverse, x)
        return dy.like(dx)

    def batch_norm_input_gradient(self, dy: Batch, var: Array, gamma: Array, eps: float) -> Batch:
        return dy.like(dy.data * _per_channel(gamma * _inverse(var, eps), dy))

    def update_running(self, running: Array, batch: Array, momentum: float) -> None:
        running += (batch - running) * running.dtype.type(momentum)

    # ---- loss -------------------------------------------------------------------------------------------------------

    def softmax(self, x: Batch) -> Batch:
        powers = np.exp(x.data - x.data.max(1, keepdims=True))
        powers /= powers.sum(1, keepdims=True)
        return x.like(powers)

    def softmax_cross_entropy(self, logits: Batch, labels: Array, totals: Array | None = None) -> tuple[Array, Batch]:
        z, target, rows = logits.data[..., 0], labels[:, 0], np.arange(logits.images)
        shifted = z - z.max(1, keepdims=True)
        gradient = np.exp(shifted)
        sums = gradient.sum(1)
        losses = np.log(sums) - shifted[rows, target]
        total = losses.sum(dtype=np.float64)
        gradient /= sums[:, None]
        gradient[rows, target] -= 1
        gradient *= self.dtype.type(1 / logits.images)
        if totals is not None:
            totals += (total, np.count_nonzero(z.argmax(1) == target))
        return np.array([total / logits.images], self.dtype), self.batch(gradient)

    # ---- optimisers -------------------------------------------------------------------------------------------------

    def sgd(
        self, w: Array, g: Array, v: Array, hyper: Array, *, momentum: float, weight_decay: float, nesterov: bool
    ) -> None:
        rate = hyper[0]
        step = g + w * weight_decay if weight_decay else g
        v *= momentum
        v += step
        w -= rate * (step + v * momentum) if nesterov else rate * v

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
        rate, c1, c2, decay = hyper
        if decoupled:
            w -= decay * w
        elif weight_decay:
            g = g + w * weight_decay
        m *= beta1
        m += g * (1 - beta1)
        v *= beta2
        v += np.square(g) * (1 - beta2)
        w -= rate * (m / c1) / (np.sqrt(v / c2) + eps)


def _all_but_channels(x: Batch) -> tuple[int, ...]:
    """The axes of `data` (N, C, *spatial, lane) that sums over the batch run over."""
    return (0, *range(2, x.data.ndim))


def _per_channel(values: Array, x: Batch) -> Array:
    """(C,) so that it broadcasts along `data` (N, C, *spatial, lane)."""
    return values.reshape(-1, *(1 for _ in x.data.shape[2:]))


def _inverse(var: Array, eps: float) -> Array:
    return 1 / np.sqrt(var + var.dtype.type(eps))


def _chunks(images: int, channels: int, window: Window) -> Iterator[slice]:
    """Slices of images whose unfolded values are about CHUNK."""
    size = channels * math.prod(window.kernel + window.output)
    step = max(1, CHUNK // size)
    for start in range(0, images, step):
        yield slice(start, min(images, start + step))


def _by_channel(images: Array, groups: int) -> Array:
    """(n, C, *P) to (G, C/G, n * P), for one matrix product a group over all images."""
    return images.swapaxes(0, 1).reshape(groups, images.shape[1] // groups, -1)


def _unfold(images: Array, window: Window, groups: int) -> Iterator[tuple[slice, Array]]:
    """Chunks of images (N, C, *I), each with the pixels that each filter tap meets: (G, C/G * K, n * P)."""
    channels, kernel = images.shape[1], math.prod(window.kernel)
    for chunk in _chunks(images.shape[0], channels, window):
        field = padded(images[chunk], window).swapaxes(0, 1)  # (C, n, *F)
        columns = np.empty((channels, kernel, field.shape[1], *window.output), images.dtype)
        for k, tap in enumerate(taps(window)):
            columns[:, k] = field[tap]
        yield chunk, columns.reshape(groups, channels // groups * kernel, -1)
