// Dropout (rule 10): y = u < rate ? +0 : x * scale, u being drawn from the value's place in the whole batch.
//
// x and y are (block, values, lane); the value's logical index is image * values + value, so what a lane draws does not
// depend on how many lanes there are; `offset` is the number of the first image in the whole batch. Launch: 256 threads per block, one thread per value; `size` counts the values.
// The step number is read from the device, because a captured training step is repeated with another one.
#include "philox.cuh"

__global__ void __launch_bounds__(256) dropout(const float* x, float* y, float rate, float scale, i64 offset, u64 seed,
                                               const unsigned* step, unsigned layer, i64 values, i64 size) {
  const i64 i = thread_number();
  if (i >= size) return;
  const i64 block = i / (values * LANES), value = i / LANES % values, image = block * LANES + i % LANES;
  const unsigned word = philox_word(seed, u64((offset + image) * values + value), step[0], DROPOUT, layer);
  y[i] = dropped(x[i], word, rate, scale);
}
