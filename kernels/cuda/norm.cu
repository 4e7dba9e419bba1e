// Batch norm, bias gradients and the mean of a map (rules 4 and 5).
//
// Two kinds of kernels. Sums over a channel run as in sums.cuh: a warp per band, the last block of a channel finishes.
// The others take a map each, (block, channel), one value per thread and turn; a map's channel is its number modulo C;
// per-channel values are computed once per thread. Their launch: grid (blocks * C, parts of a map), 256 threads.
#include "channel.cuh"
#include "sums.cuh"

DEVICE bool first_thread() { return threadIdx.x == 0 && threadIdx.y == 0; }

// Max pooling over windows of 2x2 that do not overlap, of maps `width` pixels wide: the taps of the maxima, and the
// sizes of the pooled maps.
struct Halving {
  const unsigned char* where;
  int width, pooled_height, pooled_width;

  // The element of the pooled maps whose maximum is at a place; -1 if there is none.
  DEVICE i64 source(Place at) const {
    const int h = at.position / width, w = at.position % width;
    if (h / 2 >= pooled_height || w / 2 >= pooled_width) return -1;
    const i64 i = ((at.map * pooled_height + h / 2) * pooled_width + w / 2) * LANES + threadIdx.x % LANES;
    return where[i] == h % 2 * 2 + w % 2 ? i : -1;
  }
};

// ---- sums over a channel: grid (C, parts), block (32, 8) ----------------------------------------------------------

// out (C,) = the sum of dy.
__global__ void __launch_bounds__(LANES * SUM_WARPS)
    bias_gradient(const float* __restrict__ dy, float* out, int images, int blocks, int positions, int band,
                  double* part, unsigned* counters) {
  double sum[1];
  auto terms = [&](Place at, double* to) { to[0] = __dadd_rn(to[0], double(dy[at.element])); };
  if (channel_sums<1>(terms, Maps{images, blocks, positions, band}, part, counters, sum) && first_thread())
    out[blockIdx.x] = __fadd_rn(__double2float_rn(sum[0]), 0.0f);
}

// The gradient before ReLU of a convolution, its ReLU and max pooling over windows of 2x2 that do not overlap, from dy
// (block, C, pooled_height, pooled_width, 32): dz is dy where the position was the maximum and above 0, else +0. out
// (C,), if not null, = the sum of dz, which is the bias's gradient.
__global__ void __launch_bounds__(LANES * SUM_WARPS, 2)
                                      conv_max_pool_gradient(const float* __restrict__ dy, const float* __restrict__ y,
                                                             Halving pool, float* __restrict__ dz, float* out,
                                                             int images, int blocks, int positions, int band,
                                                             double* part, unsigned* counters) {
  double sum[1];
  auto terms = [&](Place at, double* to) {
    const i64 from = pool.source(at);
    const float v = from >= 0 && y[from] > 0.0f ? __fadd_rn(0.0f, dy[from]) : 0.0f;
    dz[at.element] = v;
    to[0] = __dadd_rn(to[0], double(v));
  };
  if (channel_sums<1>(terms, Maps{images, blocks, positions, band}, part, counters, sum) && out && first_thread())
    out[blockIdx.x] = __fadd_rn(__double2float_rn(sum[0]), 0.0f);
}

// The running statistic of a channel moves toward the batch's: fma(momentum, value - running, running).
DEVICE void move_running(float* running, float value, float momentum) {
  if (running) *running = __fmaf_rn(momentum, __fsub_rn(value, *running), *running);
}

// The sums over the block's channel of x, and of (x - centre)**2.
template <int WARPS>
DEVICE bool sum_values(const float* x, Maps maps, double* part, unsigned* counters, double (&sum)[1]) {
  auto terms = [&](Place at, double* to) { to[0] = __dadd_rn(to[0], double(x[at.element])); };
  return channel_sums<1, 16, WARPS>(terms, maps, part, counters, sum);
}
template <int WARPS>
DEVICE bool sum_squares(const float* x, double centre, Maps maps, double* part, unsigned* counters, double (&sum)[1]) {
  auto terms = [&](Place at, double* to) {
    const double d = __dsub_rn(double(x[at.element]), centre);
    to[0] = __dadd_rn(to[0], __dmul_rn(d, d));
  };
  return channel_sums<1, 16, WARPS>(terms, maps, part, counters, sum);
}

