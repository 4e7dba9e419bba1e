"""exp, log, tanh, sigmoid, GELU, SiLU and a cosine by fixed polynomials: kernels/CONTRACT.md, rule 6.

Every step is one float64 multiplication, addition or division in the order written, Horner from the highest
coefficient, so every machine gets the same float64, and after one rounding the same float32. NumPy's and libm's
functions are not used: their bits depend on the processor and the version.
"""

import numpy as np

from gpucnn.arithmetic.fma import float32_array

LOG2E = float.fromhex("0x1.71547652b82fep+0")
LN2_HIGH = float.fromhex("0x1.62e42fef00000p-1")  # its last bits are zero: n * LN2_HIGH is exact
LN2_LOW = float.fromhex("0x1.473de6af278edp-34")
HALF_PI_HIGH = float.fromhex("0x1.921fb54442d18p+0")
HALF_PI_LOW = float.fromhex("0x1.1a62633145c07p-54")
SQRT_HALF_BITS = np.int64(0x3FE6A09E667F3BCD)  # the bits of sqrt(1/2)
MANTISSA = np.int64(0xFFFFFFFFFFFFF)

# Coefficients, lowest power first.
EXP = [
    float.fromhex(c)
    for c in (
        "0x1.000000000000ap-1",
        "0x1.55555555554fap-3",
        "0x1.555555555087dp-5",
        "0x1.1111111127bc1p-7",
        "0x1.6c16c1842a00ap-10",
        "0x1.a01a012a64523p-13",
        "0x1.a0199a0c94617p-16",
        "0x1.71df2535a4da6p-19",
        "0x1.28ad72a6a53bbp-22",
        "0x1.ad7f9ca208a8ep-26",
    )
]
LOG = [
    float.fromhex(c)
    for c in (
        "0x1.5555555555593p-2",
        "0x1.999999997fb33p-3",
        "0x1.249249421789fp-3",
        "0x1.c71c51e80b987p-4",
        "0x1.7466462835d23p-4",
        "0x1.39a0f576523a8p-4",
        "0x1.2f0d89e6e495fp-4",
    )
]
TANH = [
    float.fromhex(c)
    for c in (
        "-0x1.5555555555555p-2",
        "0x1.1111111110e04p-3",
        "-0x1.ba1ba1b994262p-5",
        "0x1.664f4827c7387p-6",
        "-0x1.226e138728f92p-7",
        "0x1.d6c51cb5ec085p-9",
        "-0x1.7bc6eb005c921p-10",
        "0x1.148ea0b308461p-11",
    )
]
SINE = [
    float.fromhex(c)
    for c in (  # Taylor's (-1)**k / (2k + 1)!, k = 1 .. 10, each rounded to float64
        "-0x1.5555555555555p-3",
        "0x1.1111111111111p-7",
        "-0x1.a01a01a01a01ap-13",
        "0x1.71de3a556c734p-19",
        "-0x1.ae64567f544e4p-26",
        "0x1.6124613a86d09p-33",
        "-0x1.ae7f3e733b81fp-41",
        "0x1.952c77030ad4ap-49",
        "-0x1.2f49b46814157p-57",
        "0x1.71b8ef6dcf572p-66",
    )
]

# exp(a**2 / 2) * Phi(-a) = P(a) / Q(a) for 0 <= a <= 16, Phi being the normal distribution's cdf.
NORMAL_P = [
    float.fromhex(c)
    for c in (
        "0x1.0000000000001p-1",
        "0x1.61bc5dcad9e2ap-1",
        "0x1.e49f5a0991d7ep-2",
        "0x1.a10760ffabb3fp-3",
        "0x1.e74eeb4354547p-5",
        "0x1.8a2b7c3d0e054p-7",
        "0x1.af6744aa30891p-10",
        "0x1.25b7ec211672ep-13",
        "0x1.81d2790926b50p-18",
    )
]
NORMAL_Q = [
    float.fromhex(c)
    for c in (
        "0x1.0000000000000p+0",
        "0x1.16ff43b4bdd0fp+1",
        "0x1.17c35ba1a3314p+1",
        "0x1.53c89826eed94p+0",
        "0x1.1469d6b5d60a3p-1",
        "0x1.39c39faba3a40p-3",
        "0x1.f3c5479d5fc80p-6",
        "0x1.0f495308f628dp-8",
        "0x1.701f199349491p-12",
        "0x1.e38e6e03c3997p-17",
    )
]
DENSITY = float.fromhex("0x1.9884533d43651p-2")  # 1 / sqrt(2 pi)


