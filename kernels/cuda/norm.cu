// Batch norm, bias gradients and the mean of a map (rules 4 and 5).
//
// Two kinds of kernels. Sums over a channel run as in sums.cuh: a warp per band, the last block of a channel finishes.
// The others take a map each, (block, channel), one value per thread and turn; a map's channel is its number modulo C;
// per-channel values are computed once per thread. Their launch: grid (blocks * C, parts of a map), 256 threads.
#include "sums.cuh"

DEVICE bool first_thread() { return threadIdx.x == 0 && threadIdx.y == 0; }

// ---- sums over a channel: grid (C, parts), block (32, 8) ----------------------------------------------------------

// out (C,) = the sum of dy.
__global__ void __launch_bounds__(LANES * SUM_WARPS)
    bias_gradient(const float* dy, float* out, int images, int blocks, int positions, int band, double* part,
                  unsigned* counters) {
  double sum[1];
  auto terms = [&](i64 i, double* to) { to[0] = __dadd_rn(to[0], double(dy[i])); };
  if (channel_sums<1>(terms, Maps{images, blocks, positions, band}, part, counters, sum) && first_thread())
    out[blockIdx.x] = __fadd_rn(__double2float_rn(sum[0]), 0.0f);
}

// mean64 and mean (C,) of x.
__global__ void __launch_bounds__(LANES * SUM_WARPS)
    batch_norm_mean(const float* x, double* mean64, float* mean, int images, int blocks, int positions, int band,
                    double* part, unsigned* counters) {
  const Maps maps{images, blocks, positions, band};
  double sum[1];
  auto terms = [&](i64 i, double* to) { to[0] = __dadd_rn(to[0], double(x[i])); };
  if (channel_sums<1>(terms, maps, part, counters, sum) && first_thread()) {
    const double value = __ddiv_rn(sum[0], maps.count());
    mean64[blockIdx.x] = value;
    mean[blockIdx.x] = __double2float_rn(value);
  }
}

// var and unbiased var (C,) of x around mean64.
__global__ void __launch_bounds__(LANES * SUM_WARPS)
    batch_norm_variance(const float* x, const double* mean64, float* var, float* unbiased, int images, int blocks,
                        int positions, int band, double* part, unsigned* counters) {
  const Maps maps{images, blocks, positions, band};
  const double centre = mean64[blockIdx.x];
  double sum[1];
  auto terms = [&](i64 i, double* to) {
    const double d = __dsub_rn(double(x[i]), centre);
    to[0] = __dadd_rn(to[0], __dmul_rn(d, d));
  };
  if (channel_sums<1>(terms, maps, part, counters, sum) && first_thread()) {
    const double count = maps.count(), value = __ddiv_rn(sum[0], count);
    var[blockIdx.x] = __double2float_rn(value);
    const double others = count > 2.0 ? __dsub_rn(count, 1.0) : 1.0;
    unbiased[blockIdx.x] = __double2float_rn(__ddiv_rn(__dmul_rn(value, count), others));
  }
}

// dgamma and dbeta (C,), and their means over all values of the channel, which dx needs.
__global__ void __launch_bounds__(LANES * SUM_WARPS)
    batch_norm_sums(const float* dy, const float* x, const float* mean, const float* var, float eps, float* dgamma,
                    float* dbeta, float* gamma_mean, float* beta_mean, int images, int blocks, int positions, int band,
                    double* part, unsigned* counters) {
  const Maps maps{images, blocks, positions, band};
  const int c = blockIdx.x;
  const float centre = mean[c], inv = inverse_deviation(var[c], eps);
  double sum[2];
  auto terms = [&](i64 i, double* to) {
    const double d = double(dy[i]);
    const float xhat = __fmul_rn(__fsub_rn(x[i], centre), inv);
    to[0] = __dadd_rn(to[0], __dmul_rn(d, double(xhat)));
    to[1] = __dadd_rn(to[1], d);
  };
  if (channel_sums<2>(terms, maps, part, counters, sum) && first_thread()) {
    dgamma[c] = __fadd_rn(__double2float_rn(sum[0]), 0.0f);
    dbeta[c] = __fadd_rn(__double2float_rn(sum[1]), 0.0f);
    gamma_mean[c] = __double2float_rn(__ddiv_rn(sum[0], maps.count()));
    beta_mean[c] = __double2float_rn(__ddiv_rn(sum[1], maps.count()));
  }
}

