// Shared by all kernels: the layout, float arithmetic that is never fused or flushed, and the trees of rule 3.
//
// Batches are stored in lanes, (block, channel, *spatial, 32): a warp is one pixel or channel of 32 images, and thread
// threadIdx.x % 32 is one image throughout a kernel. The contract's blocks have 16 images, so a warp holds two of them
// and its level (b), the tree over the images of a block, runs in each half warp by itself.
#pragma once

#define DEVICE __device__ __forceinline__

typedef long long i64;
typedef unsigned long long u64;

constexpr int LANES = 32;
constexpr int IMAGES = 16;  // in a block of the contract
constexpr int BAND = 64;    // values of a line that are summed together; of maps the host says how many rows
constexpr unsigned WHOLE_WARP = 0xffffffffu;
// A tree has one slot per level: enough for a million terms.
constexpr int LEVELS = 20;

// One number per spatial axis. Images of fewer dimensions have leading axes of size 1.
template <int D_, int H_, int W_> struct Axes { static constexpr int D = D_, H = H_, W = W_, product = D_ * H_ * W_; };

// The type of an index into PIXELS pixels of 32 lanes: int as long as it is enough.
template <bool LARGE> struct IndexOf { typedef int type; };
template <> struct IndexOf<true> { typedef i64 type; };
template <i64 PIXELS> using Index = typename IndexOf<(PIXELS * LANES > 0x7fffffff)>::type;

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int least(int a, int b) { return a < b ? a : b; }

DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
DEVICE double add(double a, double b) { return __dadd_rn(a, b); }
DEVICE float rectified(float v) { return v > 0.0f ? v : 0.0f; }
DEVICE float inverse_deviation(float var, float eps) { return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(var, eps))); }

// The end of every dot product. The last + 0 turns -0 into +0, so taps on padding may be skipped or multiplied by zero.
DEVICE float finished(float acc, float bias, bool relu) {
  const float v = __fadd_rn(__fadd_rn(acc, bias), 0.0f);
  return relu ? rectified(v) : v;
}

// A thread's number where it takes a value, or a few neighbors, of a flat array.
DEVICE i64 thread_number() { return i64(blockIdx.x) * blockDim.x + threadIdx.x; }

// The block of images of a block of threads, where the grid has those along y, 65535 at most, and then along z: it may be
// one behind the last.
DEVICE i64 block_of_images() { return i64(blockIdx.z) * gridDim.y + blockIdx.y; }

// Whether a lane of a block of 32 holds an image and not padding.
DEVICE bool present(i64 block, int lane, int images) { return block * LANES + lane < images; }

// Level (b): the tree of adjacent pairs over the 16 lanes of each half warp. All lanes of a half get its sum.
template <class T> DEVICE T half_warp_sum(T v) {
#pragma unroll
  for (int d = 1; d < IMAGES; d *= 2) v = add(v, __shfl_xor_sync(WHOLE_WARP, v, d));
  return v;
}

// The same for N values per lane at once, with N shuffles instead of 4 N: at each step a lane keeps half of its values
// and gives the other half away. Lane l of a half ends with the sums of values l, l + 16, l + 32 ..., in v[0], v[1],
// v[2] ...
template <int N> DEVICE void half_warp_step(float* v, int lane, int d) {
  const bool odd = lane & d;
#pragma unroll
  for (int i = 0; i < (N + 1) / 2; i++) {
    const float a = v[2 * i], b = 2 * i + 1 < N ? v[2 * i + 1] : 0.0f;
    const float got = __shfl_xor_sync(WHOLE_WARP, odd ? a : b, d);
    v[i] = __fadd_rn(odd ? b : a, got);
  }
}
template <int N> DEVICE void half_warp_sums(float* v, int lane) {
  constexpr int N1 = (N + 1) / 2, N2 = (N1 + 1) / 2, N3 = (N2 + 1) / 2;
  half_warp_step<N>(v, lane, 1);
  half_warp_step<N1>(v, lane, 2);
  half_warp_step<N2>(v, lane, 4);
  half_warp_step<N3>(v, lane, 8);
}

// A tree of adjacent pairs whose terms come one by one. It is a binary counter: term t merges with as many waiting sums
// as t has trailing one bits, and what is left over at the end merges from the lowest level up.
template <class T, int DEPTH = LEVELS> struct Tree {
  T slot[DEPTH];

  DEVICE void push(unsigned t, T value) {
    bool merging = true;
#pragma unroll
    for (int level = 0; level < DEPTH; level++) {
      if (merging && !(t >> level & 1)) {
        slot[level] = value;
        merging = false;
      }
      if (merging) value = add(slot[level], value);
    }
  }

  DEVICE T total(unsigned terms) const {  // +0 for no terms
    T value = 0;
    bool any = false;
#pragma unroll
    for (int level = 0; level < DEPTH; level++)
      if (terms >> level & 1) {
        value = any ? add(slot[level], value) : slot[level];
        any = true;
      }
    return value;
  }
};

// The last block of threads to call this for a counter gets true, and then sees all that the others wrote before they
// called; it also leaves the counter at 0 again. Everybody else gets false. All threads of the block must call it.
DEVICE bool last_of(unsigned callers, unsigned* counter) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    last = atomicAdd(counter, 1u) == callers - 1;
    if (last) *counter = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}
