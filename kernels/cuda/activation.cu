// Leaky ReLU, GELU, SiLU and their gradients, and the gradient of softmax (rules 6, 7 and 8).
//
// The first six take and give one value for one value and are launched as those of elementwise.cu: a thread takes four
// neighbours, 256 threads a block. Their gradients start from x: GELU and SiLU fall before they rise,
// so y does not tell x.
#include "elementary.cuh"
#include "elementwise.cuh"

__global__ void __launch_bounds__(256) leaky_relu(const float4* x, float4* y, float slope, i64 quads) {
  const i64 i = thread_number();
  auto leaky = [=](float v) { return v > 0.0f ? v : __fadd_rn(__fmul_rn(slope, v), 0.0f); };
  if (i < quads) y[i] = each(leaky, x[i]);
}

__global__ void __launch_bounds__(256)
leaky_relu_gradient(const float4* dy, const float4* x, float4* dx, float slope, i64 quads) {
  const i64 i = thread_number();
  if (i < quads) dx[i] = each([=](float d, float v) { return v > 0.0f ? d : __fmul_rn(slope, d); }, dy[i], x[i]);
}

__global__ void __launch_bounds__(256) gelu_forward(const float4* x, float4* y, i64 quads) {
  const i64 i = thread_number();
  if (i < quads) y[i] = each([](float v) { return elementary::rounded_gelu(v); }, x[i]);
}

__global__ void __launch_bounds__(256) gelu_gradient(const float4* dy, const float4* x, float4* dx, i64 quads) {
  const i64 i = thread_number();
  auto scaled = [](float d, float v) { return __fmul_rn(d, elementary::rounded_gelu_slope(v)); };
  if (i < quads) dx[i] = each(scaled, dy[i], x[i]);
}

__global__ void __launch_bounds__(256) silu_forward(const float4* x, float4* y, i64 quads) {
  const i64 i = thread_number();
  if (i < quads) y[i] = each([](float v) { return elementary::rounded_silu(v); }, x[i]);
}

__global__ void __launch_bounds__(256) silu_gradient(const float4* dy, const float4* x, float4* dx, i64 quads) {
  const i64 i = thread_number();
  auto scaled = [](float d, float v) { return __fmul_rn(d, elementary::rounded_silu_slope(v)); };
  if (i < quads) dx[i] = each(scaled, dy[i], x[i]);
}

// dx = (dy - s) * y at each position of (block, channels, positions, 32), s the chain of dy * y along the channels.
// One thread is one image at one position; grid (block-positions / 8), block (32, 8).
__global__ void __launch_bounds__(LANES * 8)
softmax_gradient(const float* dy, const float* y, float* dx, int channels, int positions, int units) {
  const int unit = blockIdx.x * 8 + threadIdx.y;
  if (unit >= units) return;
  const i64 apart = i64(positions) * LANES;  // from channel to channel
  const i64 at = unit / positions * channels * apart + unit % positions * LANES + threadIdx.x;
  float sum = 0.0f;
  for (int c = 0; c < channels; c++) sum = __fmaf_rn(dy[at + c * apart], y[at + c * apart], sum);
  for (int c = 0; c < channels; c++)
    dx[at + c * apart] = __fmul_rn(__fsub_rn(dy[at + c * apart], sum), y[at + c * apart]);
}