DEVICE float unbiased_variance(double variance, double count) {
  const double others = count > 2.0 ? __dsub_rn(count, 1.0) : 1.0;
  return __double2float_rn(__ddiv_rn(__dmul_rn(variance, count), others));
}

// mean64 and mean (C,) of x; `running` (C,), if not null, moves toward the mean.
__global__ void __launch_bounds__(LANES* SUM_WARPS)
    batch_norm_mean(const float* __restrict__ x, double* mean64, float* mean, float* running, float momentum,
                    int images, int blocks, int positions, int band, double* part, unsigned* counters) {
  const Maps maps{images, blocks, positions, band};
  const int c = blockIdx.x;
  double sum[1];
  if (sum_values<SUM_WARPS>(x, maps, part, counters, sum) && first_thread()) {
    const double value = __ddiv_rn(sum[0], maps.count());
    mean64[c] = value;
    mean[c] = __double2float_rn(value);
    move_running(running ? running + c : nullptr, mean[c], momentum);
  }
}

// var and unbiased var (C,) of x around mean64; `running` (C,), if not null, moves toward the unbiased one.
__global__ void __launch_bounds__(LANES* SUM_WARPS)
    batch_norm_variance(const float* __restrict__ x, const double* mean64, float* var, float* unbiased, float* running,
                        float momentum, int images, int blocks, int positions, int band, double* part,
                        unsigned* counters) {
  const Maps maps{images, blocks, positions, band};
  const int c = blockIdx.x;
  double sum[1];
  if (sum_squares<SUM_WARPS>(x, mean64[c], maps, part, counters, sum) && first_thread()) {
    const double value = __ddiv_rn(sum[0], maps.count());
    var[c] = __double2float_rn(value);
    unbiased[c] = unbiased_variance(value, maps.count());
    move_running(running ? running + c : nullptr, unbiased[c], momentum);
  }
}

// ---- what comes after batch norm, and its gradient ----------------------------------------------------------------

// The gradient with respect to batch norm's output y at a place, from the gradient dy of what comes after it: nothing,
// ReLU, ReLU and max pooling, or an addition and ReLU with output `after`.
struct Nothing {
  static DEVICE float gradient(const float* dy, const float*, Place at, float, Halving) { return dy[at.element]; }
};
struct Relu {
  static DEVICE float gradient(const float* dy, const float*, Place at, float y, Halving) {
    return y > 0.0f ? dy[at.element] : 0.0f;
  }
};
struct ReluMaxPool {
  static DEVICE float gradient(const float* dy, const float*, Place at, float y, Halving pool) {
    const i64 from = pool.source(at);
    return from >= 0 && y > 0.0f ? __fadd_rn(0.0f, dy[from]) : 0.0f;
  }
};

struct ReluOfSum {
  static DEVICE float gradient(const float* dy, const float* after, Place at, float, Halving) {
    return after[at.element] > 0.0f ? dy[at.element] : 0.0f;
  }
};

// The sums over the block's channel of dy * xhat and of dy, dy being the gradient with respect to batch norm's output.
template <class After, int WARPS>
DEVICE bool sum_gradients(const float* dy, const float* after, const float* x, const Channel& channel, Halving pool,
                          Maps maps, double* part, unsigned* counters, double (&sum)[2]) {
  auto terms = [&](Place at, double* to) {
    const float xhat = channel.xhat(x[at.element]);
    const double d = double(After::gradient(dy, after, at, channel.y(xhat), pool));
    to[0] = __dadd_rn(to[0], __dmul_rn(d, double(xhat)));
    to[1] = __dadd_rn(to[1], d);
  };
  return channel_sums<2, 8, WARPS>(terms, maps, part, counters, sum);
}

// dx = (gamma * inv) * fma(-xhat, gamma_mean, dy - beta_mean) at a place; +0 for a padding image. `other`, if not null, =
// dy, which is the gradient of what was added to batch norm's output.
template <class After> struct Gradient {
  const float *dy, *after, *x;
  const Channel& channel;
  Halving pool;
  float gamma_mean, beta_mean;
  float *dx, *other;

  DEVICE void store(Place at, bool there) const {
    const float xhat = channel.xhat(x[at.element]), scale = __fmul_rn(channel.scale, channel.inv);
    const float d = After::gradient(dy, after, at, channel.y(xhat), pool);
    const float v = __fmul_rn(scale, __fmaf_rn(-xhat, gamma_mean, __fsub_rn(d, beta_mean)));
    dx[at.element] = there ? v : 0.0f;
    if (other) other[at.element] = d;
  }
};

