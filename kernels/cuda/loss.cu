// Softmax, and softmax cross-entropy with its gradient (rule 8).
//
// One thread is one image and walks through its classes three times: the maximum, the exponentials with their sum, the
// quotients. Four warps a block, each a block of 32 images. The mean loss is float64: the tree over 16 lanes in each
// half warp, then the tree over those sums, which the last block of threads to finish adds up. So the loss is one
// launch.
#include "elementary.cuh"
#include "sums.cuh"

constexpr int WARPS = 4;

struct Exponentials {
  float largest, sum;
  int first;  // class of the largest logit
};

// Leaves exp(z - max) in e.
DEVICE Exponentials exponentials(const float* z, float* e, int classes) {
  Exponentials found{z[0], 0.0f, 0};
  for (int c = 1; c < classes; c++) {
    const float v = z[c * LANES];
    if (v > found.largest) {
      found.largest = v;
      found.first = c;
    }
  }
  for (int c = 0; c < classes; c++) {
    const float v = elementary::rounded_exp(__fsub_rn(z[c * LANES], found.largest));
    e[c * LANES] = v;
    found.sum = __fadd_rn(found.sum, v);
  }
  return found;
}

// y = softmax along the channels of z (block, C, 32).
__global__ void __launch_bounds__(LANES * WARPS) softmax(const float* z, float* y, int blocks, int classes) {
  const i64 block = i64(blockIdx.x) * WARPS + threadIdx.y;
  if (block >= blocks) return;
  const i64 at = block * classes * LANES + threadIdx.x;
  const float sum = exponentials(z + at, y + at, classes).sum;
  for (int c = 0; c < classes; c++) y[at + c * LANES] = __fdiv_rn(y[at + c * LANES], sum);
}

// loss (1,) = the mean; dz = (p - hot) * scale; totals (2,), if given, gains the losses' sum and the number of hits.
// labels (block, 32), -1 past the last image; part (2, blocks of 16).
__global__ void __launch_bounds__(LANES * WARPS) softmax_cross_entropy(const float* z, const int* labels, float* dz,
                                                                       float* loss, double* totals, double* part,
                                                                       unsigned* counter, int images, int blocks,
                                                                       int classes, float scale) {
  const int lane = threadIdx.x, sums = 2 * blocks;
  const i64 block = i64(blockIdx.x) * WARPS + threadIdx.y;
  if (block < blocks) {
    const i64 at = block * classes * LANES + lane;
    const int label = labels[block * LANES + lane];
    const bool there = present(block, lane, images);
    const Exponentials e = exponentials(z + at, dz + at, classes);
    for (int c = 0; c < classes; c++) {
      const float p = __fdiv_rn(dz[at + c * LANES], e.sum);
      dz[at + c * LANES] = there ? __fmul_rn(__fsub_rn(p, c == label ? 1.0f : 0.0f), scale) : 0.0f;
    }
    float each = 0.0f;
    if (there) each = __fsub_rn(elementary::rounded_log(e.sum), __fsub_rn(z[at + label * LANES], e.largest));
    const double losses = half_warp_sum(double(each)), hits = half_warp_sum(there && e.first == label ? 1.0 : 0.0);
    if (lane % IMAGES == 0) {
      const i64 half = block * 2 + lane / IMAGES;
      part[half] = losses;
      part[sums + half] = hits;
    }
  }
  if (!last_of(gridDim.x, counter)) return;
  const int thread = threadIdx.y * LANES + lane;
#pragma unroll 1
  for (int s = 0; s < 2; s++) {  // the losses, then the hits
    const double* terms = part + s * sums;
    const double total = tree_over<LANES * WARPS>([&](int b) { return __ldcg(terms + b); }, sums, thread);
    if (thread == 0 && s == 0) loss[0] = __double2float_rn(__ddiv_rn(total, double(images)));
    if (thread == 0 && totals) totals[s] = __dadd_rn(totals[s], total);
  }
}
