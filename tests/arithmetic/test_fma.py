"""fma against exact fractions, on inputs made so that a second rounding or a lost subnormal would show."""

import numpy as np
import pytest

from gpucnn.arithmetic import Doubt, chain, doubt, fma
from gpucnn.errors import DTypeError
from tests.arithmetic.rational import fma as exact_fma

RNG = np.random.default_rng(20240607)
COUNT = 2000


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


def scaled(low, high):
    """Random signs and mantissas with exponents in [low, high)."""
    mantissa = 1 + RNG.integers(0, 2**23, COUNT) * 2.0**-23
    return (np.ldexp(mantissa, RNG.integers(low, high, COUNT)) * RNG.choice([-1, 1], COUNT)).astype(np.float32)


def sparse():
    return (
        np.ldexp(1 + np.ldexp(1.0, -RNG.integers(1, 24, COUNT)), RNG.integers(-20, 20, COUNT))
        * RNG.choice([-1, 1], COUNT)
    ).astype(np.float32)


def raw():
    values = RNG.integers(0, 2**32, 2 * COUNT, dtype=np.uint32).view(np.float32)
    return values[np.isfinite(values)][:COUNT]


def cancelling():
    a, b = scaled(-10, 10), scaled(-10, 10)
    return a, b, -(a * b)


def midpoints():
    """a * b lies exactly between two float32 neighbors, and c, far below, decides."""
    a = RNG.integers(2**11, 2**12, COUNT).astype(np.float32)
    b = (2 * RNG.integers(2**11, 2**12, COUNT) + 1).astype(np.float32)
    return a, b, scaled(-60, -20)


def half_units():
    """c is large, the product about half of its last place."""
    a = np.ldexp(1 + RNG.integers(-2, 3, COUNT) * 2.0**-23, -24).astype(np.float32)
    return a, RNG.choice(np.array([1, 1 + 2**-23, 1 - 2**-24], np.float32), COUNT), scaled(0, 1)


def subnormal_midpoints():
    """As half_units, where c is subnormal and odd: the sum is 2**-196 from the middle between two subnormals."""
    sign = RNG.choice([-1.0, 1.0], COUNT)
    a = np.ldexp(1 + sign * 2.0**-23, -75).astype(np.float32)
    b = np.ldexp(1 - sign * 2.0**-23, -75).astype(np.float32)
    return a, b, np.ldexp(2.0 * RNG.integers(2**18, 2**22, COUNT) + 1, -149).astype(np.float32)


CASES = {
    "normal": lambda: tuple(RNG.standard_normal(COUNT).astype(np.float32) for _ in range(3)),
    "any bits": lambda: (raw(), raw(), raw()),
    "sparse": lambda: (sparse(), sparse(), sparse()),
    "cancelling": cancelling,
    "midpoints": midpoints,
    "half units": half_units,
    "subnormal": lambda: (scaled(-80, -50), scaled(-85, -60), scaled(-149, -120)),
    "subnormal midpoints": subnormal_midpoints,
    "subnormal operands": lambda: (scaled(-149, -120), scaled(-24, 2), scaled(-149, -125)),
    "overflow": lambda: (scaled(60, 66), scaled(60, 66), scaled(120, 128)),
}


DOUBLY_ROUNDED = ("midpoints", "half units", "subnormal midpoints")  # here rounding twice gives other bits


@pytest.mark.parametrize("case", CASES)
def test_is_rounded_once(case):
    a, b, c = CASES[case]()
    with np.errstate(all="ignore"):
        expected = np.array([exact_fma(*map(float, abc)) for abc in zip(a, b, c, strict=True)]).astype(np.float32)
        twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert np.array_equal(bits(fma(a, b, c)), bits(expected))
    if case in DOUBLY_ROUNDED:
        assert (bits(twice) != bits(expected)).any(), "these inputs should catch a doubly rounded fma"


def test_overflow_threshold():
    largest = np.float32(np.finfo(np.float32).max)
    half_unit = np.float32(2.0**103)
    assert fma(np.float32(1), largest, half_unit) == np.inf
    assert fma(np.float32(1), largest, np.nextafter(half_unit, np.float32(0))) == largest


@pytest.mark.parametrize(("a", "b", "c"), [(0.0, 1.0, -0.0), (-0.0, 1.0, -0.0), (-0.0, 1.0, 0.0), (1.0, 1.0, -1.0)])
def test_signs_of_zero(a, b, c):
    expected = a * b + c
    assert bits(fma(np.float32(a), np.float32(b), np.float32(c))) == bits(expected)


