"""Convolutions and dense layers: rules 2 and 3, for 0 to 3 spatial axes.

No Python loop runs over pixels. A dot product's loop runs over its terms k, in the contract's order, and each step is
one fused multiply-add of whole arrays (`arithmetic.chain`). Arrays are cut to about `CHUNK` values so that the
temporaries of a step stay in the processor's cache. Dense layers are convolutions without spatial axes.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.arithmetic import BLOCK, Doubt, chain, doubt, in_bands, over_batch, rounded, total64, tree
from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.numpy.windows import padded, place
from gpucnn.backends.protocol import Array
from gpucnn.geometry import Window

ZERO = np.float32(0)
CHUNK = 1 << 14  # values in flight in one step of a chain: about 600 KiB with all temporaries


class ExactConv(NumpyBase):
    """Part of NumpyExact; see the protocol for what each method does."""

    # ---- convolution and dense: rule 2 -------------------------------------------------------------------------------

    def conv(
        self, x: Batch, w: Array, bias: Array | None, window: Window, groups: int = 1, relu: bool = False
    ) -> Batch:
        field = padded(x.data[..., 0], window)
        y = correlate(field, w, groups, window.output, window.stride, window.dilation)
        return self.batch(finished(y, bias, relu))

    def conv_input_gradient(self, dy: Batch, w: Array, window: Window, groups: int = 1) -> Batch:
        # The forward kernel, stride 1, on dy with stride - 1 zeros between its positions: dx[i] takes tap r where
        # p * stride = i + before - r * dilation. Earlier p are later r: the kernel is flipped to take p in order.
        sizes, offsets = [], []
        for i, k, d, (before, _) in zip(window.input, window.kernel, window.dilation, window.padding, strict=True):
            sizes.append(i + (k - 1) * d)
            offsets.append((k - 1) * d - before)
        field = place(dy.data[..., 0], tuple(offsets), tuple(sizes), window.stride)
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
    rounding = doubt(field, w, w[0].size)
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
                sums = chain(filters[group, :, first:last], columns[group], rounding)  # (O', n * P)
                sums = sums.reshape(last - first, len(part), *output).swapaxes(0, 1)
                y[start : start + step, group * outs + first : group * outs + last] = sums
    return y


def weight_gradient(dy: np.ndarray, field: np.ndarray, groups: int, window: Window, out: np.ndarray) -> None:
    """Rule 3: out (O, C/groups, *K) from dy (N, O, *P) and the padded images (N, C, *F)."""
    outs = out.shape[0] // groups
    rounding = doubt(dy, field, max(math.prod(window.output), BLOCK))
    blocks = np.empty((-(-len(dy) // BLOCK), *out.shape), np.float32)
    level_a_and_b = single_position if math.prod(window.output) == 1 else banded
    for number, block in enumerate(blocks):
        images = slice(number * BLOCK, (number + 1) * BLOCK)
        columns = unfolded(field[images], groups, window.kernel, window.output, window.stride, window.dilation)
        gradients = dy[images].reshape(-1, groups, outs, *window.output).astype(np.float64)  # (n, G, O/G, *P)
        for group, target in enumerate(block.reshape(groups, outs, -1)):  # views of the block
            level_a_and_b(gradients[:, group], columns[group], window.output, rounding, target)
    out[...] = tree(blocks, 0) + ZERO


def single_position(
    dy: np.ndarray, columns: np.ndarray, output: tuple[int, ...], rounding: Doubt, out: np.ndarray
) -> None:
    """Where there is one position: a chain over the images. dy (n, O, *1), columns (k, n, *1), out (O, k)."""
    a = dy.reshape(*dy.shape[:2], 1)
    b = np.ascontiguousarray(columns.reshape(len(columns), -1).T)[:, None]  # (n, 1, k)
    rows = max(1, CHUNK // len(columns))
    for first in range(0, len(out), rows):
        out[first : first + rows] = chain(a[:, first : first + rows], b, rounding)


def banded(dy: np.ndarray, columns: np.ndarray, output: tuple[int, ...], rounding: Doubt, out: np.ndarray) -> None:
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
            sums = chain(a[:, part[0]], b[:, :, part[1]], rounding)
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
    """field (n, C, *F) as (G, k, n, *P) float64: what each position reads at each k = (channel, kernel position)."""
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
