// Optimizers over the flat parameter buffer (rule 9), running statistics, and the watch for numbers that are not
// finite.
//
// One thread per weight, 256 per block: what a weight needs is at its own index in each array. The learning rate
// and what else changes from step to step is read from `hyper` on the device, because a captured step is repeated.
#include "common.cuh"

DEVICE bool is_finite(float v) { return (__float_as_int(v) & 0x7f800000) != 0x7f800000; }

// What a training step does at its end, unless `status` is null: it sets status to its number if that is still -1 and
// the loss or a new weight is not finite. All who find one write the same number.
//
// Then, unless `row` is null, it prepares the next step: row + 1, and while there are rows left, the step's indices and
// rates from tables (rows, batch) and (rows, hypers), and its number. So a repeated step needs nothing from the host.
struct StepEnd {
  i64* status;
  unsigned* step;
  const float* loss;
  unsigned* row;
  const i64* order;
  i64* indices;
  const float* rates;
  float* hyper;
  unsigned* counter;
  int rows, batch, hypers;

  DEVICE void watch(float weight, bool first) const {
    if (status && (!is_finite(weight) || (first && !is_finite(loss[0]))) && *status == -1) *status = i64(step[0]);
  }

  // All threads call it, after everything else.
  DEVICE void advance() const {
    if (!row || !last_of(gridDim.x, counter)) return;
    const unsigned next = row[0] + 1;
    __syncthreads();  // all have read it
    if (next < unsigned(rows)) {
      for (int i = threadIdx.x; i < batch; i += blockDim.x) indices[i] = order[i64(next) * batch + i];
      for (int i = threadIdx.x; i < hypers; i += blockDim.x) hyper[i] = rates[i64(next) * hypers + i];
    }
    if (threadIdx.x == 0) {
      row[0] = next;
      step[0] = step[0] + 1;
    }
  }
};

DEVICE float sgd_step(float* w, const float* g, float* v, const float* hyper, float momentum, float weight_decay,
                      int nesterov, i64 i) {
  const float gradient = __fmaf_rn(weight_decay, w[i], g[i]);
  float velocity = __fmaf_rn(momentum, v[i], gradient);
  v[i] = velocity;
  if (nesterov) velocity = __fmaf_rn(momentum, velocity, gradient);
  return w[i] = __fmaf_rn(-hyper[0], velocity, w[i]);
}

__global__ void __launch_bounds__(256) sgd(float* w, const float* g, float* v, const float* hyper, float momentum,
                                           float weight_decay, int nesterov, StepEnd end, i64 size) {
  const i64 i = thread_number();
  if (i < size) end.watch(sgd_step(w, g, v, hyper, momentum, weight_decay, nesterov, i), i == 0);
  end.advance();
}

// Adam, or AdamW where the decay is decoupled; rest = 1 - beta; hyper = (lr, c1, c2, lr * decay).
DEVICE float adam_step(float* w, const float* g, float* m, float* v, const float* hyper, float beta1, float beta2,
                       float rest1, float rest2, float eps, float weight_decay, int decoupled, i64 i) {
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
  return w[i] = __fmaf_rn(-hyper[0], __fdiv_rn(__fdiv_rn(mean, hyper[1]), divisor), weight);
}

__global__ void __launch_bounds__(256)
    adam(float* w, const float* g, float* m, float* v, const float* hyper, float beta1, float beta2, float rest1,
         float rest2, float eps, float weight_decay, int decoupled, StepEnd end, i64 size) {
  const i64 i = thread_number();
  if (i < size) {
    const float weight = adam_step(w, g, m, v, hyper, beta1, beta2, rest1, rest2, eps, weight_decay, decoupled, i);
    end.watch(weight, i == 0);
  }
  end.advance();
}

// running = fma(momentum, batch - running, running)
__global__ void __launch_bounds__(256) update_running(float* running, const float* batch, float momentum, i64 size) {
  const i64 i = thread_number();
  if (i < size) running[i] = __fmaf_rn(momentum, __fsub_rn(batch[i], running[i]), running[i]);
}

// The end of a step whose optimizer is not one of these.
__global__ void __launch_bounds__(256) end_step(const float* w, StepEnd end, i64 size) {
  const i64 i = thread_number();
  if (i < size || i == 0) end.watch(i < size ? w[i] : 0.0f, i == 0);
  end.advance();
}