// ---- map by map: grid (blocks * C, parts), 256 threads ------------------------------------------------------------

// Calls f(element) for every element of this thread's map.
template <class F> DEVICE void over_map(int positions, F f) {
  const i64 start = i64(blockIdx.x) * positions * LANES;
  for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < positions * LANES; i += gridDim.y * blockDim.x) f(start + i);
}

// y = fma(gamma, (x - mean) * inv, beta)
__global__ void __launch_bounds__(256)
    batch_norm(const float* x, const float* mean, const float* var, const float* gamma, const float* beta, float eps,
               float* y, int C, int positions, int relu) {
  const int c = blockIdx.x % C;
  const float centre = mean[c], inv = inverse_deviation(var[c], eps), scale = gamma[c], shift = beta[c];
  over_map(positions, [&](i64 i) {
    const float v = __fmaf_rn(scale, __fmul_rn(__fsub_rn(x[i], centre), inv), shift);
    y[i] = relu ? rectified(v) : v;
  });
}

// dx = (gamma * inv) * fma(-xhat, gamma_mean, dy - beta_mean); padding images get +0.
__global__ void __launch_bounds__(256)
    batch_norm_gradient(const float* dy, const float* x, const float* mean, const float* var, const float* gamma,
                        float eps, const float* gamma_mean, const float* beta_mean, float* dx, int images, int C,
                        int positions) {
  const int c = blockIdx.x % C;
  const float centre = mean[c], inv = inverse_deviation(var[c], eps), scale = __fmul_rn(gamma[c], inv);
  const float a = beta_mean[c], b = gamma_mean[c];
  const bool there = present(blockIdx.x / C, threadIdx.x % LANES, images);
  over_map(positions, [&](i64 i) {
    const float xhat = __fmul_rn(__fsub_rn(x[i], centre), inv);
    const float v = __fmul_rn(scale, __fmaf_rn(-xhat, b, __fsub_rn(dy[i], a)));
    dx[i] = there ? v : 0.0f;
  });
}

// dx = dy * (gamma * inv), where the statistics are constants.
__global__ void __launch_bounds__(256) batch_norm_input_gradient(const float* dy, const float* var, const float* gamma,
                                                                 float eps, float* dx, int C, int positions) {
  const int c = blockIdx.x % C;
  const float scale = __fmul_rn(gamma[c], inverse_deviation(var[c], eps));
  over_map(positions, [&](i64 i) { dx[i] = __fmul_rn(dy[i], scale); });
}

// y (maps, 32) = the mean of each map: bands in order, then the tree over them. One warp per map, 8 warps per block.
__global__ void __launch_bounds__(LANES * 8)
                                      global_avg_pool(const float* x, float* y, int maps, int positions, int band) {
  const i64 map = i64(blockIdx.x) * 8 + threadIdx.y;
  if (map >= maps) return;
  const float* values = x + map * positions * LANES + threadIdx.x;
  Tree<double> tree;
  int bands = 0;
  for (int first = 0; first < positions; first += band) {
    const int last = least(first + band, positions);
    double sum = 0.0;
#pragma unroll 4
    for (int p = first; p < last; p++) sum = __dadd_rn(sum, double(values[i64(p) * LANES]));
    tree.push(bands++, sum);
  }
  y[map * LANES + threadIdx.x] = __fadd_rn(__double2float_rn(__ddiv_rn(tree.total(bands), double(positions))), 0.0f);
}

// dx (maps, positions, 32) = dy (maps, 32) / positions.
__global__ void __launch_bounds__(256) global_avg_pool_gradient(const float* dy, float* dx, int positions) {
  const float share = __fdiv_rn(dy[i64(blockIdx.x) * LANES + threadIdx.x % LANES], float(positions));
  over_map(positions, [&](i64 i) { dx[i] = share; });
}
