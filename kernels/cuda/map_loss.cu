// Cross-entropy and Dice of label maps (rule 8).
//
// Labels (block, positions, 32) are floats: class + 1, or 0 for a position to ignore. Cross-entropy sums over images and
// positions as sums.cuh says: grid (1, parts), block (32, SUM_WARPS). Dice sums within each image and class, as lines.cuh
// says: grid (blocks * classes), block (32, LINE_WARPS).
#include "lines.cuh"
#include "softmax.cuh"

// The class that an image has at element i of the labels, -1 where there is none.
DEVICE int class_at(const float* labels, i64 i, i64 block, int images) {
  return present(block, threadIdx.x, images) ? int(labels[i]) - 1 : -1;
}

// sums (2,) = the labels' weights (classes,) added up, and the number of labels.
__global__ void __launch_bounds__(LANES * SUM_WARPS)
    label_map_weights(const float* labels, const float* weights, double* sums, int images, int blocks, int positions,
                      int band, double* part, unsigned* counters) {
  double sum[2];
  auto terms = [&](Place place, double* to) {
    const i64 i = place.element;
    const int label = class_at(labels, i, i / (i64(positions) * LANES), images);
    if (label < 0) return;
    to[0] = __dadd_rn(to[0], double(weights[label]));
    to[1] = __dadd_rn(to[1], 1.0);
  };
  const bool last = channel_sums<2, 1>(terms, Maps{images, blocks, positions, band}, part, counters, sum);
  if (last && threadIdx.x == 0 && threadIdx.y == 0) {
    sums[0] = sum[0];
    sums[1] = sum[1];
  }
}

// z, dz (block, classes, positions, 32); sums are what label_map_weights gave; totals (4,).
__global__ void __launch_bounds__(LANES * SUM_WARPS)
    map_cross_entropy(const float* z, const float* labels, const float* weights, float share, float keep,
                      const double* sums, float* dz, float* loss, double* totals, int classes, int images, int blocks,
                      int positions, int band, double* part, unsigned* counters) {
  const i64 apart = i64(positions) * LANES;  // from class to class
  const float scale = __double2float_rn(__ddiv_rn(1.0, sums[0]));
  double sum[2];
  auto terms = [&](Place place, double* to) {
    const i64 i = place.element;
    const i64 block = i / apart, at = i + block * (classes - 1) * apart;
    const int label = class_at(labels, i, block, images);
    if (label < 0) {
      for (int c = 0; c < classes; c++) dz[at + c * apart] = 0.0f;
      return;
    }
    const Exponentials e = exponentials(z + at, dz + at, classes, apart);
    const float log_sum = elementary::rounded_log(e.sum);
    auto target = [&](int c) {
      const float w = weights[c], q = __fmul_rn(share, w);
      return c == label ? __fmaf_rn(keep, w, q) : q;
    };
    float together = 0.0f, each = 0.0f;
    for (int c = 0; c < classes; c++) {
      const float q = target(c);
      together = __fadd_rn(together, q);
      each = __fmaf_rn(q, __fsub_rn(log_sum, __fsub_rn(z[at + c * apart], e.largest)), each);
    }
    for (int c = 0; c < classes; c++) {
      float& v = dz[at + c * apart];
      v = __fmul_rn(__fmaf_rn(__fdiv_rn(v, e.sum), together, -target(c)), scale);
    }
    to[0] = __dadd_rn(to[0], double(each));
    to[1] = __dadd_rn(to[1], e.first == label ? 1.0 : 0.0);
  };
  const bool last = channel_sums<2, 1>(terms, Maps{images, blocks, positions, band}, part, counters, sum);
  if (last && threadIdx.x == 0 && threadIdx.y == 0) {
    loss[0] = sums[0] > 0.0 ? __double2float_rn(__ddiv_rn(sum[0], sums[0])) : 0.0f;
    const double more[] = {sum[0], sum[1], sums[0], sums[1]};
#pragma unroll
    for (int k = 0; k < 4; k++) totals[k] = __dadd_rn(totals[k], more[k]);
  }
}

// dp of probabilities p (block, classes, positions, 32), and each image's and class's term of the loss, (block, classes,
// 32); values is the number of images times classes.
template <int LEVELS>
__global__ void __launch_bounds__(LANES * LINE_WARPS)
    dice(const float* p, const float* labels, double smooth, double values, float* dp, double* terms, int images,
         int classes, int positions) {
  __shared__ double shared[3][LINE_WARPS][LANES];
  const int block = blockIdx.x / classes, own = blockIdx.x % classes;
  const i64 line = i64(blockIdx.x) * positions * LANES + threadIdx.x,
            map = i64(block) * positions * LANES + threadIdx.x;
  auto label_of = [&](int i) { return class_at(labels, map + i64(i) * LANES, block, images); };
  double sum[3];  // overlap, mass, labels
  auto add_terms = [&](int i, double* to) {
    const int label = label_of(i);
    if (label < 0) return;
    const double v = p[line + i64(i) * LANES];
    to[1] = __dadd_rn(to[1], v);
    if (label != own) return;
    to[0] = __dadd_rn(to[0], v);
    to[2] = __dadd_rn(to[2], 1.0);
  };
  line_sums<3, LEVELS, 1>(add_terms, positions, shared, sum);
  const double below = __dadd_rn(__dadd_rn(sum[1], sum[2]), smooth);
  const double ratio = __ddiv_rn(__dadd_rn(__dmul_rn(2.0, sum[0]), smooth), below), scaled = __dmul_rn(below, values);
  const float on = __double2float_rn(__ddiv_rn(__dsub_rn(ratio, 2.0), scaled));
  const float off = __double2float_rn(__ddiv_rn(ratio, scaled));
  for (int i = threadIdx.y; i < positions; i += LINE_WARPS) {
    const int label = label_of(i);
    dp[line + i64(i) * LANES] = label == own ? on : label < 0 ? 0.0f : off;
  }
  if (threadIdx.y == 0) terms[i64(blockIdx.x) * LANES + threadIdx.x] = __dsub_rn(1.0, ratio);
}

// loss (1,) = the mean of the images' losses; totals (1,) gains their sum; part (blocks of 16,). Launch: one block
// (32, SUM_WARPS).
__global__ void __launch_bounds__(LANES * SUM_WARPS)
    dice_mean(const double* terms, float* loss, double* totals, double* part, int classes, int images, int blocks) {
  const int lane = threadIdx.x;
  for (int block = threadIdx.y; block < blocks; block += SUM_WARPS) {
    double each = 0.0;
    for (int c = 0; c < classes; c++) each = __dadd_rn(each, terms[(i64(block) * classes + c) * LANES + lane]);
    const double sum = half_warp_sum(present(block, lane, images) ? __ddiv_rn(each, double(classes)) : 0.0);
    if (lane % IMAGES == 0) part[block * 2 + lane / IMAGES] = sum;
  }
  __syncthreads();
  const int thread = threadIdx.y * LANES + lane;
  const double total = tree_over<LANES * SUM_WARPS>([&](int b) { return part[b]; }, 2 * blocks, thread);
  if (thread) return;
  loss[0] = __double2float_rn(__ddiv_rn(total, double(images)));
  totals[0] = __dadd_rn(totals[0], total);
}
