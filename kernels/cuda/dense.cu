// Dense layers: forward and input gradient (rule 2), and the weight gradient where an image has one position (rule 3).
//
// Sizes are ordinary arguments here: there are no windows whose loops could unroll, and one machine code serves all
// layers. x is (block, inputs, 32), a warp being 32 images.
#include "common.cuh"

constexpr int WARPS = 4;
constexpr int CHUNK = 64;  // terms of the dot product in shared memory at a time

// y (block, outputs, 32) = x times w, plus bias if there is one; weight (o, k) is at w[o * w_o + k * w_k].
//
// A warp owns OB outputs by NB blocks of images; four warps, side by side along the outputs, share the pixels and the
// weights of CHUNK terms. All threads fetch a whole chunk at once: so many loads are under way that their latency is
// paid once per chunk and not once per term, which dominates a small layer's time. Launch: grid (outputs / (4 OB),
// blocks / NB), block (32, 4). BY_OUTPUT: neighboring outputs are adjacent in w.
template <int OB, int NB, bool BY_OUTPUT>
__global__ void __launch_bounds__(LANES * WARPS)
    dense(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,
          float* __restrict__ y, int blocks, int inputs, int outputs, i64 w_o, i64 w_k, int relu) {
  constexpr int TILE = OB * WARPS, ROW = TILE + 4;
  __shared__ __align__(16) float xs[NB][CHUNK][LANES];
  __shared__ __align__(16) float ws[CHUNK][ROW];
  const int lane = threadIdx.x, thread = threadIdx.y * LANES + lane;
  const int o_first = blockIdx.x * TILE, block_first = blockIdx.y * NB;
  float acc[OB][NB];
#pragma unroll
  for (int o = 0; o < OB; o++)
#pragma unroll
    for (int n = 0; n < NB; n++) acc[o][n] = 0.0f;
  for (int k_first = 0; k_first < inputs; k_first += CHUNK) {
    const int terms = least(CHUNK, inputs - k_first);
    if (k_first) __syncthreads();  // the previous chunk has been used
#pragma unroll
    for (int n = 0; n < NB; n++) {
      const i64 start = (i64(block_first + n) * inputs + k_first) * LANES;
#pragma unroll
      for (int e = thread; e < CHUNK * LANES; e += LANES * WARPS)
        xs[n][e / LANES][lane] = block_first + n < blocks && e / LANES < terms ? x[start + e] : 0.0f;
    }
#pragma unroll 8
    for (int e = thread; e < CHUNK * TILE; e += LANES * WARPS) {
      const int o = BY_OUTPUT ? e % TILE : e / CHUNK, k = BY_OUTPUT ? e / TILE : e % CHUNK;
      ws[k][o] = o_first + o < outputs && k < terms ? w[(o_first + o) * w_o + (k_first + k) * w_k] : 0.0f;
    }
    __syncthreads();
#pragma unroll 8
    for (int k = 0; k < terms; k++) {
      float xv[NB], wv[OB];
#pragma unroll
      for (int n = 0; n < NB; n++) xv[n] = xs[n][k][lane];
#pragma unroll
      for (int o = 0; o < OB; o++) wv[o] = ws[k][threadIdx.y * OB + o];
#pragma unroll
      for (int o = 0; o < OB; o++)
#pragma unroll
        for (int n = 0; n < NB; n++) acc[o][n] = __fmaf_rn(xv[n], wv[o], acc[o][n]);
    }
  }
#pragma unroll
  for (int i = 0; i < OB; i++) {
    const int o = o_first + threadIdx.y * OB + i;
    if (o >= outputs) break;
    const float b = bias ? bias[o] : 0.0f;
#pragma unroll
    for (int n = 0; n < NB; n++) {
      const float v = __fadd_rn(__fadd_rn(acc[i][n], b), 0.0f);
      if (block_first + n < blocks) y[(i64(block_first + n) * outputs + o) * LANES + lane] = relu ? rectified(v) : v;
    }
  }
}

