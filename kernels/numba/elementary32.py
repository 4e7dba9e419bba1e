"""exp, tanh, sigmoid, GELU and SiLU to 2**-39, which is mostly enough to know their float32 (rule 6).

Rule 6 rounds a float64 to float32 once. Where all float64 near a cheaper approximation round to the same float32, that
is the result; elsewhere, in a few of a thousand vectors, the rule's own polynomials are computed. So the bits are the
rule's: those of all 2**32 arguments have been compared. The approximations fuse multiplication and addition, and have
fewer coefficients.

What is `near` gives two float64 for each of 16 float32: rule 6's float64 lies between them.
"""

import numpy as np
from gpucnn.kernels.elementary import DENSITY, LOG2E
from gpucnn.kernels.numba import elementary
from gpucnn.kernels.numba.compiler import inner
from gpucnn.kernels.numba.elementary import ROUNDER
from gpucnn.kernels.numba.simd import (
    absolute64,
    add64,
    divide64,
    fma64,
    identical,
    multiply64,
    narrow,
    power_in_low_bits,
    splat,
    splat64,
    subtract64,
    where_greater,
    where_greater64,
    widen,
)

# Four times as much as the approximations are off, relative to the result or to the terms of its last sum.
SLACK = 2.0**-37
LN2 = float.fromhex("0x1.62e42fefa39efp-1")
# (e**r - 1 - r) / r**2 for |r| <= ln(2) / 2: e**r - 1 is off by 2**-43.3 of itself.
EXP = tuple(
    float.fromhex(c)
    for c in (
        "0x1.fffffffff5e4cp-2",
        "0x1.555555554c253p-3",
        "0x1.5555557749e2ap-5",
        "0x1.111111427d06ap-7",
        "0x1.6c16464b8ded8p-10",
        "0x1.a018f4a0d05b8p-13",
        "0x1.a164b0d6516b1p-16",
        "0x1.73bffb2c58c8bp-19",
    )
)
# exp(a**2 / 2) times the normal distribution's cdf at -a, 0 <= a <= 16: off by 2**-39.3 of it.
NORMAL_P = tuple(
    float.fromhex(c)
    for c in (
        "0x1.000000000191bp-1",
        "0x1.2632db34f3ccep-1",
        "0x1.4bf2be8383dd3p-2",
        "0x1.c2efa134b8215p-4",
        "0x1.810e5f80e5b08p-6",
        "0x1.88f311896134fp-9",
        "0x1.7d341e6ffccfap-13",
    )
)
NORMAL_Q = tuple(
    float.fromhex(c)
    for c in (
        "0x1.0000000000000p+0",
        "0x1.f27504d455dccp+0",
        "0x1.b3af72410c6a4p+0",
        "0x1.bdb3d253325edp-1",
        "0x1.2247f28314dcdp-2",
        "0x1.e653dead86cd3p-5",
        "0x1.ec7d49d6b6848p-8",
        "0x1.ddc48e71e81e4p-12",
    )
)


def _horner_of(coefficients):
    highest, rest = coefficients[-1], tuple(reversed(coefficients[:-1]))

    @inner
    def polynomial(x):
        value = splat64(highest)
        for coefficient in rest:
            value = fma64(value, x, splat64(coefficient))
        return value

    return polynomial


def _polynomial_of(coefficients):
    """polynomial(x), the even powers and the odd ones by Horner, so that less waits."""
    even, odd = _horner_of(coefficients[::2]), _horner_of(coefficients[1::2])

    @inner
    def polynomial(x):
        square = multiply64(x, x)
        return fma64(odd(square), x, even(square))

    return polynomial


_normal_p, _normal_q = _polynomial_of(NORMAL_P), _polynomial_of(NORMAL_Q)


