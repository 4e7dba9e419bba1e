"""exp, log, tanh, sigmoid, GELU and SiLU in float64, before their one rounding to float32 (rule 6)."""

import numpy as np
from gpucnn.kernels import elementary
from gpucnn.kernels.numba_cuda.arithmetic import add64, bits64, divide64, from_bits64, multiply64, subtract64
from gpucnn.kernels.numba_cuda.compiler import device

LOG2E, LN2_HIGH, LN2_LOW = (np.float64(c) for c in (elementary.LOG2E, elementary.LN2_HIGH, elementary.LN2_LOW))
ONE, TWO, HALF, QUARTER, TWENTY, LIMIT = (np.float64(c) for c in (1, 2, 0.5, 0.25, 20, 200))
DENSITY, FAR = np.float64(elementary.DENSITY), np.float64(16)
# Adding and taking away 1.5 * 2**52 rounds a small float64 to a whole number, ties to even.
ROUNDER = np.float64(1.5 * 2.0**52)
# log splits its argument into 2**e * m with m from sqrt(1/2) to sqrt(2): the bits of sqrt(1/2), and of a mantissa.
ROOT_HALF, MANTISSA = np.int64(0x3FE6A09E667F3BCD), np.int64(0xFFFFFFFFFFFFF)


def _horner_of(coefficients):
    """polynomial(x) by Horner from the highest coefficient."""
    highest, rest = np.float64(coefficients[-1]), tuple(np.float64(c) for c in reversed(coefficients[:-1]))

    @device
    def polynomial(x):
        value = highest
        for coefficient in rest:
            value = add64(multiply64(value, x), coefficient)
        return value

    return polynomial


_exp_polynomial, _log_polynomial = _horner_of(elementary.EXP), _horner_of(elementary.LOG)
_tanh_polynomial = _horner_of(elementary.TANH)
_normal_p, _normal_q = _horner_of(elementary.NORMAL_P), _horner_of(elementary.NORMAL_Q)


@device
def exp64(x):
    x = -LIMIT if x < -LIMIT else LIMIT if x > LIMIT else x
    n = subtract64(add64(multiply64(x, LOG2E), ROUNDER), ROUNDER)
    r = subtract64(subtract64(x, multiply64(n, LN2_HIGH)), multiply64(n, LN2_LOW))
    y = add64(ONE, add64(r, multiply64(multiply64(r, r), _exp_polynomial(r))))
    return multiply64(y, from_bits64((np.int64(n) + 1023) << 52))


@device
def log64(x):
    """For positive finite x."""
    u = bits64(x) - ROOT_HALF
    e = np.float64(u >> 52)
    m = from_bits64((u & MANTISSA) + ROOT_HALF)
    s = divide64(subtract64(m, ONE), add64(m, ONE))
    z, t = multiply64(s, s), multiply64(TWO, s)
    near = add64(t, multiply64(multiply64(t, z), _log_polynomial(z)))
    return add64(multiply64(e, LN2_HIGH), add64(near, multiply64(e, LN2_LOW)))


@device
def tanh64(x):
    a = -x if x < 0 else x
    if a < QUARTER:
        z = multiply64(x, x)
        return add64(x, multiply64(multiply64(x, z), _tanh_polynomial(z)))
    a = TWENTY if a > TWENTY else a
    e = exp64(add64(a, a))
    y = divide64(subtract64(e, ONE), add64(e, ONE))
    return -y if x < 0 else y


@device
def sigmoid64(x):
    return divide64(ONE, add64(ONE, exp64(-x)))


@device
def normal64(x):
    """(c, cdf, e): x clamped to [-16, 16], the normal distribution's cdf there, and exp(-c**2 / 2)."""
    c = -FAR if x < -FAR else FAR if x > FAR else x
    a = -c if c < 0 else c
    e = exp64(-multiply64(HALF, multiply64(a, a)))
    tail = multiply64(e, divide64(_normal_p(a), _normal_q(a)))
    return c, tail if x < 0 else subtract64(ONE, tail), e


@device
def gelu64(x):
    c, cdf, _ = normal64(x)
    return multiply64(x if x > FAR else c, cdf)


@device
def gelu_slope64(x):
    c, cdf, e = normal64(x)
    return add64(cdf, multiply64(multiply64(c, e), DENSITY))


@device
def silu64(x):
    return divide64(x, add64(ONE, exp64(-x)))


@device
def silu_slope64(x):
    s = sigmoid64(x)
    return multiply64(s, add64(ONE, multiply64(x, subtract64(ONE, s))))
