"""Exact rounding by fractions and by long decimals, independent of the package."""

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np


def nearest32(value: Fraction) -> float:
    """The float32 nearest to a fraction, ties to even, subnormals and overflow as IEEE-754 has them; +0 for 0."""
    if value == 0:
        return 0.0
    magnitude, sign = abs(value), -1 if value < 0 else 1
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - 23, -149)
    units = round(magnitude / unit) * unit  # round of a Fraction: ties to even
    return sign * (float("inf") if units >= Fraction(2) ** 128 else float(units))


def fma(a: float, b: float, c: float) -> float:
    """a * b + c of finite float32 values, rounded once."""
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c  # float64 is exact here and knows the sign of zero
    rounded = nearest32(exact)
    return rounded if rounded else float(np.copysign(0.0, float(exact.numerator)))


def decimal(function, x: float) -> Decimal:
    """function(Decimal) with 60 digits, converting x exactly."""
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = 60, 10**6, -(10**6)
        return +function(Decimal(x))


def exp(x: Decimal) -> Decimal:
    return x.exp()


def log(x: Decimal) -> Decimal:
    return x.ln()


def tanh(x: Decimal) -> Decimal:
    # Near 0 the difference below cancels; the series x - x**3/3 + 2*x**5/15 is exact to 60 digits there.
    if abs(x) < Decimal("1e-20"):
        return x - x**3 / 3
    with localcontext() as context:
        context.prec += 30
        e = (2 * x).exp()
        return (e - 1) / (e + 1)


def sigmoid(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp())


def cos(x: Decimal) -> Decimal:
    total, term, n = Decimal(0), Decimal(1), 0
    while abs(term) > Decimal(10) ** -50:
        total, n = total + term, n + 2
        term = -term * x * x / (n * (n - 1))
    return total
