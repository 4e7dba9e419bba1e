// Stands in for CUDA when g++ compiles a .cu file of kernels/cuda for the CPU.
//
// Only operations that give the same bits on both are offered: a kernel that uses expf, rsqrtf, __fdividef or an atomic
// addition of floats does not compile. One CUDA thread is one fiber of runtime.cpp, which this file reaches through
// `cuh_context`. Compile with -ffp-contract=off: only what is written as __fmaf_rn is fused.
#pragma once
#define CUDA_HOST 1
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

namespace cuh {
struct Context {  // runtime.cpp has the same
  uint3 threadIdx, blockIdx;
  dim3 blockDim, gridDim;
  void (*block_barrier)(int line);
  uint64_t (*warp_operation)(unsigned mask, uint64_t value, int source_lane);
  int (*lane)();
};
}  // namespace cuh
static cuh::Context* cuh_context;

#define threadIdx (cuh_context->threadIdx)
#define blockIdx (cuh_context->blockIdx)
#define blockDim (cuh_context->blockDim)
#define gridDim (cuh_context->gridDim)
#define __global__ static
#define __device__
#define __host__
#define __shared__ static  // shared.ld gathers them; before each block the runtime fills them with NaN
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __syncthreads() cuh_context->block_barrier(__LINE__)

namespace cuh {
template <class T> T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = cuh_context->warp_operation(mask, bits, source);
  memcpy(&value, &bits, sizeof value);
  return value;
}
template <class To, class From> To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace cuh

inline void __syncwarp(unsigned mask = ~0u) { cuh_context->warp_operation(mask, 0, cuh_context->lane()); }
template <class T> T __shfl_sync(unsigned mask, T v, int source) { return cuh::shuffle(mask, v, source & 31); }
template <class T> T __shfl_xor_sync(unsigned mask, T v, int x) {
  return cuh::shuffle(mask, v, cuh_context->lane() ^ x);
}

// Blocks run one after another, so an atomic is an ordinary operation and a fence is nothing. There are no atomics for
// floats.
inline unsigned atomicAdd(unsigned* p, unsigned v) {
  unsigned old = *p;
  *p = old + v;
  return old;
}
inline void __threadfence() {}
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }

inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return __builtin_sqrt(a); }
inline float __double2float_rn(double a) { return float(a); }
inline float __uint2float_rn(unsigned a) { return float(a); }
inline double __ll2double_rn(long long a) { return double(a); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline long long __double_as_longlong(double a) { return cuh::same_bits<long long>(a); }
inline double __longlong_as_double(long long a) { return cuh::same_bits<double>(a); }
inline int __float_as_int(float a) { return cuh::same_bits<int>(a); }

// For compiler.py's generated lines: calls a kernel with an array of pointers to its arguments, and their sizes.
namespace cuh {
template <class... A, size_t... I> void call(void (*f)(A...), void** a, std::index_sequence<I...>) {
  f(*reinterpret_cast<std::remove_reference_t<A>*>(a[I])...);
}
template <class... A> void call(void (*f)(A...), void** a) { call(f, a, std::index_sequence_for<A...>{}); }
template <class... A> const int* sizes(void (*)(A...)) {
  static const int s[] = {int(sizeof(A))..., 0};
  return s;
}
}  // namespace cuh