// dgamma and dbeta (C,), and their means over all values of the channel, which dx needs.
template <class After>
__global__ void __launch_bounds__(LANES* SUM_WARPS)
    batch_norm_sums(const float* __restrict__ dy, const float* __restrict__ after, const float* __restrict__ x,
                    const float* mean, const float* var, const float* gamma, const float* beta, float eps, Halving pool,
                    float* dgamma, float* dbeta, float* gamma_mean, float* beta_mean, int images, int blocks,
                    int positions, int band, double* part, unsigned* counters) {
  const Maps maps{images, blocks, positions, band};
  const int c = blockIdx.x;
  const Channel channel(c, mean, var, gamma, beta, eps);
  double sum[2];
  if (sum_gradients<After, SUM_WARPS>(dy, after, x, channel, pool, maps, part, counters, sum) && first_thread()) {
    dgamma[c] = __fadd_rn(__double2float_rn(sum[0]), 0.0f);
    dbeta[c] = __fadd_rn(__double2float_rn(sum[1]), 0.0f);
    gamma_mean[c] = __double2float_rn(__ddiv_rn(sum[0], maps.count()));
    beta_mean[c] = __double2float_rn(__ddiv_rn(sum[1], maps.count()));
  }
}

// ---- small channels: a block of threads takes one alone, sums and all; grid (C,), block (32, ALONE) -----------------

constexpr int ALONE = 16;

// Calls f(place, block) for all values of the channel.
template <class F> DEVICE void over_channel(Maps maps, F f) {
#pragma unroll 8
  for (int unit = threadIdx.y; unit < maps.blocks * maps.positions; unit += ALONE) {
    const int block = unit / maps.positions, p = unit % maps.positions;
    f(Place{maps.start(block) + i64(p) * LANES + threadIdx.x, i64(block) * gridDim.x + blockIdx.x, p}, block);
  }
}

// Batch norm with the batch's own statistics: mean and var (C,), the running statistics, and y as by batch_norm below.
__global__ void __launch_bounds__(LANES* ALONE, 1) batch_norm_alone(
    const float* __restrict__ x, float* mean, float* var, float* running_mean, float* running_var, float momentum,
    const float* gamma, const float* beta, float eps, const float* __restrict__ other, float* __restrict__ y, int relu,
    int images, int blocks, int positions, int band, double* part, unsigned* counters) {
  const Maps maps{images, blocks, positions, band};
  const int c = blockIdx.x;
  double sum[1];
  sum_values<ALONE>(x, maps, part, counters, sum);
  const double centre = __ddiv_rn(sum[0], maps.count());
  sum_squares<ALONE>(x, centre, maps, part, counters, sum);
  const double variance = __ddiv_rn(sum[0], maps.count());
  const Channel channel(__double2float_rn(centre), __double2float_rn(variance), gamma[c], beta[c], eps);
  if (first_thread()) {
    mean[c] = channel.centre;
    var[c] = __double2float_rn(variance);
    move_running(running_mean + c, channel.centre, momentum);
    move_running(running_var + c, unbiased_variance(variance, maps.count()), momentum);
  }
  over_channel(maps, [&](Place at, int) {
    float v = channel.y(channel.xhat(x[at.element]));
    if (other) v = __fadd_rn(v, other[at.element]);
    y[at.element] = relu ? rectified(v) : v;
  });
}

// All gradients of batch norm with the batch's own statistics.
template <class After>
__global__ void __launch_bounds__(LANES* ALONE, 1) batch_norm_gradient_alone(
    const float* __restrict__ dy, const float* __restrict__ after, const float* __restrict__ x, const float* mean,
    const float* var, const float* gamma, const float* beta, float eps, Halving pool, float* dgamma, float* dbeta,
    float* __restrict__ dx, float* __restrict__ other, int images, int blocks, int positions, int band, double* part,
    unsigned* counters) {
  const Maps maps{images, blocks, positions, band};
  const int c = blockIdx.x;
  const Channel channel(c, mean, var, gamma, beta, eps);
  double sum[2];
  sum_gradients<After, ALONE>(dy, after, x, channel, pool, maps, part, counters, sum);
  if (first_thread()) {
    dgamma[c] = __fadd_rn(__double2float_rn(sum[0]), 0.0f);
    dbeta[c] = __fadd_rn(__double2float_rn(sum[1]), 0.0f);
  }
  const float b = __double2float_rn(__ddiv_rn(sum[0], maps.count()));
  const float a = __double2float_rn(__ddiv_rn(sum[1], maps.count()));
  const Gradient<After> gradient{dy, after, x, channel, pool, b, a, dx, other};
  over_channel(maps, [&](Place at, int block) { gradient.store(at, present(block, threadIdx.x, maps.images)); });
}

