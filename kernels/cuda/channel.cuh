// Batch norm of a value, once the statistics are known (rule 5).
#pragma once
#include "common.cuh"

// A channel's constants. xhat = (x - mean) * inv and y = fma(gamma, xhat, beta).
struct Channel {
  float centre, inv, scale, shift;

  DEVICE Channel(float mean, float var, float gamma, float beta, float eps)
      : centre(mean), inv(inverse_deviation(var, eps)), scale(gamma), shift(beta) {}
  DEVICE Channel(int c, const float* mean, const float* var, const float* gamma, const float* beta, float eps)
      : Channel(mean[c], var[c], gamma[c], beta[c], eps) {}
  DEVICE float xhat(float x) const { return __fmul_rn(__fsub_rn(x, centre), inv); }
  DEVICE float y(float xhat) const { return __fmaf_rn(scale, xhat, shift); }
};

// What a convolution's values go through before anything is added to them: nothing, or batch norm with the statistics
// of Norm, whose arrays are (C,).
struct Norm {
  const float *mean, *var, *gamma, *beta;
  float eps;
};
struct Unchanged {
  DEVICE Unchanged(const Norm&, int) {}
  DEVICE float operator()(float v) const { return v; }
};
struct Normed {
  const Channel channel;
  DEVICE Normed(const Norm& norm, int c) : channel(c, norm.mean, norm.var, norm.gamma, norm.beta, norm.eps) {}
  DEVICE float operator()(float v) const { return channel.y(channel.xhat(v)); }
};
