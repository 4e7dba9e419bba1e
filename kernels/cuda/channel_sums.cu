// Sums over a part of a batch in float64 (rules 3 and 4), for batches that several processes share.
//
// Launch: as sums.cuh says, grid (C, parts), block (32, SUM_WARPS). out (C,) float64.
#include "sums.cuh"

DEVICE bool first_thread() { return threadIdx.x == 0 && threadIdx.y == 0; }

// The sum of x.
__global__ void __launch_bounds__(LANES * SUM_WARPS)
    value_sums(const float* x, double* out, int images, int blocks, int positions, int band, double* part,
               unsigned* counters) {
  double sum[1];
  auto terms = [&](Place at, double* to) { to[0] = __dadd_rn(to[0], double(x[at.element])); };
  if (channel_sums<1>(terms, Maps{images, blocks, positions, band}, part, counters, sum) && first_thread())
    out[blockIdx.x] = sum[0];
}

// The sum of (x - center)**2, center (C,) float64.
__global__ void __launch_bounds__(LANES * SUM_WARPS)
    square_sums(const float* x, const double* center, double* out, int images, int blocks, int positions, int band,
                double* part, unsigned* counters) {
  const double middle = center[blockIdx.x];
  double sum[1];
  auto terms = [&](Place at, double* to) {
    const double d = __dsub_rn(double(x[at.element]), middle);
    to[0] = __dadd_rn(to[0], __dmul_rn(d, d));
  };
  if (channel_sums<1>(terms, Maps{images, blocks, positions, band}, part, counters, sum) && first_thread())
    out[blockIdx.x] = sum[0];
}

// The sum of x * y.
__global__ void __launch_bounds__(LANES * SUM_WARPS)
    product_sums(const float* x, const float* y, double* out, int images, int blocks, int positions, int band,
                 double* part, unsigned* counters) {
  double sum[1];
  auto terms = [&](Place at, double* to) {
    to[0] = __dadd_rn(to[0], __dmul_rn(double(x[at.element]), double(y[at.element])));
  };
  if (channel_sums<1>(terms, Maps{images, blocks, positions, band}, part, counters, sum) && first_thread())
    out[blockIdx.x] = sum[0];
}
