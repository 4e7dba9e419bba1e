// Clipping the flat gradient buffer, by value and by its norm (rule 9).
//
// The norm's sum of squares, in float64: 1024 values are a block of 64 rows of 16; a half warp takes a block, a lane one
// column of it from top to bottom, then the tree over the 16 lanes, then the tree over the blocks, which the last block
// of threads to finish adds up. Launch: clip_value, scale_all one thread per value, 256 per block; norm_scale (blocks /
// 16) with block (32, 8).
#include "sums.cuh"

constexpr int WARPS = 8;

__global__ void __launch_bounds__(256) clip_value(float* g, float limit, i64 size) {
  const i64 i = thread_number();
  if (i < size) g[i] = g[i] < -limit ? -limit : g[i] > limit ? limit : g[i];
}

// scale (1,) = f32(limit / norm) where the norm exceeds the limit, else 1; part (blocks,).
__global__ void __launch_bounds__(LANES * WARPS)
    norm_scale(const float* g, float* scale, double limit, i64 size, int blocks, double* part, unsigned* counter) {
  const int lane = threadIdx.x, column = lane % IMAGES;
  const i64 block = (i64(blockIdx.x) * WARPS + threadIdx.y) * 2 + lane / IMAGES;
  double sum = 0.0;
#pragma unroll 8
  for (int row = 0; row < BAND; row++) {
    const i64 i = (block * BAND + row) * IMAGES + column;
    const double v = i < size ? double(g[i]) : 0.0;
    sum = __dadd_rn(sum, __dmul_rn(v, v));
  }
  const double squares = half_warp_sum(sum);
  if (column == 0 && block < blocks) part[block] = squares;
  if (!last_of(gridDim.x, counter)) return;
  const int thread = threadIdx.y * LANES + lane;
  const double total = tree_over<LANES * WARPS>([&](int b) { return __ldcg(part + b); }, blocks, thread);
  const double norm = __dsqrt_rn(total);
  if (thread == 0) scale[0] = norm > limit ? __double2float_rn(__ddiv_rn(limit, norm)) : 1.0f;
}

__global__ void __launch_bounds__(256) scale_all(float* g, const float* scale, i64 size) {
  const i64 i = thread_number();
  const float factor = scale[0];
  if (i < size && factor != 1.0f) g[i] = __fmul_rn(g[i], factor);
}
