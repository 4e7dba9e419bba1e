"""exp, log, tanh, sigmoid and the cosine against decimals of 60 digits, correctly rounded."""

import math
from fractions import Fraction

import numpy as np
import pytest

from gpucnn import arithmetic
from gpucnn.errors import DTypeError
from tests.arithmetic import rational

RNG = np.random.default_rng(11)
COUNT = 1500
TINY = np.array([0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-126, 1e-40, -1e-20, 2.0**-12, -(2.0**-13)], np.float32)


def neighbors(*values):
    """Each value and the float32 on either side."""
    values = np.array(values, np.float32)
    return np.concatenate([values, np.nextafter(values, np.float32(-np.inf)), np.nextafter(values, np.float32(np.inf))])


def uniform(low, high):
    return RNG.uniform(low, high, COUNT).astype(np.float32)


def spread(low, high, signs=(-1, 1)):
    """Exponents spread evenly over [low, high)."""
    return (2.0 ** RNG.uniform(low, high, COUNT) * RNG.choice(signs, COUNT)).astype(np.float32)


def positive_bits():
    return RNG.integers(1, 0x7F800000, COUNT, dtype=np.uint32).view(np.float32)


ARGUMENTS = {
    "exp": [uniform(-105, 89), uniform(-1, 1), spread(-40, 6), TINY, neighbors(-103.97, -87.34, 88.72, 0.6931472)],
    "log": [
        positive_bits(),
        uniform(0.5, 2),
        spread(-149, -126, (1,)),
        neighbors(1, 2, 0.70710677, 1.4142135),
        np.array([2.0**-149, 2.0**-126, np.finfo(np.float32).max], np.float32),
    ],
    "tanh": [uniform(-10, 10), uniform(-0.3, 0.3), spread(-40, 4), TINY, neighbors(0.25, -0.25, 9.01, -9.01, 20, 80)],
    "sigmoid": [uniform(-105, 30), uniform(-1, 1), spread(-40, 6), TINY, neighbors(-103.9, -87.3, 17.3, 100)],
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_correctly_rounded(name):
    x = np.concatenate(ARGUMENTS[name])
    result = getattr(arithmetic, name)(x)
    assert result.dtype == np.float32
    oracle = getattr(rational, name)
    expected = [rational.nearest32(Fraction(rational.decimal(oracle, value))) for value in x.tolist()]
    with np.errstate(over="ignore"):
        expected = np.array(expected, np.float32)
    different = result.view(np.uint32) != expected.view(np.uint32)
    assert not different.any(), [values[different][:5] for values in (x, result, expected)]


def test_extremes():
    inf, big = np.float32(np.inf), np.float32(3e38)
    assert arithmetic.exp(np.array([big, -big, inf, -inf], np.float32)).tolist() == [np.inf, 0, np.inf, 0]
    assert arithmetic.log(np.array([0, inf], np.float32)).tolist() == [-np.inf, np.inf]
    assert np.isnan(arithmetic.log(np.array([-1, np.nan], np.float32))).all()
    assert arithmetic.tanh(np.array([big, -big, inf, -inf], np.float32)).tolist() == [1, -1, 1, -1]
    assert arithmetic.sigmoid(np.array([big, -big], np.float32)).tolist() == [1, 0]
    for name in ARGUMENTS:
        assert np.isnan(getattr(arithmetic, name)(np.float32(np.nan)))


def test_tanh_has_no_negative_zero():
    assert not np.signbit(arithmetic.tanh(np.float32(-0.0)))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_scalars_and_types(name):
    function = getattr(arithmetic, name)
    assert function(np.float32(0.5)).shape == () and function(np.ones((2, 3), np.float32)).shape == (2, 3)
    with pytest.raises(DTypeError, match="float64"):
        function(0.5)


def test_cosine():
    x = np.concatenate([RNG.uniform(0, math.pi, COUNT), np.linspace(0, math.pi, 101)])
    for value, result in zip(x.tolist(), arithmetic.cos64(x).tolist(), strict=True):
        assert abs(Fraction(result) - Fraction(rational.decimal(rational.cos, value))) < Fraction(3, 10**16)
    assert arithmetic.cos64(0.0) == 1 and arithmetic.cos64(math.pi) == -1


def test_the_contract_lists_these_coefficients():
    from pathlib import Path

    from gpucnn.arithmetic import elementary

    text = (Path(__file__).parents[2] / "kernels" / "CONTRACT.md").read_text()
    rows = [row.strip("| ").split("|") for row in text.splitlines() if row.startswith("| 0x")]
    columns = [
        [float.fromhex(cell.strip()) for cell in column if cell.strip()]
        for column in zip(*([*row, *[""] * 5][:6] for row in rows), strict=True)
    ]
    assert columns == [
        elementary.EXP,
        elementary.LOG,
        elementary.TANH,
        elementary.SINE,
        elementary.NORMAL_P,
        elementary.NORMAL_Q,
    ]
