// Maps along one spatial axis (rule 7): padding, upsampling, the windows of adaptive pooling, and their gradients.
//
// Output position p of the axis takes the input positions position[first[p]] to position[first[p + 1] - 1], each with
// its weight, in that order. A gradient is the same with the transposed taps, so every value has one owner.
//
// A warp is one pixel of 32 images and reads whole lines of memory; all its threads have the same p, so nothing diverges
// and the taps, which are the same for all maps, come from the cache. It moves memory and computes next to nothing, so
// sizes are ordinary numbers: one machine code for all shapes.
// Launch: 8 warps per block, one per pixel of y; grid (pixels / 8 rounded up), pixels = blocks * channels * positions.
#include "common.cuh"

constexpr int WARPS = 8;

// x is (outer, inputs, inner, 32) and y (outer, outputs, inner, 32), inner being the axes after the mapped one.
__global__ void __launch_bounds__(LANES * WARPS)
    resample_axis(const float* x, float* y, const int* first, const int* position, const float* weight,
                  const float* start, int inputs, int outputs, int inner, i64 pixels) {
  const i64 o = i64(blockIdx.x) * WARPS + threadIdx.y;
  if (o >= pixels) return;
  const i64 row = o / inner;
  const int p = int(row % outputs);
  const float* line = x + (row / outputs * inputs * inner + o % inner) * LANES + threadIdx.x;
  float sum = start[p];
  for (int t = first[p]; t < first[p + 1]; t++) sum = __fmaf_rn(weight[t], line[i64(position[t]) * inner * LANES], sum);
  y[o * LANES + threadIdx.x] = __fadd_rn(sum, 0.0f);
}
