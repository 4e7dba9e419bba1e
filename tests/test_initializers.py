"""Initial weights: moments, bounds, and bits; normal deviates against 50-digit decimals."""

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest

from gpucnn import arithmetic
from gpucnn.errors import ConfigurationError
from gpucnn.initializers import INITIALIZERS, check_initializer, draw
from gpucnn.layers import Conv2d, Dense, Flatten, Sequential
from gpucnn.models import Model

FAN_IN, FAN_OUT = 18, 27
VARIANCES = {"he": 2 / FAN_IN, "glorot": 2 / (FAN_IN + FAN_OUT), "lecun": 1 / FAN_IN}
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


def drawn(name, count=40_000, seed=5, ordinal=3):
    return draw(name, (count,), FAN_IN, FAN_OUT, seed, ordinal)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_moments_and_bounds(name):
    """The mean of n values of variance v is off by 5 sqrt(v / n) once in two million draws,
    the variance by 5 sqrt(2v**2 / n).
    """
    values, family = drawn(name), name.partition("_")[0]
    assert values.dtype == np.float32
    n, variance = len(values), VARIANCES[family]
    exact = values.astype(np.float64)
    assert abs(exact.mean()) < 5 * math.sqrt(variance / n)
    assert abs(exact.var() - variance) < 5 * variance * math.sqrt(2 / n)
    sizes = np.abs(exact) / math.sqrt(variance)
    if name.endswith("normal"):
        # Parts of a normal distribution beyond one, two, three deviations; five standard errors again.
        for k, part in ((1, 0.31731), (2, 0.04550), (3, 0.00270)):
            assert abs((sizes > k).mean() - part) < 5 * math.sqrt(part / n)
        assert sizes.max() < 6.67
    else:
        assert math.sqrt(3) * 0.999 < sizes.max() <= math.sqrt(3) * (1 + 2**-23)


@pytest.mark.parametrize("family", VARIANCES)
def test_the_short_name_is_the_uniform_one(family):
    assert np.array_equal(drawn(family), drawn(f"{family}_uniform"))
    assert not np.array_equal(drawn(family), drawn(f"{family}_normal"))
    assert np.array_equal(drawn(f"{family}_normal"), drawn(f"{family}_normal"))
    assert not np.array_equal(drawn(f"{family}_normal"), drawn(f"{family}_normal", ordinal=4))
    assert not np.array_equal(drawn(f"{family}_normal"), drawn(f"{family}_normal", seed=6))


def test_committed_bits():
    """These change only with the contract."""
    expected = {
        "he": ["bf2a6f97", "3e865b44", "3e36a03d", "3e3cad3c"],
        "he_normal": ["bf839176", "3e13520d", "beeeb75d", "3ecf70c3"],
        "glorot_normal": ["bf1de1c0", "3db0c8dc", "be8f3ad2", "3e78edb6"],
    }
    for name, bits in expected.items():
        assert [f"{b:08x}" for b in draw(name, (4,), 9, 16, 7, 2).view(np.uint32)] == bits, name


def cosine(x: Decimal) -> Decimal:
    """Taylor's series; x up to pi."""
    term, total, k = Decimal(1), Decimal(0), 0
    while abs(term) > Decimal(10) ** -45:
        total += term
        k += 2
        term *= -x * x / (k * (k - 1))
    return total


def test_normal_deviates_against_decimals():
    getcontext().prec = 50
    count = 300
    draws = arithmetic.draws64(11, np.arange(count), 0, arithmetic.INIT, 4)
    got = arithmetic.normal64(11, np.arange(count), 0, arithmetic.INIT, 4)
    for bits, value in zip(draws.tolist(), got.tolist(), strict=True):
        u = Decimal((bits & 0xFFFFFFFF) + 1) / 2**32
        t = Decimal(bits >> 32) / 2**31
        expected = (-2 * u.ln()).sqrt() * cosine(PI * min(t, 2 - t))
        # The cosine is right within 3e-16 and the rounding of pi * t, 4.5e-16; the root, at most 6.67, within 3
        # roundings.
        assert abs(value - float(expected)) < 6.67 * (3e-16 + 4.5e-16 + 4 * 2.0**-53)


def test_the_ends_of_the_recipe(monkeypatch):
    """u = 1 gives 0, the smallest u the largest deviate; both ends of the angle."""
    from gpucnn.arithmetic import normal

    words = np.array([0xFFFFFFFF, 0, 0 | 1 << 63, 0 | 0xFFFFFFFF << 32], np.uint64)
    monkeypatch.setattr(normal, "draws64", lambda *args: words)
    got = arithmetic.normal64(0, np.arange(4), 0, 1)
    most = math.sqrt(64 * math.log(2))
    assert got[0] == 0
    assert np.allclose(got[1:], [most, -most, most], rtol=1e-15)
    assert np.abs(got).max() < 6.67


@pytest.mark.parametrize("name", ["best", "he_cauchy", "", None, True, float("nan"), float("inf"), ["he"]])
def test_wrong_names_are_refused(name):
    with pytest.raises(ConfigurationError, match="use one of he, glorot, lecun, he_uniform"):
        check_initializer(name)
    with pytest.raises(ConfigurationError):
        Dense(3, initializer=name)


def test_layers_take_them_by_name():
    layers = Conv2d(4, 3, initializer="glorot_normal"), Flatten(), Dense(3, initializer="lecun_normal")
    model = Model(Sequential(*layers), (2, 5, 5)).initialize(9)
    state = model.state_dict()
    assert np.array_equal(state["0.weight"], draw("glorot_normal", (4, 2, 3, 3), 18, 36, 9, 0))
    assert np.array_equal(state["2.weight"], draw("lecun_normal", (3, 36), 36, 3, 9, 2))
    assert not state["0.bias"].any() and not state["2.bias"].any()
