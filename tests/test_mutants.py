"""Each guarantee of the contract, broken once on purpose, must be noticed by the comparison of `gpucnn check`.

A mutant is the real backend with one line of source changed (mutants.py). The same comparison on the same numbers must
pass for the unchanged backend.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

import gpucnn.check
from gpucnn.backends import get_backend
from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.numba.backend import NumbaBackend
from gpucnn.backends.numpy.exact import NumpyExact
from gpucnn.check.cases import Case
from gpucnn.geometry import window
from tests.backends.guarded import guarded, numbers
from tests.mutants import mutant

# ---- what is compared: one operation each, so that few kernels are compiled ------------------------------------------


def forward(b, kind="random"):
    x, w = b.pack(numbers(kind, 3, 3, 5, 4)), b.array(numbers(kind, 2, 3, 3, 2, seed=1))
    return {"y": b.conv(x, w, None, window((5, 4), (3, 2))).numpy()}


def subnormal(b):
    return forward(b, "subnormal")


def vanishing(b):
    """Products that vanish below zero, and a bias of -0."""
    x, w = b.pack(np.full((1, 1), -(2.0**-100), np.float32)), b.array(np.full((1, 1), 2.0**-100, np.float32))
    return {"y": b.dense(x, w, b.array(np.full(1, -0.0, np.float32))).numpy()}


def rows(b):
    """A convolution that numba does by whole kernel rows."""
    x, w = b.pack(numbers("random", 3, 2, 4, 8)), b.array(numbers("random", 4, 2, 3, 3, seed=1))
    return {"y": b.conv(x, w, None, window((4, 8), 3, padding=1)).numpy()}


def vanishing_rows(b):
    """Products that vanish below zero, and a bias of -0."""
    x, w = (
        b.pack(np.full((1, 1, 4, 8), -(2.0**-100), np.float32)),
        b.array(np.full((4, 1, 3, 3), 2.0**-100, np.float32)),
    )
    return {"y": b.conv(x, w, b.array(np.full(4, -0.0, np.float32)), window((4, 8), 3, padding=1)).numpy()}


def row_weights(b):
    x, dy = b.pack(numbers("random", 19, 2, 12, 8)), b.pack(numbers("random", 19, 4, 12, 8, seed=1))
    dw = b.zeros((4, 2, 3, 3))
    b.conv_weight_gradient(dy, x, window((12, 8), 3, padding=1), 1, dw)
    return {"dw": b.host(dw)}


def few_images(b):
    """Two output channels to a vector, on numba."""
    x, dy = b.pack(numbers("random", 7, 2, 12, 8)), b.pack(numbers("random", 7, 4, 12, 8, seed=1))
    win, dw, w = window((12, 8), 3, padding=1), b.zeros((4, 2, 3, 3)), b.array(numbers("random", 4, 2, 3, 3, seed=2))
    b.conv_weight_gradient(dy, x, win, 1, dw)
    return {"y": b.conv(x, w, None, win).numpy(), "dw": b.host(dw)}


def few_volumes(b):
    """The same in kernels that do not work by whole rows."""
    x, dy = b.pack(numbers("random", 7, 2, 3, 4, 5)), b.pack(numbers("random", 7, 4, 3, 4, 5, seed=1))
    win, dw, w = window((3, 4, 5), 3, padding=1), b.zeros((4, 2, 3, 3, 3)), numbers("random", 4, 2, 3, 3, 3, seed=2)
    b.conv_weight_gradient(dy, x, win, 1, dw)
    return {"y": b.conv(x, b.array(w), None, win).numpy(), "dw": b.host(dw)}


def shared_blocks(b):
    """More channels and bands than threads, and a block more, on numba."""
    x, dy = b.pack(numbers("random", 40, 2, 32, 32)), b.pack(numbers("random", 40, 32, 32, 32, seed=1))
    win, dw = window((32, 32), 3, padding=1), b.zeros((32, 2, 3, 3))
    b.conv_weight_gradient(dy, x, win, 1, dw)
    return {"y": b.conv(x, b.array(numbers("random", 32, 2, 3, 3, seed=2)), None, win).numpy(), "dw": b.host(dw)}


def strided_rows(b):
    """The weight gradient under a stride, and something added to the input gradient."""
    x, win = b.pack(numbers("random", 19, 5, 8, 8)), window((8, 8), 3, padding=1)
    halved, dw = window((8, 8), 3, stride=2, padding=1), b.zeros((4, 5, 3, 3))
    dy, small = (b.pack(numbers("random", 19, 4, size, size, seed=size)) for size in (8, 4))
    b.conv_weight_gradient(small, x, halved, 1, dw)
    dx = b.conv_input_gradient_add(dy, b.array(numbers("random", 4, 5, 3, 3, seed=1)), win, 1, x)
    return {"dw": b.host(dw), "dx + x": dx.numpy()}


def strided_pixels(b):
    """Blocks of one-pixel images, in groups, under a stride."""
    x, win = b.pack(numbers("random", 33, 4, 1, 1)), window((1, 1), 1, stride=2)
    return {"y": b.conv(x, b.array(numbers("random", 4, 2, 1, 1, seed=1)), None, win, 2).numpy()}


def depthwise(b):
    x, dy = b.pack(numbers("random", 19, 2, 12, 8)), b.pack(numbers("random", 19, 2, 12, 8, seed=1))
    dw = b.zeros((2, 1, 3, 3))
    b.conv_weight_gradient(dy, x, window((12, 8), 3, padding=1), 2, dw)
    return {"dw": b.host(dw)}


def depthwise_input(b):
    dy, win = b.pack(numbers("random", 19, 2, 6, 4)), window((12, 8), 3, padding=1, stride=2)
    return {"dx": b.conv_input_gradient(dy, b.array(numbers("random", 2, 1, 3, 3, seed=1)), win, 2).numpy()}


def line(b):
    x, dy = b.pack(numbers("random", 19, 2, 150)), b.pack(numbers("random", 19, 4, 150, seed=1))
    dw = b.zeros((4, 2, 3))
    b.conv_weight_gradient(dy, x, window((150,), 3, padding=1), 1, dw)
    return {"dw": b.host(dw)}


def strided_line(b):
    """A kernel wider than any tile, of uneven phases."""
    win = window((300,), 11, stride=2, padding=5)
    x, dy = b.pack(numbers("random", 19, 2, 300)), b.pack(numbers("random", 19, 4, *win.output, seed=1))
    dw = b.zeros((4, 2, 11))
    b.conv_weight_gradient(dy, x, win, 1, dw)
    return {"dw": b.host(dw)}


def pooled_biases(b):
    pool, shape = window((14, 10), 2, stride=2), (19, 2, 7, 5)
    y, where = b.max_pool(b.pack(numbers("random", 19, 2, 14, 10)), pool)
    db = b.zeros((2,))
    b.conv_max_pool_gradient(b.pack(numbers("annihilating", *shape, seed=1)), y, where, pool, db)
    return {"db": b.host(db)}


def weights(b):
    x, dy = b.pack(numbers("random", 19, 1, 11, 11)), b.pack(numbers("random", 19, 2, 11, 10, seed=1))
    dw = b.zeros((2, 1, 1, 2))
    b.conv_weight_gradient(dy, x, window((11, 11), (1, 2)), 1, dw)
    return {"dw": b.host(dw)}


def single_position(b):
    x, dy = b.pack(numbers("random", 35, 2, 2, 2)), b.pack(numbers("random", 35, 3, 1, 1, seed=1))
    dw = b.zeros((3, 2, 2, 2))
    b.conv_weight_gradient(dy, x, window((2, 2), 2), 1, dw)
    return {"dw": b.host(dw)}


def biases(b):
    db = b.zeros((3,))
    b.bias_gradient(b.pack(numbers("annihilating", 35, 3, 11, 10)), db)
    return {"db": b.host(db)}


def normalized(b):
    arrays = [b.array(numbers("random", 40, seed=seed)) for seed in (1, 2, 3)]
    mean, gamma, beta = arrays
    var = b.array(np.abs(numbers("random", 40, seed=4)))
    return {"y": b.batch_norm(b.pack(numbers("random", 3, 40)), mean, var, gamma, beta, 1e-5).numpy()}


def normalized_rows(b):
    """Batch norm and ReLU that numba computes as a convolution reads its rows, gamma being changed before."""
    x, win = b.pack(numbers("random", 19, 3, 4, 8)), window((4, 8), 3, padding=1)
    gamma, beta, running = (b.array(numbers("random", 3, seed=seed)) for seed in (1, 2, 3))
    y, _, _ = b.batch_norm_training(x, running, b.zeros((3,)), 0.1, gamma, beta, 1e-5, None, True)
    b.assign(gamma, np.zeros(3, np.float32))
    return {"y": b.conv(y, b.array(numbers("random", 4, 3, 3, 3, seed=4)), None, win).numpy()}


def added(b):
    x, other, dy = (b.pack(numbers("random", 3, 4, 5, 6, seed=seed)) for seed in (1, 2, 3))
    mean, var, gamma, beta, dgamma, dbeta = (b.array(np.full(4, v, np.float32)) for v in (0.1, 0.9, 1.5, 0.2, 0, 0))
    y = b.batch_norm_add(x, mean, var, gamma, beta, 1e-5, other, relu=True)
    dx, dother = b.batch_norm_add_gradient(dy, y, x, mean, var, gamma, 1e-5, dgamma, dbeta)
    return {"y": y.numpy(), "dx": dx.numpy(), "dother": dother.numpy(), "dgamma": b.host(dgamma)}


def maxima(b):
    win = window((5, 6), 3, padding=1)
    y, where = b.max_pool(b.pack(numbers("cancelling", 3, 2, 5, 6)), win)
    dy = b.pack(numbers("random", *y.shape, seed=1))
    return {"y": y.numpy(), "dx": b.max_pool_gradient(dy, where, win).numpy()}


def losses(b):
    z = b.pack(numbers("random", 200, 10) * np.float32(5))
    totals = b.zeros((2,), np.float64)
    loss, dz = b.softmax_cross_entropy(z, b.pack_labels(np.arange(200) % 10), totals)
    return {"loss": b.host(loss), "dz": dz.numpy(), "totals": b.host(totals)}


def dropped(b):
    return {"y": b.dropout(b.pack(numbers("random", 3, 40)), 0.5, 7, b.array(np.array([5], np.uint32)), 1).numpy()}


def augmented(b):
    augmentation = Augmentation(1, (5, 6), True, 3, (0.5,), (0.3,))
    step, indices = b.array(np.array([5], np.uint32)), b.array(np.arange(19))
    images = b.array(numbers("random", 19, 1, 7, 7))
    return {
        "drawn": b.load_images(images, indices, 19, augmentation, seed=3, step=step).numpy(),
        "still": b.load_images(images, indices, 19, augmentation).numpy(),
        "whole": b.load_images(images, indices, 19, Augmentation(mean=(0.5,), std=(0.3,))).numpy(),
    }


def activations(b):
    x, dy = b.pack(numbers("random", 3, 400) * np.float32(6)), b.pack(numbers("random", 3, 400, seed=1))
    values = {name: b.elementwise(name, x).numpy() for name in ("gelu", "silu")}
    slopes = {f"{name} slope": b.elementwise_gradient(name, dy, x).numpy() for name in ("gelu", "silu")}
    y = b.softmax(b.pack(numbers("random", 40, 9)))
    d = b.softmax_gradient(b.pack(numbers("random", 40, 9, seed=1)), y).numpy()
    zero = b.pack(np.array([[-0.0, -1e-45, 1]], np.float32))  # a slope times these is -0
    leaky = b.elementwise("leaky_relu", zero, 0.01).numpy()
    return {**values, **slopes, "softmax": d, "leaky": leaky}


def weighted(b):
    """200 images: each block's weights matter, and its lanes without an image."""
    z, totals = b.pack(numbers("random", 200, 50) * np.float32(5)), b.zeros((3,), np.float64)
    weights = b.array(np.abs(numbers("random", 50, seed=1)) + np.float32(0.1))
    loss, dz = b.weighted_cross_entropy(z, b.pack_labels(np.arange(200) % 47), weights, 0.3, totals)
    return {"loss": b.host(loss), "dz": dz.numpy(), "totals": b.host(totals)}


