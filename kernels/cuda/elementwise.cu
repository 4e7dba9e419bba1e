// One value in, one value out: activations with their gradients, and sums of two activations (rules 5 to 7).
//
// A value's place in the batch does not matter, so the arrays are flat. A thread takes four neighbors, one 16-byte
// load and store: these kernels do nothing but move memory. A batch is a multiple of 32 values, so four always fit.
// Launch: 256 threads per block, as many blocks as needed; `quads` is the number of values / 4. Their names,
// and whether a gradient starts from x or from y, are declared in gpucnn/backends/elementwise.py.
#include "operations.cuh"

// A function of four neighboring values at once.
template <class F> DEVICE float4 each(F f, float4 a) { return make_float4(f(a.x), f(a.y), f(a.z), f(a.w)); }
template <class F> DEVICE float4 each(F f, float4 a, float4 b) {
  return make_float4(f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w));
}

template <class Operation, class... Settings>
__global__ void __launch_bounds__(256) forward(const float4* x, float4* y, i64 quads, Settings... settings) {
  const i64 i = thread_number();
  if (i < quads) y[i] = each([=](float v) { return Operation::value(v, settings...); }, x[i]);
}

template <class Operation, class... Settings>
__global__ void __launch_bounds__(256)
    gradient(const float4* dy, const float4* saved, float4* dx, i64 quads, Settings... settings) {
  const i64 i = thread_number();
  auto slope = [=](float d, float v) { return Operation::gradient(d, v, settings...); };
  if (i < quads) dx[i] = each(slope, dy[i], saved[i]);
}

__global__ void __launch_bounds__(256) add_batches(const float4* a, const float4* b, float4* y, i64 quads, int relu) {
  const i64 i = thread_number();
  if (i >= quads) return;
  const float4 v = each([](float p, float q) { return __fadd_rn(p, q); }, a[i], b[i]);
  y[i] = relu ? each([](float p) { return rectified(p); }, v) : v;
}
