// Adding up what several processes, or several pieces of a batch, have summed (rule 3d).
//
// One thread per number: grid (size / 256), block (256).
#include "common.cuh"

// out[at + i] = x[i]
template <class T> __global__ void __launch_bounds__(256) pack(const T* x, T* out, i64 at, i64 size) {
  const i64 i = thread_number();
  if (i < size) out[at + i] = x[i];
}

// out[i] = the tree over the first `count` rows of `rows` (count, size).
template <class T> __global__ void __launch_bounds__(256) rows_tree(const T* rows, T* out, int count, i64 size) {
  const i64 i = thread_number();
  if (i >= size) return;
  Tree<T> tree;
  for (int row = 0; row < count; row++) tree.push(row, rows[row * size + i]);
  out[i] = tree.total(count);
}

// out[i] = total[at + i] + 0
__global__ void __launch_bounds__(256) spread(const float* total, float* out, i64 at, i64 size) {
  const i64 i = thread_number();
  if (i < size) out[i] = __fadd_rn(total[at + i], 0.0f);
}

// What becomes of `size` sums from total[at] on, each where there is an array for it: sum / count in float64 and, the
// first `means` of them, in float32; the unbiased variance; the rounded sum + 0; a total that gains the sum. Without a
// count it is 1, and where it is 0, as of a batch without labels, the sum is 0 and so is the mean.
__global__ void __launch_bounds__(256)
    finish(const double* total, const double* count, double* mean64, float* mean, float* unbiased, float* rounded,
           double* gained, i64 at, i64 means, i64 size) {
  const i64 i = thread_number();
  if (i >= size) return;
  const double sum = total[at + i], number = count && count[0] > 0.0 ? count[0] : 1.0, value = __ddiv_rn(sum, number);
  if (mean64) mean64[i] = value;
  if (mean && i < means) mean[i] = __double2float_rn(value);
  if (unbiased) {
    const double others = number > 2.0 ? __dsub_rn(number, 1.0) : 1.0;
    unbiased[i] = __double2float_rn(__ddiv_rn(__dmul_rn(value, number), others));
  }
  if (rounded) rounded[i] = __fadd_rn(__double2float_rn(sum), 0.0f);
  if (gained) gained[i] = __dadd_rn(gained[i], sum);
}