def regressions(b):
    results = {}
    for kind in ("mean_squared", "mean_absolute", "huber", "binary_cross_entropy"):
        x, t = numbers("annihilating", 35, 1, 130), np.abs(numbers("random", 35, 1, 130, seed=1)) % np.float32(1)
        total = b.zeros((1,), np.float64)
        _, dx = b.value_loss(kind, b.pack(x), b.pack(t), 0.5, total)
        results |= {kind: b.host(total), f"{kind} dx": dx.numpy()}
    return results


def clipped(b):
    """The order of the norm's sum cannot show: it changes a float64's last bits, and a factor is rounded to float32."""
    results = {}
    for size in range(1500, 1520):
        g = b.array(numbers("random", size))
        b.clip_norm(g, 1.0)
        results[f"norm of {size}"] = b.host(g)
    tight = b.array(numbers("random", 40))
    b.clip_value(tight, 0.5)
    return {**results, "value": b.host(tight)}


# ---- the changes -----------------------------------------------------------------------------------------------------


@dataclass
class Change:
    """`old` in `file` read as `new`, in the package of `backend`; `compare` is where it must show."""

    guarantee: str
    backend: str
    file: str
    old: str
    new: str
    compare: object

    def __str__(self):
        return f"{self.backend}: {self.guarantee}"