// out (groups * O, terms) = the sum over the images of dy (block, groups * O, 32) times what tap `source[k]` of x
// holds.
//
// By rule 3 the images of a block are one chain of fused multiply-adds, so here the lanes are the inner dimension of a
// matrix product. Block of threads: 16 outputs by 64 terms, a thread 4 by 2, its lanes read four at a time; rows of
// shared memory are 36 long, so that eight threads' 16-byte loads use all 32 banks. The two blocks of 16 images in a
// warp are a pair of the tree over blocks, which waits in registers: DEPTH is the bit length of the number of blocks of
// 32. `source` (terms,) says which value of the group's channels a term sees, -1 in the padding; without it, term k is
// value k. Launch: grid (terms / 64, outputs / 16, groups), block (32, 4).
template <int DEPTH>
__global__ void __launch_bounds__(LANES * 4)
                                      chain_weight_gradient(const float* __restrict__ dy, const float* __restrict__ x,
                                                            const int* __restrict__ source, float* __restrict__ out,
                                                            int images, int blocks, int O, int values, int terms) {
  constexpr int OB = 4, KB = 2, OT = 16, KT = 64, ROW = LANES + 4;
  __shared__ __align__(16) float ds[OT][ROW];
  __shared__ __align__(16) float xs[KT][ROW];
  const int lane = threadIdx.x, groups = gridDim.z, group = blockIdx.z;
  const int o_first = blockIdx.y * OT, k_first = blockIdx.x * KT;
  Tree<float, DEPTH> trees[OB][KB];
#pragma unroll 1
  for (int block = 0; block < blocks; block++) {
    if (block) __syncthreads();  // the previous block has been used
    const bool there = present(block, lane, images);
    for (int o = threadIdx.y; o < OT; o += 4)
      ds[o][lane] =
          there && o_first + o < O ? dy[((i64(block) * groups + group) * O + o_first + o) * LANES + lane] : 0.0f;
#pragma unroll 8
    for (int k = threadIdx.y; k < KT; k += 4) {
      int from = -1;
      if (k_first + k < terms) from = source ? source[k_first + k] : k_first + k;
      xs[k][lane] = there && from >= 0 ? x[((i64(block) * groups + group) * values + from) * LANES + lane] : 0.0f;
    }
    __syncthreads();
    float sum[OB][KB];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float acc[OB][KB] = {};
#pragma unroll
      for (int l = half * IMAGES; l < (half + 1) * IMAGES; l += 4) {
        float4 d[OB], v[KB];
#pragma unroll
        for (int i = 0; i < OB; i++) d[i] = *reinterpret_cast<const float4*>(&ds[threadIdx.y * OB + i][l]);
#pragma unroll
        for (int j = 0; j < KB; j++) v[j] = *reinterpret_cast<const float4*>(&xs[lane + j * LANES][l]);
#pragma unroll
        for (int i = 0; i < OB; i++)
#pragma unroll
          for (int j = 0; j < KB; j++) {
            acc[i][j] = __fmaf_rn(d[i].x, v[j].x, acc[i][j]);
            acc[i][j] = __fmaf_rn(d[i].y, v[j].y, acc[i][j]);
            acc[i][j] = __fmaf_rn(d[i].z, v[j].z, acc[i][j]);
            acc[i][j] = __fmaf_rn(d[i].w, v[j].w, acc[i][j]);
          }
      }
#pragma unroll
      for (int i = 0; i < OB; i++)
#pragma unroll
        for (int j = 0; j < KB; j++) sum[i][j] = half ? __fadd_rn(sum[i][j], acc[i][j]) : acc[i][j];
    }
#pragma unroll
    for (int i = 0; i < OB; i++)
#pragma unroll
      for (int j = 0; j < KB; j++) trees[i][j].push(block, sum[i][j]);
  }
#pragma unroll
  for (int i = 0; i < OB; i++)
#pragma unroll
    for (int j = 0; j < KB; j++) {
      const int o = o_first + threadIdx.y * OB + i, k = k_first + lane + j * LANES;
      if (o < O && k < terms) out[(i64(group) * O + o) * terms + k] = __fadd_rn(trees[i][j].total(blocks), 0.0f);
    }
}
