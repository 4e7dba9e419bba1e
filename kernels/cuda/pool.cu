// Max and average pooling and their gradients (rule 7), for up to three spatial axes.
//
// A warp is one pixel of 32 images, so a window is a plain loop over its taps; the sizes are template arguments, so the
// loops unroll and the divisions are by constants. Gradients gather: each input pixel looks up, in row-major order, the
// outputs whose windows hold it. So every value has one owner, one order of addition, and no atomics.
// Launch: 8 warps per block, one warp per pixel; grid (maps * pixels / 8 rounded up), maps = blocks * channels.
#include "common.cuh"

constexpr int WARPS = 8;

// Sizes of input, output and window; stride, dilation, and padding before the first pixel.
template <class In_, class Out_, class K_, class S_, class D_, class B_> struct Window {
  using In = In_;
  using Out = Out_;
  using K = K_;
  using S = S_;
  using D = D_;
  using B = B_;
};

// The first and one past the last tap t with 0 <= first + t * dilation < size.
DEVICE int first_tap(int first, int dilation) { return first < 0 ? (-first + dilation - 1) / dilation : 0; }
DEVICE int last_tap(int first, int dilation, int taps, int size) {
  return least(taps, (size - 1 - first) / dilation + 1);
}

// Calls f(tap, pixel) for the window's taps that are inside the image, row-major.
template <class W, class F> DEVICE void over_taps(int p, F f) {
  using K = typename W::K;
  using In = typename W::In;
  const int w = p % W::Out::W * W::S::W - W::B::W, h = p / W::Out::W % W::Out::H * W::S::H - W::B::H;
  const int d = p / (W::Out::W * W::Out::H) * W::S::D - W::B::D;
  for (int a = first_tap(d, W::D::D); a < last_tap(d, W::D::D, K::D, In::D); a++)
    for (int r = first_tap(h, W::D::H); r < last_tap(h, W::D::H, K::H, In::H); r++)
      for (int s = first_tap(w, W::D::W); s < last_tap(w, W::D::W, K::W, In::W); s++)
        f((a * K::H + r) * K::W + s, ((d + a * W::D::D) * In::H + h + r * W::D::H) * In::W + w + s * W::D::W);
}

// The first and one past the last output whose window may hold input pixel `first - before`.
DEVICE int first_output(int first, int kernel, int stride, int dilation) {
  const int reach = (kernel - 1) * dilation;
  return first <= reach ? 0 : (first - reach + stride - 1) / stride;
}
DEVICE int last_output(int first, int stride, int size) { return least(first / stride + 1, size); }

// Calls f(tap, output) for the outputs whose windows hold input pixel i, row-major.
template <class W, class F> DEVICE void over_outputs(int i, F f) {
  using K = typename W::K;
  using S = typename W::S;
  using D = typename W::D;
  using Out = typename W::Out;
  const int w = i % W::In::W + W::B::W, h = i / W::In::W % W::In::H + W::B::H;
  const int d = i / (W::In::W * W::In::H) + W::B::D;
  for (int p = first_output(d, K::D, S::D, D::D); p < last_output(d, S::D, Out::D); p++)
    for (int q = first_output(h, K::H, S::H, D::H); q < last_output(h, S::H, Out::H); q++)
      for (int o = first_output(w, K::W, S::W, D::W); o < last_output(w, S::W, Out::W); o++) {
        const int a = d - p * S::D, r = h - q * S::H, s = w - o * S::W;
        if (a % D::D == 0 && r % D::H == 0 && s % D::W == 0)
          f((a / D::D * K::H + r / D::H) * K::W + s / D::W, (p * Out::H + q) * Out::W + o);
      }
}

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