FMA, SUMS, EXACT = "gpucnn/arithmetic/fma.py", "gpucnn/arithmetic/sums.py", "gpucnn/backends/numpy/exact/conv.py"
NUMBA, LOADING = "kernels/numba/", "gpucnn/backends/numpy/images.py"

# The C library's own exp is no mutant to rely on: some are rounded correctly, and give the contract's bits.
CHANGES = [
    Change(
        "k reversed",
        "numpy",
        FMA,
        "zip(a, b, strict=True)",
        "zip(a[::-1], b[::-1], strict=True)",
        forward,
    ),
    Change(
        "k reversed",
        "numba",
        NUMBA + "conv.py",
        "                    for c in range(CG):",
        "                    for c in range(CG - 1, -1, -1):",
        forward,
    ),
    Change(
        "k reversed",
        "numba",
        NUMBA + "register_tiles.py",
        "for t in range(taps):\n                        # More pixels",
        "for t in reversed(range(taps)):\n                        # More pixels",
        rows,
    ),
    Change(
        "positions reversed",
        "numba",
        NUMBA + "gradient_rows.py",
        "for h in range(start, stop):",
        "for h in range(stop - 1, start - 1, -1):",
        row_weights,
    ),
    Change(
        "the channels of a pair exchanged",
        "numba",
        NUMBA + "simd.py",
        "first_of_pairs, second_of_pairs = ",
        "second_of_pairs, first_of_pairs = ",
        few_images,
    ),
    Change(
        "the channels of a pair exchanged in a weight gradient",
        "numba",
        NUMBA + "register_tiles.py",
        "[lane // 2 + second * (lane % 2) for lane in range(LANES)]",
        "[lane // 2 + second * ((lane + 1) % 2) for lane in range(LANES)]",
        few_volumes,
    ),
    Change(
        "images of pairs of channels added in another order",
        "numba",
        NUMBA + "simd.py",
        "return _tree(builder, vectors, _PAIR_ROUNDS)",
        "turned = ir.Constant(ir.VectorType(_i32, LANES), [*range(2, LANES), 0, 1])\n"
        "    return _tree(builder, [builder.shuffle_vector(v, v, turned) for v in vectors], _PAIR_ROUNDS)",
        few_images,
    ),
    Change(
        "bands summed in parts that are no node of their tree",
        "numba",
        "gpucnn/backends/numba/tiles.py",
        "return bands if parts <= 1 else 1 << max(0, (bands // parts).bit_length() - 1)",
        "return -(-bands // parts)",
        shared_blocks,
    ),
    Change(
        "input rows of another block left in the strip of a weight gradient",
        "numba",
        NUMBA + "gradient_rows.py",
        "if held != source or not low <= upper <= high:",
        "if held < 0 or upper > high:",
        shared_blocks,
    ),
    Change(
        "the last tile of a phase takes the taps of the one before",
        "numba",
        "gpucnn/backends/numba/tiles.py",
        "firsts = (min(first, count - taps) for first in range(0, count, taps))",
        "firsts = (min(first, count - taps) // taps * taps for first in range(0, count, taps))",
        strided_line,
    ),
    Change(
        "a row above the image read under a stride",
        "numba",
        NUMBA + "gradient_rows.py",
        "start = max(top, -(shift // row_stride))",
        "start = max(top, -shift // row_stride)",
        strided_rows,
    ),
    Change(
        "what is added to an input gradient forgotten",
        "numba",
        NUMBA + "conv.py",
        "store(y, place, add(v, load(other, place)) if adds else v)",
        "store(y, place, v)",
        strided_rows,
    ),
    Change(
        "an image of another block left in the strip of a convolution",
        "numba",
        NUMBA + "conv_rows.py",
        "if held != rest * parts + part:",
        "if held < 0:",
        shared_blocks,
    ),
    Change(
        "a stride between blocks",
        "numba",
        "gpucnn/backends/numba/correlation.py",
        "y.transpose(4, 1, 2, 3, 0, 5), (1, 1, 1)",
        "y.transpose(4, 1, 2, 3, 0, 5), stride",
        strided_pixels,
    ),
    Change(
        "a padded image left unmasked among pairs of channels",
        "numba",
        NUMBA + "gradient_rows.py",
        "lanes = PAIR * min(LANES // PAIR, images - b * LANES)",
        "lanes = LANES",
        few_images,
    ),
    Change(
        "a padded image left unmasked in a depthwise gradient",
        "numba",
        NUMBA + "gradient_maps.py",
        "masked(acc, min(LANES, images - b * LANES))",
        "masked(acc, LANES)",
        depthwise,
    ),
    Change(
        "bands of a line too long",
        "numba",
        "gpucnn/backends/numba/conv.py",
        "from gpucnn.arithmetic.sums import BAND\n",
        "from gpucnn.arithmetic import sums as orders\n\nBAND = 2 * orders.BAND\n",
        line,
    ),
    Change(
        "a bias gradient of pooled maps summed pixel by pixel of the windows",
        "numba",
        NUMBA + "pool.py",
        "complete = at + (d + 1) * KD * x_d if KD > 1 else xi + KH * x_h",
        "complete = at + (d + 1) * KD * x_d if KD > 1 else xi + x_h",
        pooled_biases,
    ),
    Change(
        "a padded image left unmasked in a weight gradient",
        "numba",
        NUMBA + "gradient_rows.py",
        "acc if lanes == LANES else masked(acc, lanes)",
        "acc",
        row_weights,
    ),
    Change(
        "no + 0 at the end",
        "numba",
        NUMBA + "vectors.py",
        "finished(add(add(acc, bias), splat(ZERO)), relu)",
        "finished(add(acc, bias), relu)",
        vanishing_rows,
    ),
    Change(
        "multiply, then add",
        "numpy",
        FMA,
        "np.multiply(a_k, b_k, out=product)",
        "product[...] = np.multiply(a_k, b_k).astype(np.float32)",
        forward,
    ),
    Change(
        "multiply, then add",
        "numba",
        NUMBA + "register_tiles.py",
        "builder.call(fma_of, [xj, weight, values[i * pixels + j]])",
        "builder.fadd(builder.fmul(xj, weight), values[i * pixels + j])",
        forward,
    ),
    Change(
        "subnormals flushed to zero",
        "numpy",
        FMA,
        "np.copyto(accumulator, rounded)",
        "rounded[np.abs(rounded) < 2.0**-126] = 0\n            np.copyto(accumulator, rounded)",
        subnormal,
    ),
    Change(
        "subnormals flushed to zero",
        "numba",
        NUMBA + "vectors.py",
        "    return finished(add(add(acc, bias), splat(ZERO)), relu)",
        "    v, zero, least = add(add(acc, bias), splat(ZERO)), splat(ZERO), splat(np.float32(2.0**-126))\n"
        "    return finished(where_greater(add(v, least), zero, where_greater(least, v, zero, v), v), relu)",
        subnormal,
    ),
    Change(
        "a padded image left unmasked in a weight gradient",
        "numba",
        NUMBA + "conv.py",
        "acc if lanes == LANES else masked(acc, lanes)",
        "acc",
        weights,
    ),
    Change(
        "a padded image left unmasked in a statistic",
        "numba",
        NUMBA + "norm.py",
        "return min(LANES, images - block * LANES)",
        "return LANES",
        biases,
    ),
    Change(
        "a padded image left unmasked in the loss",
        "numba",
        NUMBA + "loss.py",
        "lanes = min(LANES, images - b * LANES)",
        "lanes = LANES",
        losses,
    ),
    Change(
        "the tree shifted by one",
        "numpy",
        SUMS,
        "pairs = x[:-1:2] + x[1::2]",
        "x = np.roll(x, 1, 0)\n        pairs = x[:-1:2] + x[1::2]",
        weights,
    ),
    Change(
        "the tree shifted by one",
        "numba",
        NUMBA + "simd.py",
        "return _tree(builder, vectors, _LANE_ROUNDS)",
        "turned = ir.Constant(ir.VectorType(_i32, LANES), [*range(1, LANES), 0])\n"
        "    return _tree(builder, [builder.shuffle_vector(v, v, turned) for v in vectors], _LANE_ROUNDS)",
        weights,
    ),
    Change(
        "the float64 tree shifted by one",
        "numba",
        NUMBA + "simd.py",
        "list(range(k, 2 * width, 2))",
        "[(x + 1) % (2 * width) for x in range(k, 2 * width, 2)]",
        biases,
    ),
    Change(
        "a band one row too long",
        "numpy",
        SUMS,
        "-(-BAND // sizes[-1]) * sizes[-1]",
        "(-(-BAND // sizes[-1]) + 1) * sizes[-1]",
        weights,
    ),
    Change(
        "a band one row too long",
        "numba",
        "gpucnn/backends/spatial.py",
        "return -(-BAND // row)",
        "return -(-BAND // row) + 1",
        weights,
    ),
    Change(
        "no + 0 at the end",
        "numpy",
        EXACT,
        "    y = y + ZERO\n",
        "",
        vanishing,
    ),
    Change(
        "no + 0 at the end",
        "numba",
        NUMBA + "vectors.py",
        "finished(add(add(acc, bias), splat(ZERO)), relu)",
        "finished(add(acc, bias), relu)",
        vanishing,
    ),
    Change(
        "the last maximum instead of the first",
        "numpy",
        "gpucnn/backends/numpy/pool.py",
        "(field[tap] > y)",
        "(field[tap] >= y)",
        maxima,
    ),
    Change(
        "the last maximum instead of the first",
        "numba",
        NUMBA + "vectors.py",
        "where_greater(v, best, splat(np.float32(number)), tap)",
        "where_greater(best, v, tap, splat(np.float32(number)))",
        maxima,
    ),
    Change(
        "a single position's gradient by the tree over images",
        "numpy",
        EXACT,
        "single_position if math.prod(window.output) == 1 else banded",
        "banded",
        single_position,
    ),
    Change(
        "a single position's gradient by the tree over images",
        "numba",
        "gpucnn/backends/numba/conv.py",
        "if math.prod(window.output) == 1:",
        "if math.prod(window.output) == 0:",
        single_position,
    ),
    Change(
        "statistics in float32",
        "numpy",
        SUMS,
        "total = np.zeros(steps.shape[1:])",
        "total = np.zeros(steps.shape[1:], np.float32)",
        biases,
    ),
    Change(
        "statistics in float32",
        "numba",
        NUMBA + "norm.py",
        "acc = add64(acc, widen(load(values, i)))",
        "acc = widen(narrow(add64(acc, widen(load(values, i)))))",
        biases,
    ),
    Change(
        "a reciprocal square root that is rounded once",
        "numpy",
        "gpucnn/backends/numpy/norm.py",
        "return one / np.sqrt(var + var.dtype.type(eps))",
        "return (1 / np.sqrt((var + np.float32(eps)).astype(np.float64))).astype(np.float32)",
        normalized,
    ),
    Change(
        "a reciprocal square root that is rounded once",
        "numba",
        NUMBA + "norm.py",
        "return ONE / np.float32(math.sqrt(var + eps))",
        "return np.float32(1.0 / math.sqrt(np.float64(var + eps)))",
        normalized,
    ),
    Change(
        "taps of a depthwise input gradient in the order of the filter",
        "numba",
        NUMBA + "gradient_maps.py",
        "r, s = i + SH * (A - 1 - j), k + SW * (E - 1 - e)",
        "r, s = i + SH * j, k + SW * e",
        depthwise_input,
    ),
    Change(
        "another channel's batch norm as rows are copied",
        "numba",
        NUMBA + "conv_rows.py",
        "+ w, known, channel + c, norm)",
        "+ w, known, min(c + 1, 2), norm)",
        normalized_rows,
    ),
    Change(
        "a sum's gradient that forgets its ReLU",
        "numba",
        NUMBA + "norm.py",
        "gradients = dsum[b, c] if after == RELU_OF_SUM else dy[b, c]",
        "gradients = dy[b, c]",
        added,
    ),
    Change(
        "exp from a library, as 2 ** (x log2(e)) in float32",
        "numpy",
        "gpucnn/arithmetic/elementary.py",
        "return _to_float32(exp64, x)",
        "return np.exp2(x * np.float32(LOG2E))",
        losses,
    ),
    Change(
        "exp from a library, as 2 ** (x log2(e)) in float32",
        "numba",
        NUMBA + "loss.py",
        "v = exp(subtract(load(z[c], 0), largest))",
        "store(e[c], 0, subtract(load(z[c], 0), largest))\n"
        "        for lane in range(LANES):\n"
        "            e[c, lane] = np.exp2(e[c, lane] * np.float32(1.442695))\n"
        "        v = load(e[c], 0)",
        losses,
    ),
    Change(
        "the last value of an image left out",
        "numba",
        NUMBA + "images.py",
        "store(y, at + j * LANES, load(rows, j * LANES))",
        "store(y, at + j * LANES, load(rows, (j + 1) * LANES))",
        augmented,
    ),
    *(
        Change(guarantee, backend, file, old, new, augmented)
        for guarantee, *places in (
            (
                "a crop that may not reach over the border",
                (LOADING, "(room + 2 * shift + 1)", "(room + shift + 1)"),
                (NUMBA + "augmentation.py", "(room + 2 * shift + 1)", "(room + shift + 1)"),
            ),
            (
                "a crop from the front in evaluation",
                (LOADING, "np.tile(room // 2, (count, 1))", "np.tile(0 * room, (count, 1))"),
                (NUMBA + "augmentation.py", "origin, first, end = room // 2, 0, 0", "origin, first, end = 0, 0, 0"),
            ),
            (
                "no flip",
                (LOADING, "draw(FLIP, 1)[:, 0] >> 23 == 1", "draw(FLIP, 1)[:, 0] >> 23 == 2"),
                (NUMBA + "augmentation.py", "if plan[i, 3] == 1:", "if plan[i, 3] == 2:"),
            ),
            (
                "a cutout one pixel off",
                (LOADING, "- augmentation.cutout // 2", "- (augmentation.cutout - 1) // 2 - 1"),
                (NUMBA + "augmentation.py", "plan[i, 5] <= h < plan[i, 8]", "plan[i, 5] < h <= plan[i, 8]"),
            ),
            (
                "a cutout that is normalized",
                (LOADING, "values, images.dtype.type(0))", "values, -mean[:1, :1] * scale[:1, :1])"),
                (
                    NUMBA + "augmentation.py",
                    "put(rows, row + w, np.float32(0))",
                    "put(rows, row + w, -mean[c] * scale[c])",
                ),
            ),
            (
                "a normalization that divides",
                (LOADING, "(values - mean) * scale", "(values - mean) / np.float32(0.3)"),
                (NUMBA + "augmentation.py", "- mean) * scale)", "- mean) / np.float32(0.3))"),
            ),
            (
                "one draw for all images",
                (LOADING, "values, dtype=np.uint64)", "values, dtype=np.uint64) % values"),
                (NUMBA + "augmentation.py", "word(seed, index,", "word(seed, index % 2,"),
            ),
        )
        for backend, (file, old, new) in zip(("numpy", "numba"), places)
    ),
    Change(
        "Philox one round short",
        "numpy",
        "gpucnn/arithmetic/philox.py",
        "ROUNDS = 10",
        "ROUNDS = 9",
        dropped,
    ),
    Change(
        "Philox one round short",
        "numba",
        NUMBA + "random.py",
        "range(10)",
        "range(9)",
        dropped,
    ),
    Change(
        "a coefficient of the normal distribution off by a millionth",
        "numpy",
        "gpucnn/arithmetic/elementary.py",
        "0x1.61bc5dcad9e2ap-1",
        "0x1.61bc6dcad9e2ap-1",
        activations,
    ),
    Change(
        "a coefficient of the normal distribution off by a millionth",
        "numba",
        NUMBA + "elementary32.py",
        "0x1.f27504d455dccp+0",
        "0x1.f27514d455dccp+0",
        activations,
    ),
    Change(
        "GELU by way of 1 - cdf in the negative tail",
        "numpy",
        "gpucnn/arithmetic/elementary.py",
        "np.where(x < 0, tail, 1.0 - tail)",
        "np.where(x < 0, 1.0 - (1.0 - tail), 1.0 - tail)",
        activations,
    ),
    Change(
        "GELU by way of 1 - cdf in the negative tail",
        "numba",
        NUMBA + "elementary32.py",
        "return a, e, divide64(multiply64(e, _normal_p(a)), _normal_q(a))",
        "one, tail = splat64(1.0), divide64(multiply64(e, _normal_p(a)), _normal_q(a))\n"
        "    return a, e, subtract64(one, subtract64(one, tail))",
        activations,
    ),
    Change(
        "SiLU rounded twice",
        "numpy",
        "gpucnn/arithmetic/elementary.py",
        "return _to_float32(silu64, x)",
        "return x * _to_float32(sigmoid64, x)",
        activations,
    ),
    Change(
        "no + 0 in leaky ReLU",
        "numpy",
        "gpucnn/backends/numpy/exact/elementwise.py",
        "slope * x + ZERO",
        "slope * x",
        activations,
    ),
    Change(
        "no + 0 in leaky ReLU",
        "numba",
        NUMBA + "elementwise.py",
        "add(multiply(splat(slope), x), splat(ZERO))",
        "multiply(splat(slope), x)",
        activations,
    ),
    Change(
        "softmax's gradient sums from the last class",
        "numpy",
        "gpucnn/backends/numpy/exact/loss.py",
        "for c in range(dy.channels):",
        "for c in reversed(range(dy.channels)):",
        activations,
    ),
    Change(
        "softmax's gradient sums from the last class",
        "numba",
        NUMBA + "loss.py",
        "for c in range(y.shape[1]):\n                total",
        "for c in range(y.shape[1] - 1, -1, -1):\n                total",
        activations,
    ),
    Change(
        "the label's weight from another image's place",
        "numba",
        NUMBA + "loss.py",
        "tree64(widen(own), min(LANES, images - b * LANES))",
        "tree64(widen(own), LANES - 1)",
        weighted,
    ),
    Change(
        "smoothing spread by a separate multiplication and addition",
        "numba",
        NUMBA + "loss.py",
        "fma(splat(keep), w, asked)",
        "add(multiply(splat(keep), w), asked)",
        weighted,
    ),
    Change(
        "a padded image left unmasked in a weighted loss",
        "numba",
        NUMBA + "loss.py",
        "part[0, b] = tree64(widen(each), lanes)",
        "part[0, b] = tree64(widen(each), LANES)",
        weighted,
    ),
    Change(
        "the mean over the images instead of their weights",
        "numpy",
        "gpucnn/backends/numpy/exact/loss.py",
        "[total / weight], np.float32",
        "[total / len(z)], np.float32",
        weighted,
    ),
    Change(
        "a line's band one value too long",
        "numba",
        NUMBA + "value_loss.py",
        "from gpucnn.kernels.contract import BAND",
        "BAND = 65",
        regressions,
    ),
    Change(
        "a padded image left unmasked in a loss of values",
        "numba",
        NUMBA + "value_loss.py",
        "tree64(acc, lanes)",
        "tree64(acc, LANES)",
        regressions,
    ),
    Change(
        "a loss of values summed in float32",
        "numpy",
        "gpucnn/backends/numpy/exact/loss.py",
        "total64(terms.reshape(",
        "total64(terms.astype(np.float32).reshape(",
        regressions,
    ),
    Change(
        "a norm that sees half of each block",
        "numba",
        NUMBA + "clip.py",
        "SQUARES = BAND * LANES",
        "SQUARES = BAND // 2 * LANES",
        clipped,
    ),
    Change(
        "a norm that leaves out the last values",
        "numba",
        NUMBA + "clip.py",
        "if whole < last:",
        "if whole > last:",
        clipped,
    ),
    Change(
        "clipping that divides by the rounded norm",
        "numpy",
        "gpucnn/backends/numpy/exact/optimizers.py",
        "np.float32(limit / norm)",
        "np.float32(limit) / np.float32(norm)",
        clipped,
    ),
    Change(
        "clipping by value on one side only",
        "numba",
        NUMBA + "clip.py",
        "-limit if v < -limit else limit if v > limit else v",
        "limit if v > limit else v",
        clipped,
    ),
]


