// Sums in float64 within an image, over the `length` values of a line in 32 lanes (rule 4).
//
// A block of threads takes a line, each of its warps an aligned power of two of bands of 64 values, a thread being one
// image, and the warps' sums meet in shared memory.
#pragma once
#include "sums.cuh"

constexpr int LINE_WARPS = 8;

// Sums of SUMS terms over a line: `terms(value's number, to)` adds to to[0 .. SUMS-1]. All threads of an image's lane get
// the sums in `result`; `sums` is shared memory, which a second call may use again. A warp's tree has LEVELS, which holds
// 2**(LEVELS - 1) bands: see `line_levels` in gpucnn/backends/cuda/layout.py. Launch: block (32, LINE_WARPS).
template <int SUMS, int LEVELS, int UNROLL = 4, class Terms>
DEVICE void line_sums(Terms terms, int length, double (*sums)[LINE_WARPS][LANES], double* result) {
  const int lane = threadIdx.x, bands = ceil_div(length, BAND);
  int each = 1;
  while (each * LINE_WARPS < bands) each *= 2;
  Tree<double, LEVELS> trees[SUMS];
  int taken = 0;
  for (int band = threadIdx.y * each; band < bands && taken < each; band++) {
    double sum[SUMS] = {};
    const int last = least((band + 1) * BAND, length);
#pragma unroll UNROLL
    for (int i = band * BAND; i < last; i++) terms(i, sum);
#pragma unroll
    for (int s = 0; s < SUMS; s++) trees[s].push(taken, sum[s]);
    taken++;
  }
  __syncthreads();  // an earlier call's sums have been read
#pragma unroll
  for (int s = 0; s < SUMS; s++) sums[s][threadIdx.y][lane] = trees[s].total(taken);
  __syncthreads();
#pragma unroll
  for (int s = 0; s < SUMS; s++) {
    Tree<double, 4> over_warps;  // 8 terms
#pragma unroll
    for (int w = 0; w < LINE_WARPS; w++) over_warps.push(w, sums[s][w][lane]);
    result[s] = over_warps.total(LINE_WARPS);
  }
}
