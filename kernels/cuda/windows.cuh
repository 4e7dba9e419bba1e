// The taps of pooling windows, and the outputs whose windows hold a pixel (rule 7).
#pragma once
#include "common.cuh"

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
  if constexpr (K::D == S::D && K::H == S::H && K::W == S::W && D::product == 1) {  // windows side by side
    const int p = d / S::D, q = h / S::H, o = w / S::W;
    if (p < Out::D && q < Out::H && o < Out::W)
      f((d % S::D * K::H + h % S::H) * K::W + w % S::W, (p * Out::H + q) * Out::W + o);
    return;
  }
  for (int p = first_output(d, K::D, S::D, D::D); p < last_output(d, S::D, Out::D); p++)
    for (int q = first_output(h, K::H, S::H, D::H); q < last_output(h, S::H, Out::H); q++)
      for (int o = first_output(w, K::W, S::W, D::W); o < last_output(w, S::W, Out::W); o++) {
        const int a = d - p * S::D, r = h - q * S::H, s = w - o * S::W;
        if (a % D::D == 0 && r % D::H == 0 && s % D::W == 0)
          f((a / D::D * K::H + r / D::H) * K::W + s / D::W, (p * Out::H + q) * Out::W + o);
      }
}
