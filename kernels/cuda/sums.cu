// The last levels of a weight gradient's sum (rules 3c and 3d): over the bands of each block, then over the blocks.
//
// Launch: grid (weights / 32), block (32, 8): a thread column takes one weight, its eight threads an aligned power of
// two of blocks each, and the first of them adds their sums. Neighboring threads read neighboring weights.
#include "common.cuh"

constexpr int PARTS = 8;

// out (size,) = the tree over part (blocks of 16, bands, size).
__global__ void __launch_bounds__(LANES * PARTS)
    batch_tree(const float* part, float* out, int blocks, int bands, int size) {
  __shared__ float sums[PARTS][LANES];
  const int i = blockIdx.x * LANES + threadIdx.x;
  int each = 1;
  while (each * PARTS < blocks) each *= 2;
  Tree<float> over_blocks;
  int taken = 0;
  for (int b = threadIdx.y * each; i < size && b < blocks && taken < each; b++) {
    Tree<float> over_bands;
#pragma unroll 4
    for (int t = 0; t < bands; t++) over_bands.push(t, part[(i64(b) * bands + t) * size + i]);
    over_blocks.push(taken++, over_bands.total(bands));
  }
  sums[threadIdx.y][threadIdx.x] = over_blocks.total(taken);
  __syncthreads();
  if (threadIdx.y || i >= size) return;
  float s[PARTS];
#pragma unroll
  for (int k = 0; k < PARTS; k++) s[k] = sums[k][threadIdx.x];
#pragma unroll
  for (int d = 1; d < PARTS; d *= 2)
#pragma unroll
    for (int k = 0; k < PARTS; k += 2 * d) s[k] = __fadd_rn(s[k], s[k + d]);
  out[i] = __fadd_rn(s[0], 0.0f);
}
