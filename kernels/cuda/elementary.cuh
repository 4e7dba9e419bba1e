// exp, log, tanh, sigmoid, GELU and SiLU in float64, before their one rounding to float32 (rule 6): the polynomials of
// CONTRACT.md by Horner, a separate multiplication and addition each. Library functions change bits with their version.
#pragma once
#include "common.cuh"

namespace elementary {

constexpr double LOG2E = 0x1.71547652b82fep+0, LN2_HIGH = 0x1.62e42fef00000p-1, LN2_LOW = 0x1.473de6af278edp-34;
// Adding and taking away 1.5 * 2**52 rounds a small float64 to a whole number, ties to even.
constexpr double ROUNDER = 0x1.8p52;
constexpr i64 SQRT_HALF = 0x3fe6a09e667f3bcdll;  // the bits of sqrt(1/2)
constexpr i64 FRACTION = 0xfffffffffffffll;

DEVICE double horner(double, double p) { return p; }
// horner(z, c[last], ..., c[1], c[0]) = c[0] + z (c[1] + z (...)).
template <class... Rest> DEVICE double horner(double z, double p, double c, Rest... rest) {
  return horner(z, __dadd_rn(__dmul_rn(p, z), c), rest...);
}

DEVICE double exp64(double x) {
  x = x < -200.0 ? -200.0 : x > 200.0 ? 200.0 : x;
  const double n = __dsub_rn(__dadd_rn(__dmul_rn(x, LOG2E), ROUNDER), ROUNDER);
  const double r = __dsub_rn(__dsub_rn(x, __dmul_rn(n, LN2_HIGH)), __dmul_rn(n, LN2_LOW));
  const double p = horner(r, 0x1.ad7f9ca208a8ep-26, 0x1.28ad72a6a53bbp-22, 0x1.71df2535a4da6p-19, 0x1.a0199a0c94617p-16,
                          0x1.a01a012a64523p-13, 0x1.6c16c1842a00ap-10, 0x1.1111111127bc1p-7, 0x1.555555555087dp-5,
                          0x1.55555555554fap-3, 0x1.000000000000ap-1);
  const double y = __dadd_rn(1.0, __dadd_rn(r, __dmul_rn(__dmul_rn(r, r), p)));
  return __dmul_rn(y, __longlong_as_double((i64(n) + 1023) << 52));
}

// For positive finite x.
DEVICE double log64(double x) {
  const i64 u = __double_as_longlong(x) - SQRT_HALF;
  const double e = __ll2double_rn(u >> 52);
  const double m = __longlong_as_double((u & FRACTION) + SQRT_HALF);
  const double s = __ddiv_rn(__dsub_rn(m, 1.0), __dadd_rn(m, 1.0));
  const double z = __dmul_rn(s, s), t = __dmul_rn(2.0, s);
  const double p = horner(z, 0x1.2f0d89e6e495fp-4, 0x1.39a0f576523a8p-4, 0x1.7466462835d23p-4, 0x1.c71c51e80b987p-4,
                          0x1.249249421789fp-3, 0x1.999999997fb33p-3, 0x1.5555555555593p-2);
  const double l = __dadd_rn(t, __dmul_rn(__dmul_rn(t, z), p));
  return __dadd_rn(__dmul_rn(e, LN2_HIGH), __dadd_rn(l, __dmul_rn(e, LN2_LOW)));
}

DEVICE double tanh64(double x) {
  const double a = x < 0.0 ? -x : x;
  if (a < 0.25) {
    const double z = __dmul_rn(x, x);
    const double p =
        horner(z, 0x1.148ea0b308461p-11, -0x1.7bc6eb005c921p-10, 0x1.d6c51cb5ec085p-9, -0x1.226e138728f92p-7,
               0x1.664f4827c7387p-6, -0x1.ba1ba1b994262p-5, 0x1.1111111110e04p-3, -0x1.5555555555555p-2);
    return __dadd_rn(x, __dmul_rn(__dmul_rn(x, z), p));
  }
  const double capped = a > 20.0 ? 20.0 : a;
  const double e = exp64(__dadd_rn(capped, capped));
  const double y = __ddiv_rn(__dsub_rn(e, 1.0), __dadd_rn(e, 1.0));
  return x < 0.0 ? -y : y;
}

DEVICE double sigmoid64(double x) { return __ddiv_rn(1.0, __dadd_rn(1.0, exp64(-x))); }

// c is x clamped to [-16, 16], cdf the normal distribution's there, e = exp(-c**2 / 2).
struct Normal { double c, cdf, e; };
DEVICE Normal normal64(double x) {
  const double c = x < -16.0 ? -16.0 : x > 16.0 ? 16.0 : x, a = c < 0.0 ? -c : c;
  const double e = exp64(-__dmul_rn(0.5, __dmul_rn(a, a)));
  const double p = horner(a, 0x1.81d2790926b50p-18, 0x1.25b7ec211672ep-13, 0x1.af6744aa30891p-10, 0x1.8a2b7c3d0e054p-7,
                          0x1.e74eeb4354547p-5, 0x1.a10760ffabb3fp-3, 0x1.e49f5a0991d7ep-2, 0x1.61bc5dcad9e2ap-1,
                          0x1.0000000000001p-1);
  const double q = horner(a, 0x1.e38e6e03c3997p-17, 0x1.701f199349491p-12, 0x1.0f495308f628dp-8, 0x1.f3c5479d5fc80p-6,
                          0x1.39c39faba3a40p-3, 0x1.1469d6b5d60a3p-1, 0x1.53c89826eed94p+0, 0x1.17c35ba1a3314p+1,
                          0x1.16ff43b4bdd0fp+1, 0x1.0000000000000p+0);
  const double tail = __dmul_rn(e, __ddiv_rn(p, q));
  return {c, x < 0.0 ? tail : __dsub_rn(1.0, tail), e};
}

DEVICE double gelu64(double x) {
  const Normal n = normal64(x);
  return __dmul_rn(x > 16.0 ? x : n.c, n.cdf);
}
DEVICE double gelu_slope64(double x) {
  const Normal n = normal64(x);
  return __dadd_rn(n.cdf, __dmul_rn(__dmul_rn(n.c, n.e), 0x1.9884533d43651p-2));  // 1 / sqrt(2 pi)
}

DEVICE double silu64(double x) { return __ddiv_rn(x, __dadd_rn(1.0, exp64(-x))); }
DEVICE double silu_slope64(double x) {
  const double s = sigmoid64(x);
  return __dmul_rn(s, __dadd_rn(1.0, __dmul_rn(x, __dsub_rn(1.0, s))));
}

DEVICE float rounded_exp(float x) { return __double2float_rn(exp64(x)); }
DEVICE float rounded_log(float x) { return __double2float_rn(log64(x)); }
DEVICE float rounded_tanh(float x) { return __fadd_rn(__double2float_rn(tanh64(x)), 0.0f); }
DEVICE float rounded_sigmoid(float x) { return __double2float_rn(sigmoid64(x)); }
DEVICE float rounded_gelu(float x) { return __fadd_rn(__double2float_rn(gelu64(x)), 0.0f); }
DEVICE float rounded_gelu_slope(float x) { return __fadd_rn(__double2float_rn(gelu_slope64(x)), 0.0f); }
DEVICE float rounded_silu(float x) { return __fadd_rn(__double2float_rn(silu64(x)), 0.0f); }
DEVICE float rounded_silu_slope(float x) { return __fadd_rn(__double2float_rn(silu_slope64(x)), 0.0f); }

}  // namespace elementary
