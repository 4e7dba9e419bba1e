"""kernels/numba/elementary32.py: rule 6's bits, and between which float64 the rule's lie."""

import numpy as np
import pytest
from gpucnn.kernels.numba import elementary32 as near
from gpucnn.kernels.numba.compiler import kernel
from gpucnn.kernels.numba.simd import LANES, load, store, store64
from gpucnn.kernels.numba.team import prange

from gpucnn.arithmetic import elementary
from gpucnn.backends import get_backend

NAMES = ["exp", "tanh", "sigmoid", "silu", "silu_slope", "gelu", "gelu_slope"]
# Where a formula, a clamp or the kind of number changes, and where slopes are 0.
SPECIAL = [
    0,
    1e-45,
    2.0**-126,
    2.0**-64,
    0.17,
    0.25,
    0.3466,
    0.6931,
    1,
    1.2784,
    0.7518,
    8,
    13,
    16,
    20,
    88,
    104,
    200,
    3e38,
]


def arguments(step: int) -> np.ndarray:
    """Every so many of all finite float32, and some near SPECIAL."""
    bits = np.arange(0, 1 << 32, step, np.uint64).astype(np.uint32)
    special = np.array(SPECIAL, np.float32).view(np.uint32)[:, None] + np.arange(-40, 41)
    special = np.concatenate([special, special + (1 << 31)]).astype(np.uint32).reshape(-1)
    x = np.concatenate([special, bits]).view(np.float32)
    x = x[np.isfinite(x)]
    return x[: len(x) // LANES * LANES]


def by_rule(name: str, x: np.ndarray) -> np.ndarray:
    """Rule 6's float64."""
    with np.errstate(all="ignore"):
        return getattr(elementary, f"{name}64")(x.astype(np.float64))


def value_of(name: str):
    value = getattr(near, name)

    @kernel(f"test {name}")
    def values(x, y):
        for _ in prange(1):
            for i in range(0, len(x), LANES):
                store(y, i, value(load(x, i)))

    return values


def bounds_of(name: str):
    bounds = getattr(near, f"near_{name}")

    @kernel(f"test near {name}")
    def both(x, low, high):
        for _ in prange(1):
            for i in range(0, len(x), LANES):
                below, above = bounds(load(x, i))
                store64(low, i, below)
                store64(high, i, above)

    return both


@pytest.mark.parametrize("name", NAMES)
def test_bits(name):
    x = arguments(4099)
    y = np.empty_like(x)
    get_backend("numba", threads=1)._run(value_of(name), x, y)
    with np.errstate(all="ignore"):
        expected = by_rule(name, x).astype(np.float32)
    y, expected = y + np.float32(0), expected + np.float32(0)  # users of these functions make -0 +0
    different = y.view(np.uint32) != expected.view(np.uint32)
    assert not different.any(), [values[different][:5] for values in (x, y, expected)]


@pytest.mark.parametrize("name", NAMES)
def test_bounds(name):
    """They are four times as far from the middle as rule 6's float64 is."""
    x = arguments(4099)
    low, high = np.empty(len(x)), np.empty(len(x))
    get_backend("numba", threads=1)._run(bounds_of(name), x, low, high)
    low, high = np.minimum(low, high), np.maximum(low, high)
    error, slack = np.abs(by_rule(name, x) - (low + high) / 2), (high - low) / 2
    assert (4 * error <= slack).all(), x[4 * error > slack][:5]
