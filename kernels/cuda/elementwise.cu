// Activations, their gradients, and sums of two activations: one value in, one value out.
//
// Where a value lies in the batch does not matter, so the arrays are flat. A thread takes four neighbours, one 16-byte
// load and store: these kernels do nothing but move memory. A batch is a multiple of 32 values, so four always fit.
// Launch: 256 threads a block, as many blocks as it takes; `quads` is the number of values / 4.
#include "elementary.cuh"
#include "elementwise.cuh"

__global__ void __launch_bounds__(256) relu(const float4* x, float4* y, i64 quads) {
  const i64 i = thread_number();
  if (i < quads) y[i] = each([](float v) { return rectified(v); }, x[i]);
}

__global__ void __launch_bounds__(256) relu_gradient(const float4* dy, const float4* y, float4* dx, i64 quads) {
  const i64 i = thread_number();
  if (i < quads) dx[i] = each([](float d, float v) { return v > 0.0f ? d : 0.0f; }, dy[i], y[i]);
}

__global__ void __launch_bounds__(256) tanh_forward(const float4* x, float4* y, i64 quads) {
  const i64 i = thread_number();
  if (i < quads) y[i] = each([](float v) { return elementary::rounded_tanh(v); }, x[i]);
}

__global__ void __launch_bounds__(256) tanh_gradient(const float4* dy, const float4* y, float4* dx, i64 quads) {
  const i64 i = thread_number();
  if (i < quads) dx[i] = each([](float d, float v) { return __fmul_rn(d, __fmaf_rn(-v, v, 1.0f)); }, dy[i], y[i]);
}

__global__ void __launch_bounds__(256) sigmoid_forward(const float4* x, float4* y, i64 quads) {
  const i64 i = thread_number();
  if (i < quads) y[i] = each([](float v) { return elementary::rounded_sigmoid(v); }, x[i]);
}

__global__ void __launch_bounds__(256) sigmoid_gradient(const float4* dy, const float4* y, float4* dx, i64 quads) {
  const i64 i = thread_number();
  auto slope = [](float d, float v) { return __fmul_rn(d, __fmul_rn(v, __fsub_rn(1.0f, v))); };
  if (i < quads) dx[i] = each(slope, dy[i], y[i]);
}

__global__ void __launch_bounds__(256) add_batches(const float4* a, const float4* b, float4* y, int relu, i64 quads) {
  const i64 i = thread_number();
  if (i >= quads) return;
  const float4 v = each([](float p, float q) { return __fadd_rn(p, q); }, a[i], b[i]);
  y[i] = relu ? each([](float p) { return rectified(p); }, v) : v;
}
