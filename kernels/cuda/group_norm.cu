// Group norm and layer norm (rules 4 and 5): statistics of each image's groups of channels, and what is done with them.
//
// The values of a group of channels follow one another in memory, so a group of a block of images is a line of
// `length` values in 32 lanes. Sums over lines stay within an image: a block of threads takes a line, each of its warps
// an aligned power of two of bands of 64 values, a thread being one image, and the warps' sums meet in shared memory.
// So both passes of the statistics are one launch, and the order is the rule's. What is done value by value is flat: one
// thread per value, neighbors side by side; the map of value i is i / (positions * 32), its channel that modulo C, its
// line that over C / G, the channels of a group.
#include "lines.cuh"

// mean and var (lines, 32) of x (lines, length, 32). Launch: grid (lines), block (32, LINE_WARPS).
template <int LEVELS>
__global__ void __launch_bounds__(LANES * LINE_WARPS)
    group_norm_statistics(const float* x, float* mean, float* var, int length) {
  __shared__ double sums[1][LINE_WARPS][LANES];
  const float* values = x + i64(blockIdx.x) * length * LANES + threadIdx.x;
  double sum[1];
  auto plain = [&](int i, double* to) { to[0] = __dadd_rn(to[0], double(values[i64(i) * LANES])); };
  line_sums<1, LEVELS>(plain, length, sums, sum);
  const double centre = __ddiv_rn(sum[0], double(length));
  auto squares = [&](int i, double* to) {
    const double d = __dsub_rn(double(values[i64(i) * LANES]), centre);
    to[0] = __dadd_rn(to[0], __dmul_rn(d, d));
  };
  line_sums<1, LEVELS>(squares, length, sums, sum);
  if (threadIdx.y) return;
  const i64 to = i64(blockIdx.x) * LANES + threadIdx.x;
  mean[to] = __double2float_rn(centre);
  var[to] = __double2float_rn(__ddiv_rn(sum[0], double(length)));
}

// y = fma(gamma, (x - mean) * inv, beta), one thread per value. gamma and beta may be null: 1 and 0.
__global__ void __launch_bounds__(256)
    group_norm(const float* x, const float* mean, const float* var, const float* gamma, const float* beta, float eps,
               float* y, int C, int channels, int positions, int relu, i64 size) {
  const i64 i = thread_number();
  if (i >= size) return;
  const i64 map = i / (i64(positions) * LANES), line = map / channels * LANES + i % LANES;
  const int c = int(map % C);
  const float inv = inverse_deviation(var[line], eps);
  const float xhat = __fmul_rn(__fsub_rn(x[i], mean[line]), inv);
  const float v = __fmaf_rn(gamma ? gamma[c] : 1.0f, xhat, beta ? beta[c] : 0.0f);
  y[i] = relu ? rectified(v) : v;
}

// a and b, the means of gamma * dy and of that times xhat over each line, and inv: all (lines, 32). Launch: grid (lines),
// block (32, LINE_WARPS).
template <int LEVELS>
__global__ void __launch_bounds__(LANES * LINE_WARPS)
    group_norm_means(const float* dy, const float* x, const float* mean, const float* var, const float* gamma,
                     float eps, float* a, float* b, float* inv, int groups, int channels, int positions) {
  __shared__ double sums[2][LINE_WARPS][LANES];
  const int length = channels * positions, first = blockIdx.x % groups * channels;
  const i64 start = i64(blockIdx.x) * length * LANES + threadIdx.x, line = i64(blockIdx.x) * LANES + threadIdx.x;
  const float centre = mean[line], scale = inverse_deviation(var[line], eps);
  double sum[2];
  auto terms = [&](int i, double* to) {
    const i64 at = start + i64(i) * LANES;
    const double g = double(__fmul_rn(gamma ? gamma[first + i / positions] : 1.0f, dy[at]));
    const float xhat = __fmul_rn(__fsub_rn(x[at], centre), scale);
    to[0] = __dadd_rn(to[0], g);
    to[1] = __dadd_rn(to[1], __dmul_rn(g, double(xhat)));
  };
  line_sums<2, LEVELS>(terms, length, sums, sum);
  if (threadIdx.y) return;
  a[line] = __double2float_rn(__ddiv_rn(sum[0], double(length)));
  b[line] = __double2float_rn(__ddiv_rn(sum[1], double(length)));
  inv[line] = scale;
}

// dx = inv * fma(-xhat, b, gamma * dy - a), one thread per value.
__global__ void __launch_bounds__(256)
    group_norm_gradient(const float* dy, const float* x, const float* mean, const float* inv, const float* gamma,
                        const float* a, const float* b, float* dx, int C, int channels, int positions, i64 size) {
  const i64 i = thread_number();
  if (i >= size) return;
  const i64 map = i / (i64(positions) * LANES), line = map / channels * LANES + i % LANES;
  const float scale = inv[line], xhat = __fmul_rn(__fsub_rn(x[i], mean[line]), scale);
  const float g = __fmul_rn(gamma ? gamma[map % C] : 1.0f, dy[i]);
  dx[i] = __fmul_rn(scale, __fmaf_rn(-xhat, b[line], __fsub_rn(g, a[line])));
}

// dgamma and dbeta (C,), sums over images and positions. Launch: as sums.cuh says, grid (C, parts), block (32, 8).
__global__ void __launch_bounds__(LANES * SUM_WARPS)
    group_norm_parameter_gradients(const float* dy, const float* x, const float* mean, const float* inv, float* dgamma,
                                   float* dbeta, int groups, int channels, int images, int blocks, int positions,
                                   int band, double* part, unsigned* counters) {
  const int group = blockIdx.x / channels;
  const i64 image_block = i64(gridDim.x) * positions * LANES;
  double sum[2];
  auto terms = [&](Place at, double* to) {
    const i64 i = at.element;
    const i64 line = (i / image_block * groups + group) * LANES + threadIdx.x;
    const double d = double(dy[i]);
    const float xhat = __fmul_rn(__fsub_rn(x[i], mean[line]), inv[line]);
    to[0] = __dadd_rn(to[0], __dmul_rn(d, double(xhat)));
    to[1] = __dadd_rn(to[1], d);
  };
  if (!channel_sums<2, 4>(terms, Maps{images, blocks, positions, band}, part, counters, sum)) return;
  if (threadIdx.x || threadIdx.y) return;
  dgamma[blockIdx.x] = __fadd_rn(__double2float_rn(sum[0]), 0.0f);
  dbeta[blockIdx.x] = __fadd_rn(__double2float_rn(sum[1]), 0.0f);
}