def compared(monkeypatch, suspect, compare) -> dict:
    """The report of `gpucnn check` on a backend for one comparison, without training."""
    monkeypatch.setattr(gpucnn.check, "all_cases", lambda: iter([Case(compare.__name__, "a test", compare)]))
    monkeypatch.setattr(gpucnn.check, "NETWORKS", ())
    monkeypatch.setattr(gpucnn.check, "maths", lambda name: ["exact"])

    def choose(name, math=None, **settings):
        return suspect if name == "suspect" else get_backend(name, math, **settings)

    monkeypatch.setattr(gpucnn.check, "get_backend", choose)
    # Its general kernels would be compiled too, and say nothing more about an error in these.
    monkeypatch.setattr(type(suspect), "general", lambda backend: None)
    return gpucnn.check.check(["suspect"])


# The same errors in another kernel: the comparison is the same too.
ELSEWHERE = {
    "the channels of a pair exchanged in a weight gradient",
    "input rows of another block left in the strip of a weight gradient",
    "a row above the image read under a stride",
    "a padded image left unmasked among pairs of channels",
    "a padded image left unmasked in a depthwise gradient",
    "a padded image left unmasked in a weighted loss",
    "a padded image left unmasked in a loss of values",
    "a line's band one value too long",
    "a norm that leaves out the last values",
    "positions reversed",
    "images of pairs of channels added in another order",
    "what is added to an input gradient forgotten",
    "a padded image left unmasked in a statistic",
    "smoothing spread by a separate multiplication and addition",
    "the label's weight from another image's place",
    "a norm that sees half of each block",
}


