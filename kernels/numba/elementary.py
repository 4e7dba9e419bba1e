"""exp, log, tanh, sigmoid, GELU and SiLU of 16 float64 at once, before their one rounding to float32 (rule 6)."""

from gpucnn.kernels.elementary import DENSITY, EXP, LN2_HIGH, LN2_LOW, LOG, LOG2E, NORMAL_P, NORMAL_Q, TANH
from gpucnn.kernels.numba.compiler import inner
from gpucnn.kernels.numba.simd import (
    add64,
    divide64,
    exponent_of,
    mantissa_of,
    multiply64,
    power_of_two,
    splat64,
    subtract64,
    where_greater64,
    where_less64,
)

# Adding and taking away 1.5 * 2**52 rounds a small float64 to a whole number, ties to even.
ROUNDER = 1.5 * 2.0**52


def _horner_of(coefficients):
    """polynomial(x) by Horner from the highest coefficient."""
    highest, rest = coefficients[-1], tuple(reversed(coefficients[:-1]))

    @inner
    def polynomial(x):
        value = splat64(highest)
        for coefficient in rest:
            value = add64(multiply64(value, x), splat64(coefficient))
        return value

    return polynomial


_exp_polynomial, _log_polynomial, _tanh_polynomial = _horner_of(EXP), _horner_of(LOG), _horner_of(TANH)
_normal_p, _normal_q = _horner_of(NORMAL_P), _horner_of(NORMAL_Q)


@inner
def exp64(x):
    low, high = splat64(-200.0), splat64(200.0)
    x = where_less64(x, low, low, where_greater64(x, high, high, x))
    n = subtract64(add64(multiply64(x, splat64(LOG2E)), splat64(ROUNDER)), splat64(ROUNDER))
    r = subtract64(subtract64(x, multiply64(n, splat64(LN2_HIGH))), multiply64(n, splat64(LN2_LOW)))
    tail = add64(r, multiply64(multiply64(r, r), _exp_polynomial(r)))
    return multiply64(add64(splat64(1.0), tail), power_of_two(n))


@inner
def log64(x):
    e, m = exponent_of(x), mantissa_of(x)
    s = divide64(subtract64(m, splat64(1.0)), add64(m, splat64(1.0)))
    z, t = multiply64(s, s), multiply64(splat64(2.0), s)
    near = add64(t, multiply64(multiply64(t, z), _log_polynomial(z)))
    return add64(multiply64(e, splat64(LN2_HIGH)), add64(near, multiply64(e, splat64(LN2_LOW))))


@inner
def tanh64(x):
    zero, twenty = splat64(0.0), splat64(20.0)
    a = where_less64(x, zero, subtract64(zero, x), x)
    z = multiply64(x, x)
    small = add64(x, multiply64(multiply64(x, z), _tanh_polynomial(z)))
    capped = where_greater64(a, twenty, twenty, a)
    e = exp64(add64(capped, capped))
    large = divide64(subtract64(e, splat64(1.0)), add64(e, splat64(1.0)))
    large = where_less64(x, zero, subtract64(zero, large), large)
    return add64(where_less64(a, splat64(0.25), small, large), zero)


@inner
def sigmoid64(x):
    one = splat64(1.0)
    return divide64(one, add64(one, exp64(subtract64(splat64(0.0), x))))


@inner
def normal64(x):
    """(c, cdf, e): x clamped to [-16, 16], the normal distribution's cdf there, and exp(-c**2 / 2)."""
    zero, one, low, high = splat64(0.0), splat64(1.0), splat64(-16.0), splat64(16.0)
    c = where_less64(x, low, low, where_greater64(x, high, high, x))
    a = where_less64(c, zero, subtract64(zero, c), c)
    e = exp64(subtract64(zero, multiply64(splat64(0.5), multiply64(a, a))))
    tail = multiply64(e, divide64(_normal_p(a), _normal_q(a)))
    return c, where_less64(x, zero, tail, subtract64(one, tail)), e


@inner
def gelu64(x):
    c, cdf, _ = normal64(x)
    return multiply64(where_greater64(x, splat64(16.0), x, c), cdf)


@inner
def gelu_slope64(x):
    c, cdf, e = normal64(x)
    return add64(cdf, multiply64(multiply64(c, e), splat64(DENSITY)))


@inner
def silu64(x):
    return divide64(x, add64(splat64(1.0), exp64(subtract64(splat64(0.0), x))))


@inner
def silu_slope64(x):
    one, s = splat64(1.0), sigmoid64(x)
    return multiply64(s, add64(one, multiply64(x, subtract64(one, s))))
