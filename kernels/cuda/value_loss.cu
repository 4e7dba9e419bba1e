// Losses of values against targets of the same shape, with their gradients (rule 8).
//
// An image's values, whatever their shape, are a line: bands of 64, summed in float64 as sums.cuh says, the gradient
// written on the way. So a loss is one launch: grid (1, parts), block (32, SUM_WARPS).
#include "elementary.cuh"
#include "sums.cuh"

struct Term {
  double loss;
  float slope;  // the gradient before the division by the number of values
};

DEVICE double magnitude(double d) { return d < 0.0 ? -d : d; }

struct mean_squared {
  static constexpr int UNROLL = 4;
  static DEVICE Term of(float x, float t, float) {
    const float d = __fsub_rn(x, t);
    return {__dmul_rn(double(d), double(d)), d};
  }
};

struct mean_absolute {
  static constexpr int UNROLL = 4;
  static DEVICE Term of(float x, float t, float) {
    const float d = __fsub_rn(x, t);
    return {magnitude(double(d)), d > 0.0f ? 1.0f : d < 0.0f ? -1.0f : 0.0f};
  }
};

struct huber {
  static constexpr int UNROLL = 4;
  static DEVICE Term of(float x, float t, float delta) {
    const float d = __fsub_rn(x, t);
    const double a = magnitude(double(d)), far = double(delta);
    const double loss = a > far ? __dmul_rn(far, __dsub_rn(a, __dmul_rn(0.5, far))) : __dmul_rn(0.5, __dmul_rn(a, a));
    return {loss, d < -delta ? -delta : d > delta ? delta : d};
  }
};

struct binary_cross_entropy {
  static constexpr int UNROLL = 1;
  static DEVICE Term of(float x, float t, float) {
    const double v = x, e = elementary::exp64(-magnitude(v));
    const double near = __dsub_rn(v > 0.0 ? v : 0.0, __dmul_rn(v, double(t))), sum = __dadd_rn(1.0, e);
    const double sigmoid = __ddiv_rn(v > 0.0 ? 1.0 : e, sum);
    return {__dadd_rn(near, elementary::log64(sum)), __double2float_rn(__dsub_rn(sigmoid, double(t)))};
  }
};

// loss (1,) = the mean; dx = the gradient, +0 in lanes without an image; totals (1,), if not null, gains the sum.
template <class Kind>
__global__ void __launch_bounds__(LANES * SUM_WARPS)
    value_loss(const float* x, const float* t, float* dx, float* loss, double* totals, int images, int blocks,
               int values, float scale, float delta, double* part, unsigned* counters) {
  const Maps maps{images, blocks, values, BAND};
  const bool in_last = present(blocks - 1, threadIdx.x, images);  // whether the last block has an image in this lane
  const i64 last = i64(blocks - 1) * values * LANES;
  double sum[1];
  auto terms = [&](Place at, double* to) {
    const i64 i = at.element;
    const Term term = Kind::of(x[i], t[i], delta);
    to[0] = __dadd_rn(to[0], term.loss);
    dx[i] = in_last || i < last ? __fmul_rn(term.slope, scale) : 0.0f;
  };
  if (channel_sums<1, Kind::UNROLL>(terms, maps, part, counters, sum) && threadIdx.x == 0 && threadIdx.y == 0) {
    loss[0] = __double2float_rn(__ddiv_rn(sum[0], maps.count()));
    if (totals) totals[0] = __dadd_rn(totals[0], sum[0]);
  }
}
