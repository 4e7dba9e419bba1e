// Softmax with its gradient, and softmax cross-entropy, plain and with class weights and label smoothing (rule 8).
//
// One thread is one image and walks through its classes three times: the maximum, the exponentials with their sum, the
// quotients. Four warps per block, each a block of 32 images. The mean loss is float64: the tree over 16 lanes in each
// half warp, then the tree over those sums, which the last block of threads to finish adds up. So the loss is one
// launch.
#include "softmax.cuh"
#include "sums.cuh"

constexpr int WARPS = 4;

// Adds up the blocks' partial sums in part: `sums` losses, then as many hits. loss (1,) = their mean; totals, if not
// null, gains both. The last block of threads to call this does it, and gets true. `count` is a function, because its
// value would take registers until then.
template <class Count>
DEVICE bool sum_losses(const double* part, int sums, Count count, float* loss, double* totals, unsigned* counter) {
  if (!last_of(gridDim.x, counter)) return false;
  const int thread = threadIdx.y * LANES + threadIdx.x;
#pragma unroll 1
  for (int s = 0; s < 2; s++) {  // the losses, then the hits
    const double* terms = part + s * sums;
    const double total = tree_over<LANES * WARPS>([&](int b) { return __ldcg(terms + b); }, sums, thread);
    if (thread == 0 && s == 0) loss[0] = __double2float_rn(__ddiv_rn(total, count()));
    if (thread == 0 && totals) totals[s] = __dadd_rn(totals[s], total);
  }
  return true;
}

// y = softmax along the channels of z (block, C, positions, 32): one thread is one image at one position.
__global__ void __launch_bounds__(LANES * WARPS)
    softmax(const float* z, float* y, int classes, int positions, int units) {
  const int unit = blockIdx.x * WARPS + threadIdx.y;
  if (unit >= units) return;
  const i64 apart = i64(positions) * LANES;
  const i64 at = unit / positions * classes * apart + i64(unit % positions) * LANES + threadIdx.x;
  z += at;
  y += at;
  const float sum = exponentials(z, y, classes, apart).sum;
  for (int c = 0; c < classes; c++) y[c * apart] = __fdiv_rn(y[c * apart], sum);
}

// dx = (dy - s) * y at each position of (block, channels, positions, 32), s the chain of dy * y along the channels.
// One thread is one image at one position; grid (block-positions / 8), block (32, 8).
__global__ void __launch_bounds__(LANES * 8) softmax_gradient(const float* dy, const float* y, float* dx, int channels,
                                                            int positions, int units) {
  const int unit = blockIdx.x * 8 + threadIdx.y;
  if (unit >= units) return;
  const i64 apart = i64(positions) * LANES;  // from channel to channel
  const i64 at = unit / positions * channels * apart + i64(unit % positions) * LANES + threadIdx.x;
  float sum = 0.0f;
  for (int c = 0; c < channels; c++) sum = __fmaf_rn(dy[at + c * apart], y[at + c * apart], sum);
  for (int c = 0; c < channels; c++)
    dx[at + c * apart] = __fmul_rn(__fsub_rn(dy[at + c * apart], sum), y[at + c * apart]);
}

// loss (1,) = the mean; dz = (p - hot) * scale; totals (2,), if not null, gains the losses' sum and the number of hits.
// labels (block, 32), -1 past the last image; part (2, blocks of 16).
__global__ void __launch_bounds__(LANES * WARPS)
    softmax_cross_entropy(const float* z, const int* labels, float* dz, float* loss, double* totals, double* part,
                          unsigned* counter, int images, int blocks, int classes, float scale) {
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
  sum_losses(part, sums, [&] { return double(images); }, loss, totals, counter);
}

// sum (1,) = the weights (classes,) of all images' labels, added up; part (blocks of 16,). Launch: one block (32, WARPS).
__global__ void __launch_bounds__(LANES * WARPS)
    label_weights(const int* labels, const float* weights, double* sum, double* part, int images, int blocks) {
  const int lane = threadIdx.x;
  for (i64 block = threadIdx.y; block < blocks; block += WARPS) {
    const float own = present(block, lane, images) ? weights[labels[block * LANES + lane]] : 0.0f;
    const double together = half_warp_sum(double(own));
    if (lane % IMAGES == 0) part[block * 2 + lane / IMAGES] = together;
  }
  __syncthreads();
  const int thread = threadIdx.y * LANES + lane;
  const double total = tree_over<LANES * WARPS>([&](int b) { return part[b]; }, 2 * blocks, thread);
  if (thread == 0) sum[0] = total;
}

// softmax_cross_entropy where class c's target is q_c = share * weights[c], the label's keep * weights[label] more;
// weight (1,) is what label_weights gave; totals (3,).
__global__ void __launch_bounds__(LANES * WARPS, 4)
                                      weighted_cross_entropy(const float* z, const int* labels, const float* weights,
                                                             float share, float keep, const double* weight, float* dz,
                                                             float* loss, double* totals, double* part,
                                                             unsigned* counter, int images, int blocks, int classes) {
  const int lane = threadIdx.x, sums = 2 * blocks;
  const i64 block = i64(blockIdx.x) * WARPS + threadIdx.y;
  const float scale = __double2float_rn(__ddiv_rn(1.0, weight[0]));
  if (block < blocks) {
    const i64 at = block * classes * LANES + lane;
    const int label = labels[block * LANES + lane];
    const bool there = present(block, lane, images);
    const Exponentials e = exponentials(z + at, dz + at, classes);
    const float of_log = elementary::rounded_log(e.sum);
    auto asked = [&](int c) {
      const float w = weights[c], q = __fmul_rn(share, w);
      return c == label ? __fmaf_rn(keep, w, q) : q;
    };
    float together = 0.0f, each = 0.0f;
    for (int c = 0; c < classes; c++) {
      const float q = asked(c);
      together = __fadd_rn(together, q);
      each = __fmaf_rn(q, __fsub_rn(of_log, __fsub_rn(z[at + c * LANES], e.largest)), each);
    }
    for (int c = 0; c < classes; c++) {
      const float p = __fdiv_rn(dz[at + c * LANES], e.sum);
      dz[at + c * LANES] = there ? __fmul_rn(__fmaf_rn(p, together, -asked(c)), scale) : 0.0f;
    }
    const double losses = half_warp_sum(there ? double(each) : 0.0);
    const double hits = half_warp_sum(there && e.first == label ? 1.0 : 0.0);
    if (lane % IMAGES == 0) {
      const i64 half = block * 2 + lane / IMAGES;
      part[half] = losses;
      part[sums + half] = hits;
    }
  }
  const bool last = sum_losses(part, sums, [&] { return weight[0]; }, loss, totals, counter);
  if (last && threadIdx.x == 0 && threadIdx.y == 0 && totals) totals[2] = __dadd_rn(totals[2], weight[0]);
}
