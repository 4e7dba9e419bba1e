// Optimizers over the flat parameter buffer (rule 9), running statistics, and the watch for numbers that are not
// finite.
//
// One thread per weight, 256 per block: what a weight needs is at its own index in each array. The learning rate
// and what else changes from step to step is read from `hyper` on the device, because a captured step is repeated.
#include "common.cuh"

__global__ void __launch_bounds__(256) sgd(float* w, const float* g, float* v, const float* hyper, float momentum,
                                           float weight_decay, int nesterov, i64 size) {
  const i64 i = thread_number();
  if (i >= size) return;
  const float gradient = __fmaf_rn(weight_decay, w[i], g[i]);
  float velocity = __fmaf_rn(momentum, v[i], gradient);
  v[i] = velocity;
  if (nesterov) velocity = __fmaf_rn(momentum, velocity, gradient);
  w[i] = __fmaf_rn(-hyper[0], velocity, w[i]);
}

// Adam, or AdamW where the decay is decoupled; rest = 1 - beta; hyper = (lr, c1, c2, lr * decay).
__global__ void __launch_bounds__(256)
    adam(float* w, const float* g, float* m, float* v, const float* hyper, float beta1, float beta2, float rest1,
         float rest2, float eps, float weight_decay, int decoupled, i64 size) {
  const i64 i = thread_number();
  if (i >= size) return;
  float weight = w[i], gradient = g[i];
  if (decoupled)
    weight = __fmaf_rn(-hyper[3], weight, weight);
  else
    gradient = __fmaf_rn(weight_decay, weight, gradient);
  const float mean = __fmaf_rn(beta1, m[i], __fmul_rn(rest1, gradient));
  const float square = __fmaf_rn(beta2, v[i], __fmul_rn(__fmul_rn(rest2, gradient), gradient));
  m[i] = mean;
  v[i] = square;
  const float divisor = __fadd_rn(__fsqrt_rn(__fdiv_rn(square, hyper[2])), eps);
  w[i] = __fmaf_rn(-hyper[0], __fdiv_rn(__fdiv_rn(mean, hyper[1]), divisor), weight);
}

// running = fma(momentum, batch - running, running)
__global__ void __launch_bounds__(256) update_running(float* running, const float* batch, float momentum, i64 size) {
  const i64 i = thread_number();
  if (i < size) running[i] = __fmaf_rn(momentum, __fsub_rn(batch[i], running[i]), running[i]);
}

DEVICE bool is_finite(float v) { return (__float_as_int(v) & 0x7f800000) != 0x7f800000; }

// status = step if it is still -1 and the loss or a weight is not finite. All who find one write the same number.
__global__ void __launch_bounds__(256)
    watch(i64* status, const unsigned* step, const float* loss, const float* w, i64 size) {
  const i64 i = thread_number();
  const bool bad = (i < size && !is_finite(w[i])) || (i == 0 && !is_finite(loss[0]));
  if (bad && *status == -1) *status = i64(step[0]);
}
