// Dense layers: forward and input gradient (rule 2), and the weight gradient where an image has one position (rule 3).
//
// Sizes are ordinary arguments here: there are no windows whose loops could unroll, and one machine code serves all
// layers. x is (block, inputs, 32), a warp being 32 images.
#include "common.cuh"

constexpr int WARPS = 4;
constexpr int CHUNK = 64;  // terms of the dot product in shared memory at a time

// A gradient through ReLU, whose output is `rectifier`, unless that is null.
DEVICE float masked(const float* dy, const float* rectifier, i64 i) {
  return !rectifier || rectifier[i] > 0.0f ? dy[i] : 0.0f;
}

// y (block, outputs, 32) = x, masked, times w, plus bias if there is one; weight (o, k) is at w[o * w_o + k * w_k].
//
// A warp owns OB outputs by NB blocks of images; four warps, side by side along the outputs, share the pixels and the
// weights of CHUNK terms. All threads fetch a whole chunk at once: so many loads are under way that their latency is
// paid once per chunk and not once per term, which dominates a small layer's time. Launch: grid (outputs / (4 OB),
// blocks / NB), block (32, 4). BY_OUTPUT: neighboring outputs are adjacent in w.
// `column` and `row` are the block's place in the grid.
template <int OB, int NB, bool BY_OUTPUT>
DEVICE void multiply(const float* __restrict__ x, const float* __restrict__ rectifier, const float* __restrict__ w,
                     const float* __restrict__ bias, float* __restrict__ y, int blocks, int inputs, int outputs,
                     i64 w_o, i64 w_k, int relu, int column, int row) {
  constexpr int TILE = OB * WARPS, ROW = TILE + 4;
  __shared__ __align__(16) float xs[NB][CHUNK][LANES];
  __shared__ __align__(16) float ws[CHUNK][ROW];
  const int lane = threadIdx.x, thread = threadIdx.y * LANES + lane;
  const int o_first = column * TILE, block_first = row * NB;
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
        xs[n][e / LANES][lane] = block_first + n < blocks && e / LANES < terms ? masked(x, rectifier, start + e) : 0.0f;
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

template <int OB, int NB, bool BY_OUTPUT>
__global__ void __launch_bounds__(LANES * WARPS)
    dense(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,
          float* __restrict__ y, int blocks, int inputs, int outputs, i64 w_o, i64 w_k, int relu) {
  multiply<OB, NB, BY_OUTPUT>(x, nullptr, w, bias, y, blocks, inputs, outputs, w_o, w_k, relu, blockIdx.x, blockIdx.y);
}

// out (groups * O, terms) = the sum over the images of dy (block, groups * O, 32), masked, times what tap `source[k]` of x
// holds.
//
// By rule 3 the images of a block are one chain of fused multiply-adds, so here the lanes are the inner dimension of a
// matrix product. Block of threads: 16 outputs by 64 terms, a thread 4 by 2, its lanes read four at a time; rows of
// shared memory are 36 long, so that eight threads' 16-byte loads use all 32 banks. The two blocks of 16 images in a
// warp are a pair of the tree over blocks, which waits in registers: DEPTH is the bit length of the number of blocks of
// 32. `source` (terms,) says which value of the group's channels a term sees, -1 in the padding; without it, term k is
// value k. Launch: grid (terms / 64, outputs / 16, groups), block (32, 4).
template <int DEPTH>
DEVICE void chain_sums(const float* __restrict__ dy, const float* __restrict__ rectifier, const float* __restrict__ x,
                       const int* __restrict__ source, float* __restrict__ out, int images, int blocks, int O,
                       int values, int terms, int column, int row, int group, int groups) {
  constexpr int OB = 4, KB = 2, OT = 16, KT = 64, ROW = LANES + 4;
  __shared__ __align__(16) float ds[OT][ROW];
  __shared__ __align__(16) float xs[KT][ROW];
  const int lane = threadIdx.x, o_first = row * OT, k_first = column * KT;
  Tree<float, DEPTH> trees[OB][KB];
  // What the next block of images needs is on its way while this one is used.
  float dv[OT / 4], xv[KT / 4];
  auto fetch = [&](int block) {
    const bool there = present(block, lane, images);
#pragma unroll
    for (int i = 0; i < OT / 4; i++) {
      const int o = o_first + i * 4 + threadIdx.y;
      const i64 at = ((i64(block) * groups + group) * O + o) * LANES + lane;
      dv[i] = there && o < O ? masked(dy, rectifier, at) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < KT / 4; i++) {
      const int k = k_first + i * 4 + threadIdx.y;
      const int from = k >= terms ? -1 : source ? source[k] : k;
      xv[i] = there && from >= 0 ? x[((i64(block) * groups + group) * values + from) * LANES + lane] : 0.0f;
    }
  };
  fetch(0);
#pragma unroll 1
  for (int block = 0; block < blocks; block++) {
    if (block) __syncthreads();  // the previous block has been used
#pragma unroll
    for (int i = 0; i < OT / 4; i++) ds[i * 4 + threadIdx.y][lane] = dv[i];
#pragma unroll
    for (int i = 0; i < KT / 4; i++) xs[i * 4 + threadIdx.y][lane] = xv[i];
    if (block + 1 < blocks) fetch(block + 1);
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

template <int DEPTH>
__global__ void __launch_bounds__(LANES * WARPS)
    chain_weight_gradient(const float* __restrict__ dy, const float* __restrict__ x, const int* __restrict__ source,
                          float* __restrict__ out, int images, int blocks, int O, int values, int terms) {
  chain_sums<DEPTH>(dy, nullptr, x, source, out, images, blocks, O, values, terms, blockIdx.x, blockIdx.y, blockIdx.z,
                    gridDim.z);
}

// out (outputs,) = the sum of dy, masked, over the images, in float64: a warp takes an output.
template <int DEPTH>
DEVICE void bias_sums(const float* __restrict__ dy, const float* __restrict__ rectifier, float* __restrict__ out,
                      int images, int blocks, int outputs, int column) {
  const int lane = threadIdx.x, o = column * WARPS + threadIdx.y;
  if (o >= outputs) return;
  Tree<double, DEPTH> tree{};
#pragma unroll 4
  for (int block = 0; block < blocks; block++) {
    const i64 at = (i64(block) * outputs + o) * LANES + lane;
    const double half = half_warp_sum(present(block, lane, images) ? double(masked(dy, rectifier, at)) : 0.0);
    tree.push(block, __dadd_rn(half, __shfl_xor_sync(WHOLE_WARP, half, IMAGES)));
  }
  if (lane == 0) out[o] = __fadd_rn(__double2float_rn(tree.total(blocks)), 0.0f);
}

// All gradients of a dense layer in one launch: dx (block, inputs, 32), dw (outputs, inputs), db (outputs,), dx and db
// unless null, from dy (block, outputs, 32), masked by the layer's output where `rectifier` is not null.
//
// The three do not depend on each other: the first blocks of threads compute dx, which others wait for, the next dw,
// the last db. `dx_columns`, `dw_columns` are the widths of their grids, `dx_end` and `dw_end` the first block behind.
template <int OB, int NB, int DEPTH>
__global__ void __launch_bounds__(LANES * WARPS, 2) dense_gradients(
    const float* __restrict__ dy, const float* __restrict__ rectifier, const float* __restrict__ x,
    const float* __restrict__ w, float* __restrict__ dx, float* __restrict__ dw, float* __restrict__ db, int images,
    int blocks, int inputs, int outputs, int dx_columns, int dx_end, int dw_columns, int dw_end) {
  const int b = blockIdx.x;
  if (b < dx_end) {
    multiply<OB, NB, true>(dy, rectifier, w, nullptr, dx, blocks, outputs, inputs, 1, inputs, 0, b % dx_columns,
                           b / dx_columns);
  } else if (b < dw_end) {
    chain_sums<DEPTH>(dy, rectifier, x, nullptr, dw, images, blocks, outputs, inputs, inputs, (b - dx_end) % dw_columns,
                      (b - dx_end) / dw_columns, 0, 1);
  } else {
    bias_sums<DEPTH>(dy, rectifier, db, images, blocks, outputs, b - dw_end);
  }
}
