// A bias for each channel, and channels moved from one batch to another.
//
// One channel of one block of images is a stretch of positions * 32 values in memory, several channels side by side a
// longer one. Threads take four neighboring values each, one 16-byte load and store: these kernels do nothing but move
// memory. A `quad` is four values.
#include "common.cuh"

// Calls f(quad) for every quad of this thread among `quads`. Launch: 256 threads; grid.y blocks share a stretch.
template <class F> DEVICE void over_stretch(i64 quads, F f) {
  for (i64 i = i64(blockIdx.y) * blockDim.x + threadIdx.x; i < quads; i += i64(gridDim.y) * blockDim.x) f(i);
}

// y = (x + bias) + 0, or its ReLU. Launch: grid.x = blocks of images * C; `quads` in a map.
__global__ void __launch_bounds__(256)
    add_bias(const float4* x, const float* bias, float4* y, int C, i64 quads, int relu) {
  const float shift = bias[blockIdx.x % C];
  const i64 start = blockIdx.x * quads;
  auto shifted = [&](float v) {
    const float sum = __fadd_rn(__fadd_rn(v, shift), 0.0f);
    return relu ? rectified(sum) : sum;
  };
  over_stretch(quads, [&](i64 i) {
    const float4 v = x[start + i];
    y[start + i] = make_float4(shifted(v.x), shifted(v.y), shifted(v.z), shifted(v.w));
  });
}

// `quads` of each block of images, from_x quads after the block's start in x, to y, from_y after its start there. A
// block of images has x_quads quads in x and y_quads in y. Launch: grid.x = blocks of images.
__global__ void __launch_bounds__(256)
    copy_channels(const float4* x, float4* y, i64 x_quads, i64 y_quads, i64 from_x, i64 from_y, i64 quads) {
  const i64 source = blockIdx.x * x_quads + from_x, target = blockIdx.x * y_quads + from_y;
  over_stretch(quads, [&](i64 i) { y[target + i] = x[source + i]; });
}
