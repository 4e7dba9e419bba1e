"""The specification: every operation of the protocol in NumPy, exact by kernels/CONTRACT.md, for 0 to 3 spatial axes.

No Python loop runs over pixels. A dot product's loop runs over its terms k, in the contract's order, and each step is
one fused multiply-add of whole arrays (`arithmetic.chain`). Arrays are cut to about `CHUNK` values so that the
temporaries of a step stay in the processor's cache. Dense layers are convolutions without spatial axes.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.arithmetic import (
    BLOCK,
    assert_subnormals,
    chain,
    fma,
    in_bands,
    log,
    over_bands64,
    over_batch,
    products_stay_normal,
    rounded,
    sigmoid,
    tanh,
    total64,
    tree,
)
from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase, padded, place
from gpucnn.backends.numpy.group_norm import ExactGroupNorm
from gpucnn.backends.numpy.pointwise import NumpyExactPointwise, soft
from gpucnn.backends.protocol import Array
from gpucnn.geometry import Window

ZERO, ONE = np.float32(0), np.float32(1)
CHUNK = 1 << 14  # values in flight in one step of a chain: about 600 KiB with all temporaries


class NumpyExact(NumpyExactPointwise, ExactGroupNorm, NumpyBase):
    """The protocol of gpucnn.backends.protocol, to the bit. One thread, float32."""

    math = "exact"

    def __init__(self, *, threads: int = 1, dtype=np.float32):
        """RuntimeError if this process flushes subnormals. `threads` is accepted and one is used."""
        assert_subnormals()
        super().__init__(threads=1, dtype=dtype)

    # ---- convolution and dense: rule 2 -------------------------------------------------------------------------------

    def conv(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int = 1, relu: bool = False
    ) -> Batch:
        field = padded(x.data[..., 0], window)
        y = correlate(field, w, groups, window.output, window.stride, window.dilation)
        return self.batch(finished(y, bias, relu))

    def conv_input_gradient(self, dy: Batch, w: Array, window: Window, groups: int = 1) -> Batch:
        # The forward kernel, stride 1, on dy with stride - 1 zeros between its positions: dx[i] meets tap r where
        # p * stride = i + before - r * dilation. Earlier p are later r: the kernel is flipped to take p in order.
        sizes, offsets = [], []
        for i, k, d, (before, _) in zip(window.input, window.kernel, window.dilation, window.padding, strict=True):
            sizes.append(i + (k - 1) * d)
            offsets.append((k - 1) * d - before)
        field = place(dy.data[..., 0], offsets, sizes, window.stride)
        ones = (1,) * len(sizes)
        dx = correlate(field, transposed(w, groups), groups, window.input, ones, window.dilation)
        return self.batch(finished(dx, None, False))

    def dense(self, x: Batch, w: Array, bias: Array | None, relu: bool = False) -> Batch:
        return self.batch(finished(correlate(x.data[..., 0], w, 1, (), (), ()), bias, relu))

    def dense_input_gradient(self, dy: Batch, w: Array) -> Batch:
        return self.batch(finished(correlate(dy.data[..., 0], w.T, 1, (), (), ()), None, False))

    # ---- weight and bias gradients: rules 3 and 4 --------------------------------------------------------------------

    def conv_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        field = padded(x.data[..., 0], window)
        weight_gradient(dy.data[..., 0], field, groups, window, out)

    def dense_weight_gradient(self, dy: Batch, x: Batch, out: Array) -> None:
        weight_gradient(dy.data[..., 0], x.data[..., 0], 1, Window((), (), (), (), (), ()), out)

    def bias_gradient(self, dy: Batch, out: Array) -> None:
        out[...] = rounded(total64(dy.data[..., 0]))

    # ---- pooling: the rest is in base.py -----------------------------------------------------------------------------

    def global_avg_pool(self, x: Batch) -> Batch:
        sums = tree(over_bands64(x.data[..., 0], x.spatial), -1)  # (N, C)
        return self.batch(rounded(sums / math.prod(x.spatial)))

    def _fused(self, weight: Array, x: Array, acc: Array) -> Array:
        if (weight == 1).all():
            return x + acc  # the same, and soon done
        return fma(weight, x, acc)

    # ---- elementwise: rules 5 and 6 ----------------------------------------------------------------------------------

    def tanh(self, x: Batch) -> Batch:
        return x.like(tanh(x.data))

    def tanh_gradient(self, dy: Batch, y: Batch) -> Batch:
        return dy.like(dy.data * fma(-y.data, y.data, ONE))

    def sigmoid(self, x: Batch) -> Batch:
        return x.like(sigmoid(x.data))

    def sigmoid_gradient(self, dy: Batch, y: Batch) -> Batch:
        return dy.like(dy.data * (y.data * (ONE - y.data)))

    # ---- batch norm: rules 4 and 5 -----------------------------------------------------------------------------------

    def batch_norm_statistics(self, x: Batch) -> tuple[Array, Array, Array]:
        count = x.data.size // x.channels
        mean = total64(x.data[..., 0]) / count
        deviation = x.data.astype(np.float64) - along(mean, x)
        var = total64((deviation * deviation)[..., 0]) / count
        unbiased = var * count / max(count - 1, 1)
        return mean.astype(np.float32), var.astype(np.float32), unbiased.astype(np.float32)

    def batch_norm(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, relu: bool = False
    ) -> Batch:
        xhat = (x.data - along(mean, x)) * along(inverse(var, eps), x)
        y = x.like(fma(along(gamma, x), xhat, along(beta, x)))
        return self.relu(y) if relu else y

    def batch_norm_gradient(
        self, dy: Batch, x: Batch, mean: Array, var: Array, gamma: Array, eps: float, out_gamma: Array, out_beta: Array
    ) -> Batch:
        count = x.data.size // x.channels
        inv = inverse(var, eps)
        xhat = (x.data - along(mean, x)) * along(inv, x)
        dbeta = total64(dy.data[..., 0])
        dgamma = total64((dy.data.astype(np.float64) * xhat)[..., 0])
        out_beta[...], out_gamma[...] = rounded(dbeta), rounded(dgamma)
        a, b = along((dbeta / count).astype(np.float32), x), along((dgamma / count).astype(np.float32), x)
        return dy.like(along(gamma * inv, x) * fma(-xhat, b, dy.data - a))

    def batch_norm_input_gradient(self, dy: Batch, var: Array, gamma: Array, eps: float) -> Batch:
        return dy.like(dy.data * along(gamma * inverse(var, eps), dy))

    def update_running(self, running: Array, batch: Array, momentum: float) -> None:
        running[...] = fma(np.float32(momentum), batch - running, running)

    # ---- loss: rule 8 ------------------------------------------------------------------------------------------------

    def softmax(self, x: Batch) -> Batch:
        return self.batch(soft(x.data[..., 0])[0])

    def softmax_cross_entropy(self, logits: Batch, labels: Array, totals: Array | None = None) -> tuple[Array, Batch]:
        z = logits.data[..., 0]  # (N, classes)
        p, shifted, sums, first = soft(z)
        target = labels[:, 0]
        losses = log(sums) - np.take_along_axis(shifted, target[:, None], 1)[:, 0]
        total = total64(losses[:, None])[0]
        if totals is not None:
            totals += total, np.count_nonzero(first == target)
        hot = (np.arange(z.shape[1]) == target[:, None]).astype(np.float32)
        scale = np.float32(1 / len(z))
        return np.array([total / len(z)], np.float32), self.batch((p - hot) * scale)

    # ---- optimisers: rule 9 ------------------------------------------------------------------------------------------

    def sgd(
        self, w: Array, g: Array, v: Array, hyper: Array, *, momentum: float, weight_decay: float, nesterov: bool
    ) -> None:
        momentum = np.float32(momentum)
        g = fma(np.float32(weight_decay), w, g)
        v[...] = fma(momentum, v, g)
        w[...] = fma(-hyper[0], fma(momentum, v, g) if nesterov else v, w)

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
        lr, c1, c2, decay = hyper
        if decoupled:
            w[...] = fma(-decay, w, w)
        else:
            g = fma(np.float32(weight_decay), w, g)
        m[...] = fma(np.float32(beta1), m, np.float32(1 - beta1) * g)
        v[...] = fma(np.float32(beta2), v, (np.float32(1 - beta2) * g) * g)
        w[...] = fma(-lr, (m / c1) / (np.sqrt(v / c2) + np.float32(eps)), w)


# ---- the two shapes of dot product -----------------------------------------------------------------------------------


def correlate(
    field: np.ndarray,
    w: np.ndarray,
    groups: int,
    output: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> np.ndarray:
    """Rule 2 without its last line: field (N, C, *F), padding included, with w (O, C/groups, *K) to (N, O, *P)."""
    images, outs, positions = len(field), w.shape[0] // groups, math.prod(output)
    y = np.empty((images, w.shape[0], *output), np.float32)
    normal = products_stay_normal(field, w)
    # (G, k, O/G, 1): k runs over (in_channel, kernel position), row-major, and w's rows are laid out in that order.
    filters = w.reshape(groups, outs, -1).swapaxes(1, 2)[..., None].astype(np.float64)
    step = max(1, CHUNK // (positions * min(outs, 16)))  # images at a time
    for start in range(0, images, step):
        part = field[start : start + step]
        columns = unfolded(part, groups, w.shape[2:], output, stride, dilation)
        columns = columns.reshape(*columns.shape[:2], 1, -1)  # (G, k, 1, n * P)
        rows = max(1, CHUNK // columns.shape[-1])  # output channels at a time
        for group in range(groups):
            for first in range(0, outs, rows):
                last = min(first + rows, outs)
                sums = chain(filters[group, :, first:last], columns[group], normal)  # (O', n * P)
                sums = sums.reshape(last - first, len(part), *output).swapaxes(0, 1)
                y[start : start + step, group * outs + first : group * outs + last] = sums
    return y


def weight_gradient(dy: np.ndarray, field: np.ndarray, groups: int, window: Window, out: np.ndarray) -> None:
    """Rule 3: out (O, C/groups, *K) from dy (N, O, *P) and the padded images (N, C, *F)."""
    outs = out.shape[0] // groups
    normal = products_stay_normal(dy, field)
    blocks = np.empty((-(-len(dy) // BLOCK), *out.shape), np.float32)
    level_a_and_b = single_position if math.prod(window.output) == 1 else banded
    for number, block in enumerate(blocks):
        images = slice(number * BLOCK, (number + 1) * BLOCK)
        columns = unfolded(field[images], groups, window.kernel, window.output, window.stride, window.dilation)
        gradients = dy[images].reshape(-1, groups, outs, *window.output).astype(np.float64)  # (n, G, O/G, *P)
        for group, target in enumerate(block.reshape(groups, outs, -1)):  # views of the block
            level_a_and_b(gradients[:, group], columns[group], window.output, normal, target)
    out[...] = tree(blocks, 0) + ZERO


def single_position(
    dy: np.ndarray, columns: np.ndarray, output: tuple[int, ...], normal: bool, out: np.ndarray
) -> None:
    """Where there is one position: a chain over the images. dy (n, O, *1), columns (k, n, *1), out (O, k)."""
    a = dy.reshape(*dy.shape[:2], 1)
    b = np.ascontiguousarray(columns.reshape(len(columns), -1).T)[:, None]  # (n, 1, k)
    rows = max(1, CHUNK // len(columns))
    for first in range(0, len(out), rows):
        out[first : first + rows] = chain(a[:, first : first + rows], b, normal)


def banded(dy: np.ndarray, columns: np.ndarray, output: tuple[int, ...], normal: bool, out: np.ndarray) -> None:
    """A chain over the positions of each band, then the trees. dy (n, O, *P), columns (k, n, *P), out (O, k)."""
    a, b = in_bands(dy.swapaxes(0, 1), output), in_bands(columns, output)  # (position, O or k, n, band)
    images, cuts = a.shape[2:]
    a = a.reshape(len(a), -1, 1, images * cuts)
    b = b.reshape(len(b), 1, -1, images * cuts)
    across = min(len(columns), max(1, CHUNK // (images * cuts)))  # kernel positions at a time
    rows = max(1, CHUNK // (images * cuts * across))  # output channels at a time
    for left in range(0, len(columns), across):
        for first in range(0, len(out), rows):
            part = (slice(first, first + rows), slice(left, left + across))
            sums = chain(a[:, part[0]], b[:, :, part[1]], normal)
            sums = sums.reshape(*sums.shape[:2], images, cuts)
            out[part] = over_batch(np.moveaxis(sums, 2, 0))  # one block: its images, then its bands


# ---- laying out what the dot products read ---------------------------------------------------------------------------


def unfolded(
    field: np.ndarray,
    groups: int,
    kernel: tuple[int, ...],
    output: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> np.ndarray:
    """field (n, C, *F) as (G, k, n, *P) float64: what each position sees at each k = (channel, kernel position)."""
    n, channels = field.shape[:2]
    image, channel, *pixels = field.strides
    view = as_strided(
        field,
        (channels, *kernel, n, *output),
        (
            channel,
            *(step * d for step, d in zip(pixels, dilation, strict=True)),
            image,
            *(step * s for step, s in zip(pixels, stride, strict=True)),
        ),
        writeable=False,
    )
    return view.astype(np.float64, order="C").reshape(groups, -1, n, *output)


def transposed(w: np.ndarray, groups: int) -> np.ndarray:
    """(O, C/G, *K) as the input gradient reads it: (C, O/G, *K), every kernel axis flipped."""
    axes = range(2, w.ndim)
    by_group = w.reshape(groups, -1, *w.shape[1:]).swapaxes(1, 2)  # (G, C/G, O/G, *K)
    return np.flip(by_group.reshape(-1, *by_group.shape[2:]), tuple(axes))


def finished(y: np.ndarray, bias: np.ndarray | None, relu: bool) -> np.ndarray:
    """Rule 2's last line, (y + bias) + 0 or y + 0, on y (N, O, *P), and the ReLU."""
    if bias is not None:
        y = y + bias.reshape(-1, *(1,) * (y.ndim - 2))
    y = y + ZERO
    return np.where(y > 0, y, ZERO) if relu else y


# ---- small pieces ----------------------------------------------------------------------------------------------------


def along(values: np.ndarray, x: Batch) -> np.ndarray:
    """(C,) so that it broadcasts along x.data (N, C, *spatial, lane)."""
    return values.reshape(-1, *(1,) * (x.data.ndim - 2))


def inverse(var: np.ndarray, eps: float) -> np.ndarray:
    """1 / sqrt(var + eps), each step rounded to float32."""
    return ONE / np.sqrt(var + np.float32(eps))
