"""Each guarantee of maps along an axis, broken once on purpose: see test_mutants.py for how it is noticed."""

import numpy as np
import pytest

from gpucnn.resampling import padding_taps, upsampling_taps
from tests import test_mutants
from tests.test_mutants import NUMBA, Change, numbers

pytestmark = pytest.mark.slow

LINEAR = upsampling_taps((5, 4), None, (7, 9), "linear", False)


def upsampled(b):
    return {"y": b.resample(b.pack(numbers("random", 3, 2, 5, 4)), LINEAR).numpy()}


def upsampled_gradient(b):
    return {"dx": b.resample_gradient(b.pack(numbers("random", 3, 2, 7, 9)), LINEAR).numpy()}


def vanishing_means(b):
    """Thirds of the smallest negative number: each product rounds to -0."""
    return {"y": b.adaptive_avg_pool(b.pack(np.full((1, 1, 5), -(2.0**-149), np.float32)), (2,)).numpy()}


def filled(b):
    maps = padding_taps((5, 4), ((1, 2), (0, 3)), "constant", 0.3)
    return {"y": b.resample(b.pack(numbers("random", 3, 2, 5, 4)), maps).numpy()}


def adaptive_means(b):
    return {"y": b.adaptive_avg_pool(b.pack(numbers("random", 3, 2, 7, 5)), (3, 4)).numpy()}


def adaptive_maxima(b):
    y, where = b.adaptive_max_pool(b.pack(numbers("cancelling", 3, 2, 7, 8)), (5, 3))
    dy = b.pack(numbers("random", *y.shape, seed=1))
    return {"y": y.numpy(), "dx": b.adaptive_max_pool_gradient(dy, where, (7, 8)).numpy()}


BASE, MAPS, PROTOCOL = "gpucnn/backends/numpy/resampling.py", "gpucnn/resampling.py", "gpucnn/backends/protocol.py"
KERNEL = NUMBA + "resampling.py"

CHANGES = [
    Change("no + 0 at the end", "numpy", BASE, "acc + self.dtype.type(0)", "acc", vanishing_means),
    Change("no + 0 at the end", "numba", KERNEL, "add(acc, zero)", "acc", vanishing_means),
    Change("taps backwards", "numpy", BASE, "first[which] + tap", "first[which + 1] - 1 - tap", adaptive_means),
    Change(
        "taps backwards",
        "numba",
        KERNEL,
        "range(low, high)",
        "range(high - 1, low - 1, -1)",
        adaptive_means,
    ),
    Change(
        "multiply, then add",
        "numpy",
        "gpucnn/backends/numpy/exact/__init__.py",
        "staticmethod(fma)",
        "staticmethod(lambda a, b, c: a * b + c)",
        upsampled,
    ),
    Change(
        "multiply, then add",
        "numba",
        KERNEL,
        "+ i), acc)",
        "+ i), zero) if t == low else add(acc, fma(splat(weight[t]), load(x, row + np.int64(position[t]) "
        "* inner + i), zero))",
        upsampled,
    ),
    Change("a fill that is forgotten", "numpy", MAPS, "0.0 if count else taps.fill", "0.0", filled),
    Change("a fill that is forgotten", "numba", KERNEL, "splat(start[p])", "splat(ZERO)", filled),
    Change(
        "a weight that is rounded twice",
        "numpy",
        MAPS,
        "[weight for _, weight in every], dtype",
        "[np.float16(weight) for _, weight in every], dtype",
        upsampled,
    ),
    Change(
        "the last axis first",
        "numpy",
        PROTOCOL,
        "in enumerate(taps):",
        "in reversed(list(enumerate(taps))):",
        upsampled,
    ),
    Change(
        "the last axis first",
        "numba",
        PROTOCOL,
        "in enumerate(taps):",
        "in reversed(list(enumerate(taps))):",
        upsampled,
    ),
    Change(
        "the first axis first in a gradient",
        "numpy",
        PROTOCOL,
        "in reversed(list(enumerate(taps))):",
        "in enumerate(taps):",
        upsampled_gradient,
    ),
    Change(
        "the first axis first in a gradient",
        "numba",
        PROTOCOL,
        "in reversed(list(enumerate(taps))):",
        "in enumerate(taps):",
        upsampled_gradient,
    ),
    Change(
        "adaptive windows that end too early",
        "numpy",
        MAPS,
        "-(-(p + 1) * i // o)",
        "max((p + 1) * i // o, p * i // o + 1)",
        adaptive_means,
    ),
    Change(
        "adaptive windows that end too early",
        "numba",
        MAPS,
        "-(-(p + 1) * i // o)",
        "max((p + 1) * i // o, p * i // o + 1)",
        adaptive_maxima,
    ),
    Change(
        "repeated pixels before the window",
        "numba",
        MAPS,
        "min(first + tap, stop - 1)",
        "max(stop - k + tap, 0)",
        adaptive_maxima,
    ),
]


@pytest.mark.parametrize("change", list(test_mutants.marked(CHANGES)))
def test_a_mutant_of_maps_is_noticed(change, monkeypatch, tmp_path):
    test_mutants.test_a_mutant_is_noticed(change, monkeypatch, tmp_path)
