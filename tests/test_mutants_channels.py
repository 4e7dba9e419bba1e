"""Mutants of transposed convolution, bias addition and concatenation: each must be noticed (see test_mutants)."""

import numpy as np
import pytest

from gpucnn.geometry import transposed_window
from tests import test_mutants
from tests.test_mutants import EXACT, NUMBA, Change, numbers

pytestmark = pytest.mark.slow

WINDOW = transposed_window((9, 9), 2, stride=2)  # two bands of the input's rows


def transposed(b):
    x, w = b.pack(numbers("random", 3, 4, 9, 9)), b.array(numbers("random", 4, 2, 2, 2, seed=1))
    return {"y": b.conv_input_gradient(x, w, transposed_window((9, 9), 2, dilation=2, stride=1)).numpy()}


def bands(b):
    x, dy = b.pack(numbers("random", 3, 1, 9, 9)), b.pack(numbers("random", 3, 1, *WINDOW.input, seed=1))
    dw = b.zeros((1, 1, 2, 2))
    b.conv_weight_gradient(x, dy, WINDOW, 1, dw)
    return {"dw": b.host(dw)}


def shifted(b):
    """Zeros of both signs, and values that ReLU cuts."""
    x = np.array([0.0, -0.0, 1, -1, 0.1, -0.1], np.float32).reshape(1, 2, 3)
    bias = b.array(np.array([-0.0, 0.3], np.float32))
    return {name: b.add_bias(b.pack(x), bias, relu).numpy() for name, relu in (("y", False), ("with relu", True))}


def side_by_side(b):
    x = [b.pack(numbers("random", 17, c, 3, 2, seed=c)) for c in (2, 3)]
    return {"y": b.concatenate(x).numpy()}


def taken(b):
    return {"y": b.take_channels(b.pack(numbers("random", 17, 5, 3, 2)), 2, 2).numpy()}


CHANNELS = NUMBA + "channels.py"
NUMPY = "gpucnn/backends/numpy/channels.py"
CHANGES = [
    Change("the kernel is flipped", "numpy", EXACT, "return np.flip(", "return (lambda w, axes: w)(", transposed),
    Change(
        "bands are those of the transposed convolution's input",
        "numba",
        "gpucnn/backends/numba/conv.py",
        "band = rows_per_band(output[2])\n        maps",
        "band = rows_per_band(window.input[-1])\n        maps",
        bands,
    ),
    Change("the last + 0", "numpy", NUMPY, ") + zero)", "))", shifted),
    Change(
        "the last + 0",
        "numba",
        NUMBA + "vectors.py",
        "add(add(acc, bias), splat(ZERO))",
        "add(acc, bias)",
        shifted,
    ),
    Change("each channel its bias", "numba", CHANNELS, "splat(bias[c])", "splat(bias[0])", shifted),
    Change("ReLU after the bias", "numba", CHANNELS, "shift, relu)", "shift, False)", shifted),
    Change(
        "branches in their order", "numpy", NUMPY, "for batch in batches]", "for batch in batches[::-1]]", side_by_side
    ),
    Change("each branch its place", "numba", CHANNELS, "y[b, first_y + c]", "y[b, c]", side_by_side),
    Change("the channels that were asked for", "numba", CHANNELS, "x[b, first_x + c]", "x[b, c]", taken),
    Change(
        "every channel is copied", "numpy", NUMPY, "first : first + count]", "first : first + count][:, ::-1]", taken
    ),
]


@pytest.mark.parametrize("change", list(test_mutants.marked(CHANGES)))
def test_a_mutant_of_channels_is_noticed(change, monkeypatch, tmp_path):
    test_mutants.test_a_mutant_is_noticed(change, monkeypatch, tmp_path)