def test_infinities_and_nan():
    inf, one, zero = np.float32(np.inf), np.float32(1), np.float32(0)
    assert fma(inf, one, one) == np.inf
    assert np.isnan(fma(inf, zero, one))
    assert np.isnan(fma(inf, one, -inf))
    assert np.isnan(fma(np.float32(np.nan), one, one))


def test_scalars_and_broadcasting():
    a, b, c = (RNG.standard_normal(shape).astype(np.float32) for shape in ((3, 1), (4,), ()))
    result = fma(a, b, c)
    assert result.shape == (3, 4) and result.dtype == np.float32
    assert fma(a[0, 0], b[0], c).shape == ()
    assert bits(fma(a[0, 0], b[0], c)) == bits(result[0, 0])
    # A doubtful element (a product between two neighbors) in a broadcast array and alone.
    a, c = np.float32(4097), np.array([[2.0**-60], [-(2.0**-60)]], np.float32)
    result = fma(a, np.array([4097, 1], np.float32), c)
    expected = [[exact_fma(4097.0, b, s) for b in (4097.0, 1.0)] for s in c[:, 0].tolist()]
    assert np.array_equal(bits(result), bits(expected))


@pytest.mark.parametrize("wrong", [1.0, np.float64(1), 1, np.ones(2), np.ones(2, np.float16)])
def test_other_types_are_refused(wrong):
    one = np.float32(1)
    for arguments in ((wrong, one, one), (one, wrong, one), (one, one, wrong)):
        with pytest.raises(DTypeError, match="float32"):
            fma(*arguments)


@pytest.mark.parametrize("case", CASES)
def test_chain_is_fma_after_fma(case):
    a, b, _ = (v.reshape(20, -1) for v in CASES[case]())
    if case == "overflow":
        a = a * np.float32(2.0**-64)
    acc = np.zeros(a.shape[1], np.float32)
    for a_k, b_k in zip(a, b, strict=True):
        acc = fma(a_k, b_k, acc)
    found = doubt(a, b, len(a))
    assert np.array_equal(bits(chain(a.astype(np.float64), b.astype(np.float64), found)), bits(acc))
    expected = Doubt.SUBNORMAL
    if case in ("midpoints", "half units", "subnormal midpoints"):  # whole numbers of 12 bits; nearly one exponent
        expected = Doubt.NONE
    elif case in ("normal", "sparse", "cancelling", "overflow"):
        expected = Doubt.HALFWAY
    assert found == expected


@pytest.mark.parametrize("case", DOUBLY_ROUNDED)
def test_chain_rounds_once(case):
    """0 + c * 1, then + a * b."""
    a, b, c = CASES[case]()
    expected = [exact_fma(*map(float, abc)) for abc in zip(a, b, c, strict=True)]
    left, right = np.stack([c, a]), np.stack([np.ones_like(c), b])
    sums = chain(left.astype(np.float64), right.astype(np.float64), doubt(left, right, len(left)))
    assert np.array_equal(bits(sums), bits(expected))


def test_doubt_of_subnormals_at_its_edge():
    a, zero = np.float32([1, 1 + 2**-23]), np.zeros(1, np.float32)
    low = 1 + 2**-23
    assert doubt(a, np.float32([2.0**-80 * low, 1, 0]), 1) == Doubt.HALFWAY
    assert doubt(a, np.float32([2.0**-81 * low, 1, 0]), 1) == Doubt.SUBNORMAL
    assert doubt(zero, zero, 1) == doubt(zero, a, 1) == Doubt.NONE
    for wrong in (np.nan, np.inf):
        assert doubt(np.float32([wrong]), a, 1) == doubt(zero, np.float32([wrong]), 1) == Doubt.SUBNORMAL


def test_doubt_of_sums_halfway_at_its_edge():
    """2 * terms * 2**9 * 2**20 against 2**53 * 2**-23 * 1."""
    a, b = np.float32([2.0**9, -(2.0**-23)]), np.float32([1 - 2.0**20, 2.0**20, 0])
    assert doubt(a, b, 1) == doubt(a[:1], b, 2**20) == Doubt.NONE
    assert (
        doubt(a, b, 2) == doubt(a * np.float32([2, 1]), b, 1) == doubt(a, b / np.float32([2, 1, 1]), 1) == Doubt.HALFWAY
    )


@pytest.mark.parametrize("found", Doubt)
def test_a_chain_of_whole_numbers_is_exact_whatever_is_doubted(found):
    a, b = RNG.integers(-15, 16, (2, 30, 400)).astype(np.float64)
    assert np.array_equal(chain(a, b, found), (a * b).sum(0))
