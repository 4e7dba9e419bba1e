// Activations and their gradients, one value at a time (rules 6 and 7).
#pragma once
#include "elementary.cuh"

// Each operation: its value, and its gradient from dy and what is saved; both also of the operation's settings.
namespace operations {

struct relu {
  static DEVICE float value(float x) { return rectified(x); }
  static DEVICE float gradient(float dy, float y) { return y > 0.0f ? dy : 0.0f; }
};

struct tanh {
  static DEVICE float value(float x) { return elementary::rounded_tanh(x); }
  static DEVICE float gradient(float dy, float y) { return __fmul_rn(dy, __fmaf_rn(-y, y, 1.0f)); }
};

struct sigmoid {
  static DEVICE float value(float x) { return elementary::rounded_sigmoid(x); }
  static DEVICE float gradient(float dy, float y) { return __fmul_rn(dy, __fmul_rn(y, __fsub_rn(1.0f, y))); }
};

struct leaky_relu {
  static DEVICE float value(float x, float slope) { return x > 0.0f ? x : __fadd_rn(__fmul_rn(slope, x), 0.0f); }
  static DEVICE float gradient(float dy, float x, float slope) { return x > 0.0f ? dy : __fmul_rn(slope, dy); }
};

struct gelu {
  static DEVICE float value(float x) { return elementary::rounded_gelu(x); }
  static DEVICE float gradient(float dy, float x) { return __fmul_rn(dy, elementary::rounded_gelu_slope(x)); }
};

struct silu {
  static DEVICE float value(float x) { return elementary::rounded_silu(x); }
  static DEVICE float gradient(float dy, float x) { return __fmul_rn(dy, elementary::rounded_silu_slope(x)); }
};

}  // namespace operations
