// A function of four neighbouring values at once, and the number of a thread that takes them.
#pragma once
#include "common.cuh"

template <class F> DEVICE float4 each(F f, float4 a) { return make_float4(f(a.x), f(a.y), f(a.z), f(a.w)); }
template <class F> DEVICE float4 each(F f, float4 a, float4 b) {
  return make_float4(f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w));
}
DEVICE i64 thread_number() { return i64(blockIdx.x) * blockDim.x + threadIdx.x; }