// ---- map by map: grid (blocks * C, parts), 256 threads ------------------------------------------------------------

// Calls f(place) for every element of this thread's map.
template <class F> DEVICE void over_map(int positions, F f) {
  const i64 start = i64(blockIdx.x) * positions * LANES + threadIdx.x % LANES;
  const int warps = blockDim.x / LANES;
  for (int p = blockIdx.y * warps + threadIdx.x / LANES; p < positions; p += gridDim.y * warps)
    f(Place{start + i64(p) * LANES, i64(blockIdx.x), p});
}

// y = fma(gamma, (x - mean) * inv, beta), plus `other` if not null, or its ReLU.
__global__ void __launch_bounds__(256)
    batch_norm(const float* __restrict__ x, const float* mean, const float* var, const float* gamma, const float* beta,
               float eps, const float* __restrict__ other, float* __restrict__ y, int C, int positions, int relu) {
  const Channel channel(blockIdx.x % C, mean, var, gamma, beta, eps);
  over_map(positions, [&](Place at) {
    float v = channel.y(channel.xhat(x[at.element]));
    if (other) v = __fadd_rn(v, other[at.element]);
    y[at.element] = relu ? rectified(v) : v;
  });
}

// y = the maxima of relu of batch norm over windows of 2x2 that do not overlap; where = their taps. `pooled_height` and
// `pooled_width` are y's sizes, `height` and `width` x's. Launch: as map by map, over y's maps.
__global__ void __launch_bounds__(256)
    batch_norm_max_pool(const float* __restrict__ x, const float* mean, const float* var, const float* gamma,
                        const float* beta, float eps, float* __restrict__ y, unsigned char* __restrict__ where, int C,
                        int height, int width, int pooled_height, int pooled_width) {
  const Channel channel(blockIdx.x % C, mean, var, gamma, beta, eps);
  over_map(pooled_height * pooled_width, [&](Place at) {
    const int h = at.position / pooled_width * 2, w = at.position % pooled_width * 2;
    const float* corner = x + ((at.map * height + h) * width + w) * LANES + threadIdx.x % LANES;
    float best = 0.0f;
    int tap = 0;
#pragma unroll
    for (int t = 0; t < 4; t++) {
      const float v = rectified(channel.y(channel.xhat(corner[(t / 2 * width + t % 2) * LANES])));
      if (t == 0 || v > best) {
        best = v;
        tap = t;
      }
    }
    y[at.element] = best;
    where[at.element] = static_cast<unsigned char>(tap);
  });
}

// dx from the sums' means; see Gradient.
template <class After>
__global__ void __launch_bounds__(256)
    batch_norm_gradient(const float* __restrict__ dy, const float* __restrict__ after, const float* __restrict__ x,
                        const float* mean, const float* var, const float* gamma, const float* beta, float eps,
                        Halving pool, const float* gamma_mean, const float* beta_mean, float* __restrict__ dx,
                        float* __restrict__ other, int images, int C, int positions) {
  const int c = blockIdx.x % C;
  const Channel channel(c, mean, var, gamma, beta, eps);
  const Gradient<After> gradient{dy, after, x, channel, pool, gamma_mean[c], beta_mean[c], dx, other};
  const bool there = present(blockIdx.x / C, threadIdx.x % LANES, images);
  over_map(positions, [&](Place at) { gradient.store(at, there); });
}

// dx = dy * (gamma * inv), where the statistics are constants.
__global__ void __launch_bounds__(256) batch_norm_input_gradient(const float* dy, const float* var, const float* gamma,
                                                                 float eps, float* dx, int C, int positions) {
  const int c = blockIdx.x % C;
  const float scale = __fmul_rn(gamma[c], inverse_deviation(var[c], eps));
  over_map(positions, [&](Place at) { dx[at.element] = __fmul_rn(dy[at.element], scale); });
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
  over_map(positions, [&](Place at) { dx[at.element] = share; });
}