def horner(coefficients: list[float], z: np.ndarray) -> np.ndarray:
    """c[0] + z * (c[1] + z * (c[2] + ...)), one multiplication and one addition per step."""
    result = np.full_like(z, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        result = result * z + coefficient
    return result


def exp64(x) -> np.ndarray:
    """exp of float64 values that hold float32 ones (or twice such), before the rounding to float32."""
    x = np.asarray(x, np.float64)
    x = np.where(x < -200.0, -200.0, np.where(x > 200.0, 200.0, x))
    with np.errstate(invalid="ignore"):  # NaN converts to no integer; r is NaN then, whatever the power of two
        n = np.rint(x * LOG2E)
        power = ((n.astype(np.int64) + 1023) << 52).view(np.float64)
        r = (x - n * LN2_HIGH) - n * LN2_LOW
        return (1.0 + (r + (r * r) * horner(EXP, r))) * power


def log64(x) -> np.ndarray:
    """Natural logarithm of positive finite float64 values; -inf at 0, NaN below, inf at inf."""
    x = np.asarray(x, np.float64)
    offset = x.view(np.int64) - SQRT_HALF_BITS
    e = (offset >> 52).astype(np.float64)
    m = ((offset & MANTISSA) + SQRT_HALF_BITS).view(np.float64)  # in [sqrt(1/2), sqrt(2))
    s = (m - 1.0) / (m + 1.0)
    z, t = s * s, 2.0 * s
    result = e * LN2_HIGH + ((t + (t * z) * horner(LOG, z)) + e * LN2_LOW)
    return np.where((x > 0) & (x < np.inf), result, np.where(x == 0, -np.inf, np.where(x > 0, np.inf, np.nan)))


def tanh64(x) -> np.ndarray:
    """Hyperbolic tangent of float64 values that hold float32 ones, before the rounding to float32."""
    x = np.asarray(x, np.float64)
    magnitude = np.abs(x)
    near = np.where(magnitude < 0.25, x, 0.0)  # the polynomial is only evaluated where it holds
    z = near * near
    small = near + (near * z) * horner(TANH, z)
    capped = np.where(magnitude > 20.0, 20.0, magnitude)
    e = exp64(capped + capped)
    return np.where(magnitude < 0.25, small, np.copysign((e - 1.0) / (e + 1.0), x))


def sigmoid64(x) -> np.ndarray:
    """1 / (1 + exp(-x)) of float64 values that hold float32 ones, before the rounding to float32."""
    return 1.0 / (1.0 + exp64(-np.asarray(x, np.float64)))


def normal_cdf64(x) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(c, cdf, e) of float64 values that hold float32 ones: x clamped to [-16, 16], Phi(c), and exp(-c**2 / 2).

    Phi(-a) = e * P(a) / Q(a) keeps its relative accuracy however far out in the tail. The rational approximation is a
    least-squares fit in 90 digits at Chebyshev points of (a - 2) / (a + 2), reweighted towards the least largest
    relative error (Lawson); its coefficients rounded to float64 leave 2.8e-16. All are positive, and so is a: Horner's
    additions cancel nothing, and P / Q is within 35 * 2**-53 of the exact quotient.
    """
    x = np.asarray(x, np.float64)
    c = np.where(x < -16.0, -16.0, np.where(x > 16.0, 16.0, x))
    a = np.abs(c)
    e = exp64(-(0.5 * (a * a)))  # the argument is exact: a has 24 bits
    tail = e * (horner(NORMAL_P, a) / horner(NORMAL_Q, a))
    return c, np.where(x < 0, tail, 1.0 - tail), e


def gelu64(x) -> np.ndarray:
    """x * Phi(x), GELU as Hendrycks and Gimpel 2016 define it, before the rounding to float32."""
    x = np.asarray(x, np.float64)
    c, cdf, _ = normal_cdf64(x)
    return np.where(x > 16.0, x, c) * cdf


def gelu_slope64(x) -> np.ndarray:
    """GELU's derivative, Phi(x) + x * phi(x) with phi the normal density, before the rounding to float32."""
    c, cdf, e = normal_cdf64(x)
    return cdf + (c * e) * DENSITY


def silu64(x) -> np.ndarray:
    """x / (1 + exp(-x)), SiLU or swish, before the rounding to float32."""
    x = np.asarray(x, np.float64)
    return x / (1.0 + exp64(-x))


def silu_slope64(x) -> np.ndarray:
    """SiLU's derivative, s * (1 + x * (1 - s)) with s the sigmoid of x, before the rounding to float32."""
    x = np.asarray(x, np.float64)
    s = 1.0 / (1.0 + exp64(-x))
    return s * (1.0 + x * (1.0 - s))


def cos64(x) -> np.ndarray:
    """Cosine of float64 values in [0, pi], for schedules; absolute error below 3e-16, exactly 1 at 0 and -1 at pi.

    cos(x) = -sin(t) with t = x - pi/2 in [-pi/2, pi/2], and Taylor's series of the sine to t**21, whose next term is at
    most (pi/2)**23 / 23! = 1.3e-18.
    """
    t = (np.asarray(x, np.float64) - HALF_PI_HIGH) - HALF_PI_LOW
    z = t * t
    return -(t + (t * z) * horner(SINE, z))


def _to_float32(function64, x) -> np.ndarray:
    values = float32_array(x, "x").astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(function64(values)).astype(np.float32) + np.float32(0)  # -0 becomes +0


def exp(x) -> np.ndarray:
    """exp, float32 to float32, correctly rounded for every value measured. DTypeError for other types."""
    return _to_float32(exp64, x)


def log(x) -> np.ndarray:
    """Natural logarithm, float32 to float32; -inf at 0, NaN below. DTypeError for other types."""
    return _to_float32(log64, x)


def tanh(x) -> np.ndarray:
    """Hyperbolic tangent, float32 to float32, +0 at -0. DTypeError for other types."""
    return _to_float32(tanh64, x)


def sigmoid(x) -> np.ndarray:
    """1 / (1 + exp(-x)), float32 to float32. DTypeError for other types."""
    return _to_float32(sigmoid64, x)


def gelu(x) -> np.ndarray:
    """x * Phi(x), float32 to float32, Phi the normal distribution's cdf. DTypeError for other types.

    Within 1/2 + 2**-22 units in the last place, the negative tail down to the subnormals included: float64 errors are
    at most 50 * 2**-53 of the value (35 of P / Q, the rest of the fit, exp and four operations), or 50 * 2**-29 units.
    """
    return _to_float32(gelu64, x)


def gelu_slope(x) -> np.ndarray:
    """GELU's derivative, float32 to float32. DTypeError for other types."""
    return _to_float32(gelu_slope64, x)


def silu(x) -> np.ndarray:
    """x / (1 + exp(-x)), float32 to float32. DTypeError for other types."""
    return _to_float32(silu64, x)


def silu_slope(x) -> np.ndarray:
    """SiLU's derivative, float32 to float32. DTypeError for other types."""
    return _to_float32(silu_slope64, x)
