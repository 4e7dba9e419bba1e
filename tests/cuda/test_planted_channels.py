"""Errors planted in channels.cu, and in what lays out transposed convolutions, are caught (see test_planted_errors)."""

import numpy as np
import pytest

from gpucnn.geometry import transposed_window
from tests.cuda import test_planted_errors
from tests.cuda.emulated import needs_emulation
from tests.cuda.test_planted_errors import _draw

pytestmark = [needs_emulation, pytest.mark.slow]


def _shifted(b, poison):
    x = np.array([0.0, -0.0, 1, -1, 0.1, -0.1], np.float32).reshape(1, 2, 3)
    bias = b.array(np.array([-0.0, 0.3], np.float32))
    return {name: b.add_bias(poison(b.pack(x)), bias, relu).numpy() for name, relu in (("y", False), ("relu", True))}


def _side_by_side(b, poison):
    return {"y": b.concatenate([poison(b.pack(_draw(33, c, 3, 2))) for c in (2, 3)]).numpy()}


def _taken(b, poison):
    return {"y": b.take_channels(b.pack(_draw(33, 5, 3, 2)), 3, 2).numpy()}


def _long(b, poison):
    """A map of more values than one block of threads takes at once."""
    return {"y": b.add_bias(b.pack(_draw(2, 1, 40)), b.array(_draw(1))).numpy()}


def _transposed(b, poison):
    win, dw = transposed_window((3, 2), 3, stride=2), b.zeros((2, 1, 3, 3))
    b.conv_weight_gradient(poison(b.pack(_draw(17, 2, 3, 2))), poison(b.pack(_draw(17, 1, *win.input))), win, 1, dw)
    return {"dw": b.host(dw)}


PLANTED = {
    "the last + 0 is missing": (_shifted, "channels.cu", "__fadd_rn(__fadd_rn(v, shift), 0.0f)", "__fadd_rn(v, shift)"),
    "every channel has the first one's bias": (_shifted, "channels.cu", "bias[blockIdx.x % C]", "bias[0]"),
    "no ReLU": (_shifted, "channels.cu", "relu ? rectified(sum) : sum", "sum"),
    "all branches in one place": (
        _side_by_side,
        "channels.cu",
        "blockIdx.x * y_quads + from_y",
        "blockIdx.x * y_quads",
    ),
    "blocks of images overlap": (_side_by_side, "channels.cu", "blockIdx.x * x_quads", "blockIdx.x * quads / 2"),
    "the first channels instead": (_taken, "channels.cu", "blockIdx.x * x_quads + from_x", "blockIdx.x * x_quads"),
    "a write past the end": (_taken, "channels.cu", "i < quads; i +=", "i <= quads; i +="),
    "a part of the map is left out": (
        _long,
        "channels.cu",
        "i64(blockIdx.y) * blockDim.x + threadIdx.x",
        "threadIdx.x",
    ),
    "an unmasked lane": (_transposed, "conv.cu", "acc[i] = there ? acc[i] : 0.0f;", ";"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_error_is_caught(name, tmp_path, monkeypatch):
    monkeypatch.setitem(test_planted_errors.PLANTED, name, PLANTED[name])
    test_planted_errors.test_planted_error_is_caught(name, tmp_path)