def _falling_of(rate):
    """Two functions of x: (t, s) with exp(-rate * x) = t * s + s and a power of two s; and exp(-rate * x).

    |rate * x| is 200 at most, |rate| a power of two, so that it changes no coefficient's error.
    """
    per_octave, octave = -rate * LOG2E, LN2 / rate
    tail = _polynomial_of((-rate, *(c * (-rate) ** k for k, c in enumerate(EXP, 2))))

    @inner
    def parts(x):
        shifted = fma64(x, splat64(per_octave), splat64(ROUNDER))
        r = fma64(subtract64(shifted, splat64(ROUNDER)), splat64(octave), x)
        return multiply64(r, tail(r)), power_in_low_bits(shifted)

    @inner
    def whole(x):
        t, s = parts(x)
        return fma64(t, s, s)

    return parts, whole


_falling_twice, _ = _falling_of(2.0)
_, _falling = _falling_of(1.0)
_, _falling_half = _falling_of(0.5)
_, _rising = _falling_of(-1.0)


@inner
def _clamped(x, most):
    high, low = splat(np.float32(most)), splat(np.float32(-most))
    x = where_greater(x, high, high, x)
    return where_greater(low, x, low, x)


@inner
def _around(v):
    return multiply64(v, splat64(1.0 - SLACK)), multiply64(v, splat64(1.0 + SLACK))


@inner
def _around_sum(v, terms):
    slack = multiply64(terms, splat64(SLACK))
    return subtract64(v, slack), add64(v, slack)


@inner
def near_exp(x):
    return _around(_rising(widen(_clamped(x, 200))))


@inner
def near_tanh(x):
    t, s = _falling_twice(widen(_clamped(x, 20)))
    above = fma64(t, s, subtract64(s, splat64(1.0)))  # exp(-2x) - 1, without loss near 0
    return _around(divide64(above, subtract64(splat64(-2.0), above)))


@inner
def near_sigmoid(x):
    return _around(divide64(splat64(1.0), add64(splat64(1.0), _falling(widen(_clamped(x, 200))))))


@inner
def near_silu(x):
    return _around(divide64(widen(x), add64(splat64(1.0), _falling(widen(_clamped(x, 200))))))


@inner
def near_silu_slope(x):
    """s * (1 + x * (1 - s)) with s = sigmoid(x)."""
    one, e = splat64(1.0), _falling(widen(_clamped(x, 200)))
    s = divide64(one, add64(one, e))
    bend = multiply64(widen(x), multiply64(s, e))
    return _around_sum(fma64(s, bend, s), fma64(s, absolute64(bend), s))


@inner
def _normal_tail(x):
    """(a, exp(-a**2 / 2), the normal distribution's cdf at -a) with a = |x|, 16 at most."""
    most = splat64(16.0)
    a = absolute64(x)
    a = where_greater64(a, most, most, a)
    e = _falling_half(multiply64(a, a))
    return a, e, divide64(multiply64(e, _normal_p(a)), _normal_q(a))


@inner
def near_gelu(x):
    wide, zero = widen(x), splat64(0.0)
    a, _, tail = _normal_tail(wide)
    return _around(fma64(multiply64(a, splat64(-1.0)), tail, where_greater64(wide, zero, wide, zero)))


@inner
def near_gelu_slope(x):
    """cdf(x) + x * the density at x."""
    wide, zero = widen(x), splat64(0.0)
    a, e, tail = _normal_tail(wide)
    cdf = where_greater64(wide, zero, subtract64(splat64(1.0), tail), tail)
    bend = multiply64(multiply64(a, e), splat64(DENSITY))
    return _around_sum(where_greater64(wide, zero, add64(cdf, bend), subtract64(cdf, bend)), add64(cdf, bend))


def rounded_once(near, exact):
    """f32(exact(f64(x))) of 16 float32 x."""

    @inner
    def value(x):
        low, high = near(x)
        result = narrow(low)
        return result if identical(result, narrow(high)) else narrow(exact(widen(x)))

    return value


exp = rounded_once(near_exp, elementary.exp64)
tanh = rounded_once(near_tanh, elementary.tanh64)
sigmoid = rounded_once(near_sigmoid, elementary.sigmoid64)
silu = rounded_once(near_silu, elementary.silu64)
silu_slope = rounded_once(near_silu_slope, elementary.silu_slope64)
gelu = rounded_once(near_gelu, elementary.gelu64)
gelu_slope = rounded_once(near_gelu_slope, elementary.gelu_slope64)
