"""GELU, SiLU and their slopes against decimals of 130 digits: within the bounds that the contract derives."""

from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from gpucnn import arithmetic
from gpucnn.errors import DTypeError

RNG = np.random.default_rng(5)
DIGITS = 130  # the series of the normal distribution loses 56 of them at 16
FUNCTIONS = ["gelu", "gelu_slope", "silu", "silu_slope"]


def _pi() -> Decimal:
    """Machin: pi / 4 = 4 arctan(1/5) - arctan(1/239)."""

    def arctan(inverse: int) -> Decimal:
        total, power, k = Decimal(0), Decimal(1) / inverse, 0
        while abs(power) > Decimal(10) ** -(DIGITS + 5):
            total += (-1) ** k * power / (2 * k + 1)
            power, k = power / inverse**2, k + 1
        return total

    return 4 * (4 * arctan(5) - arctan(239))


def _normal(x: Decimal) -> tuple[Decimal, Decimal]:
    """(cdf, density): Phi(x) = 1/2 + phi(x) * (x + x**3/3 + x**5/(3*5) + ...), all terms of one sign."""
    term, total, k = x, x, 1
    while abs(term) > Decimal(10) ** -(DIGITS + 5) * max(abs(total), Decimal(10) ** -60) and k < 4000:
        k += 2
        term = term * x * x / k
        total += term
    density = (-x * x / 2).exp() / (2 * PI).sqrt()
    return Decimal("0.5") + density * total, density


def oracle(name: str, value: float) -> Fraction:
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = DIGITS, 10**6, -(10**6)
        x = Decimal(value)
        if name.startswith("gelu"):
            cdf, density = _normal(x)
            return Fraction(x * cdf if name == "gelu" else cdf + x * density)
        s = 1 / (1 + (-x).exp())
        return Fraction(x * s if name == "silu" else s * (1 + x * (1 - s)))


with localcontext() as _context:
    _context.prec = DIGITS + 10
    PI = _pi()

# Both tails as far as float32 reaches, the middle, tiny numbers, and where the slopes have their zero.
ARGUMENTS = {
    "gelu": [
        RNG.uniform(-14.4, 16, 250),
        RNG.uniform(-1, 1, 150),
        2.0 ** RNG.uniform(-149, -5, 100) * RNG.choice([-1, 1], 100),
        RNG.uniform(-14.5, -12.5, 100),
        [0.0, -0.0, 2.0**-149, -(2.0**-126)],
    ],
    "silu": [
        RNG.uniform(-107, 30, 250),
        RNG.uniform(-1, 1, 150),
        2.0 ** RNG.uniform(-149, -5, 100) * RNG.choice([-1, 1], 100),
        [0.0, -0.0, 2.0**-149, -(2.0**-126), 88.5, 1e30],
    ],
}
ZERO_OF_SLOPE = {"gelu": -0.7517916, "silu": -1.2784645}


def unit(value: Fraction) -> Fraction:
    """One unit in the last place of the float32 at `value`."""
    magnitude = abs(value)
    if not magnitude:
        return Fraction(2) ** -149
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    return Fraction(2) ** max(exponent - 23, -149)


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_values_are_within_half_a_unit_and_a_little(name):
    x = np.concatenate(ARGUMENTS[name]).astype(np.float32)
    result = getattr(arithmetic, name)(x)
    assert result.dtype == np.float32 and not np.signbit(result[result == 0]).any()
    below = 0
    for value, got in zip(x.tolist(), result.tolist(), strict=True):
        exact = oracle(name, value)
        assert abs(Fraction(got) - exact) <= (Fraction(1, 2) + Fraction(1, 2**22)) * unit(exact), (
            value,
            got,
            float(exact),
        )
        below += value < -10 and got != 0
    assert below > 50, "the negative tail was not looked at"


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_slopes(name):
    """Within a unit, and where the slope passes through zero within 2**-50 besides: float64's rounding of the terms."""
    zero = ZERO_OF_SLOPE[name]
    x = np.concatenate([*ARGUMENTS[name], zero + RNG.uniform(-1e-4, 1e-4, 50), [zero]]).astype(np.float32)
    result = getattr(arithmetic, f"{name}_slope")(x)
    for value, got in zip(x.tolist(), result.tolist(), strict=True):
        if abs(value) > 1e3:
            assert got == 1
            continue
        exact = oracle(f"{name}_slope", value)
        room = (Fraction(1, 2) + Fraction(1, 2**14)) * unit(exact)
        assert abs(Fraction(got) - exact) <= room + (Fraction(2) ** -50 if abs(value - zero) < 0.1 else 0), (value, got)


def test_against_scipy():
    special = pytest.importorskip("scipy.special")
    x = np.concatenate([RNG.uniform(-14, 14, 20000), RNG.standard_normal(20000)]).astype(np.float32)
    wide = x.astype(np.float64)
    assert np.allclose(arithmetic.gelu(x), wide * special.ndtr(wide), rtol=2**-23.9, atol=2**-149)
    assert np.allclose(arithmetic.silu(x), wide * special.expit(wide), rtol=2**-23.9, atol=2**-149)


def test_ends():
    big, inf = np.float32(3e38), np.float32(np.inf)
    ends = np.array([big, -big, 17, -17], np.float32)
    assert arithmetic.gelu(ends).tolist() == [float(big), 0, 17, 0]
    assert arithmetic.silu(ends[:2]).tolist() == [float(big), 0]
    assert arithmetic.gelu_slope(ends).tolist() == arithmetic.silu_slope(np.float32([big, -big, 200, -200])).tolist()
    assert arithmetic.gelu_slope(ends).tolist() == [1, 0, 1, 0]
    assert arithmetic.gelu(np.array([inf, -inf])).tolist() == [np.inf, 0]
    for name in FUNCTIONS:
        assert np.isnan(getattr(arithmetic, name)(np.float32(np.nan)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_scalars_and_types(name):
    function = getattr(arithmetic, name)
    assert function(np.float32(0.5)).shape == () and function(np.ones((2, 3), np.float32)).shape == (2, 3)
    with pytest.raises(DTypeError, match="float64"):
        function(0.5)


def test_the_contracts_test_vector():
    text = (Path(__file__).parents[2] / "kernels" / "CONTRACT.md").read_text()
    rows = text.split("bits of gelu, gelu', silu, silu':")[1].strip("\n").split("\n\n")[0].splitlines()
    assert len(rows) == 4
    for row in rows:
        value, bits = row.split(":")
        found = [f"{int(getattr(arithmetic, name)(np.float32(value)).view(np.uint32)):08x}" for name in FUNCTIONS]
        assert found == bits.split()