def marked(changes: Iterable[Change]) -> Iterator:
    """Long where another shows that the comparison notices such an error: numba compiles for seconds."""
    noticed = {(change.guarantee, change.compare) for change in changes if change.backend == "numpy"}
    for change in changes:
        error, numba = (change.guarantee, change.compare), change.backend == "numba"
        again = numba and (error in noticed or change.guarantee in ELSEWHERE)
        noticed.add(error)
        yield pytest.param(change, id=str(change), marks=pytest.mark.long if again else pytest.mark.slow)


@pytest.mark.parametrize("change", list(marked(CHANGES)))
def test_a_mutant_is_noticed(change, monkeypatch, tmp_path):
    def made(kind):
        return guarded(kind)(2) if change.backend == "numba" else kind()

    report = compared(monkeypatch, made(NumbaBackend if change.backend == "numba" else NumpyExact), change.compare)
    assert report["passed"], report["differences"]
    # A mutant's kernels come from sources that no other run has, so caching them is pointless.
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path / "cache"))
    wrong = made(mutant(tmp_path, change.backend, change.file, change.old, change.new))
    report = compared(monkeypatch, wrong, change.compare)
    assert not report["passed"], f"{change}: not noticed"
    (row,) = report["operations"]
    assert 0 < row["differing"] <= row["values"]
    assert change.compare.__name__ in report["differences"][0] and "numpy gives" in report["differences"][0]
