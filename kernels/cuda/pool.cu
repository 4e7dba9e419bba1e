// Max and average pooling and their gradients (rule 7), for up to three spatial axes.
//
// A warp is one pixel of 32 images, so a window is a plain loop over its taps; the sizes are template arguments, so the
// loops unroll and the divisions are by constants. Gradients gather: each input pixel looks up, in row-major order, the
// outputs whose windows hold it. So every value has one owner, one order of addition, and no atomics.
// Launch: 8 warps per block, one warp per pixel; grid (maps * pixels / 8 rounded up), maps = blocks * channels.
#include "windows.cuh"

constexpr int WARPS = 8;

// y = the first largest value of each window, whatever the first is; where = its tap. `Tap` is a byte if that suffices.
template <class W, class Tap>
__global__ void __launch_bounds__(LANES * WARPS) max_pool(const float* x, float* y, Tap* where, i64 outputs) {
  const i64 o = i64(blockIdx.x) * WARPS + threadIdx.y;
  if (o >= outputs) return;
  const float* map = x + o / W::Out::product * W::In::product * LANES + threadIdx.x;
  float best = 0.0f;
  int of = -1;
  over_taps<W>(int(o % W::Out::product), [&](int tap, int pixel) {
    const float v = map[i64(pixel) * LANES];
    if (of < 0 || v > best) {
      best = v;
      of = tap;
    }
  });
  y[o * LANES + threadIdx.x] = best;
  where[o * LANES + threadIdx.x] = Tap(of);
}

// dx = from +0, the dy of each output whose maximum this pixel was.
template <class W, class Tap>
__global__ void __launch_bounds__(LANES * WARPS)
    max_pool_gradient(const float* dy, const Tap* where, float* dx, i64 pixels) {
  const i64 i = i64(blockIdx.x) * WARPS + threadIdx.y;
  if (i >= pixels) return;
  const i64 map = i / W::In::product * W::Out::product * LANES + threadIdx.x;
  float sum = 0.0f;
  over_outputs<W>(int(i % W::In::product), [&](int tap, int o) {
    const i64 at = map + i64(o) * LANES;
    if (int(where[at]) == tap) sum = __fadd_rn(sum, dy[at]);
  });
  dx[i * LANES + threadIdx.x] = sum;
}

// y = the sum over the taps inside the image, in order from +0, over counts (outputs of a map,).
template <class W>
__global__ void __launch_bounds__(LANES * WARPS) avg_pool(const float* x, float* y, const float* counts, i64 outputs) {
  const i64 o = i64(blockIdx.x) * WARPS + threadIdx.y;
  if (o >= outputs) return;
  const int p = int(o % W::Out::product);
  const float* map = x + o / W::Out::product * W::In::product * LANES + threadIdx.x;
  float sum = 0.0f;
  over_taps<W>(p, [&](int, int pixel) { sum = __fadd_rn(sum, map[i64(pixel) * LANES]); });
  y[o * LANES + threadIdx.x] = __fdiv_rn(sum, counts[p]);
}

// dx = from +0, dy / count of each output whose window holds this pixel.
template <class W>
__global__ void __launch_bounds__(LANES * WARPS)
    avg_pool_gradient(const float* dy, float* dx, const float* counts, i64 pixels) {
  const i64 i = i64(blockIdx.x) * WARPS + threadIdx.y;
  if (i >= pixels) return;
  const i64 map = i / W::In::product * W::Out::product * LANES + threadIdx.x;
  float sum = 0.0f;
  over_outputs<W>(int(i % W::In::product),
                  [&](int, int o) { sum = __fadd_rn(sum, __fdiv_rn(dy[map + i64(o) * LANES], counts[o])); });
  dx[i * LANES + threadIdx.x] = sum;
}
