// Images between their resting layout, (N, C, D, H, W), and lanes, (block, C, D, H, W, 32); and their labels.
//
// Loading is a transposition: neighboring pixels of one image come together in memory, neighboring lanes go together.
// A block of 32 x 8 threads takes 32 values of 32 images through a square of shared memory, so that both sides read and
// write 128 bytes at a time; the square's rows are 33 long, so that a column uses 32 different banks.
#include "philox.cuh"

constexpr int ROWS = 8;  // of threads

// y_labels (block, 32) = labels[indices[i]] for i < count, -1 behind, unless labels is null.
// y = images[indices[i]] for i < count, zeros behind; each image moved by a draw in [-shift, shift] along its last
// `axes` axes (rule 10), zeros moving in; `offset` is the number of the first image in the whole batch.
// Launch: grid (values / 32 rounded up, blocks of 32 images as block_of_images says), values = C * D * H * W.
__global__ void __launch_bounds__(LANES * ROWS)
    load_images(const float* images, const i64* indices, float* y, const int* labels, int* y_labels, int count,
                int shift, int axes, i64 offset, u64 seed, const unsigned* step, int C, int D, int H, int W) {
  __shared__ float square[LANES][LANES + 1];
  __shared__ int moves[LANES][3];
  const int lane = threadIdx.x, values = C * D * H * W;
  const i64 block = block_of_images();
  if (block * LANES >= count) return;
  if (labels && blockIdx.x == 0 && threadIdx.y == 0)
    y_labels[block * LANES + lane] = block * LANES + lane < count ? labels[indices[block * LANES + lane]] : -1;
  for (int e = threadIdx.y * LANES + lane; e < LANES * 3; e += LANES * ROWS) {
    const int axis = e / LANES, first = 3 - axes;
    const i64 i = block * LANES + e % LANES;
    int move = 0;
    if (shift && axis >= first && i < count) {
      const u64 draw = philox_word(seed, u64((offset + i) * axes + axis - first), step[0], SHIFT, 0) >> 8;
      move = int(draw * u64(2 * shift + 1) >> 24) - shift;
    }
    moves[e % LANES][axis] = move;
  }
  __syncthreads();
  const int v = blockIdx.x * LANES + lane;
  const int w = v % W, h = v / W % H, d = v / (W * H) % D, c = v / (W * H * D);
  for (int r = threadIdx.y; r < LANES; r += ROWS) {
    const i64 i = block * LANES + r;
    const int sd = d - moves[r][0], sh = h - moves[r][1], sw = w - moves[r][2];
    const bool inside = unsigned(sd) < unsigned(D) && unsigned(sh) < unsigned(H) && unsigned(sw) < unsigned(W);
    float value = 0.0f;
    if (v < values && i < count && inside) value = images[indices[i] * values + ((i64(c) * D + sd) * H + sh) * W + sw];
    square[r][lane] = value;
  }
  __syncthreads();
  for (int r = threadIdx.y; r < LANES; r += ROWS) {
    const int to = blockIdx.x * LANES + r;
    if (to < values) y[(block * values + to) * LANES + lane] = square[lane][r];
  }
}

// images (N, values) from x (block, values, 32): the reverse. The same launch.
__global__ void __launch_bounds__(LANES * ROWS) unpack(const float* x, float* images, int count, int values) {
  __shared__ float square[LANES][LANES + 1];
  const int lane = threadIdx.x, first = blockIdx.x * LANES;
  const i64 block = block_of_images();
  if (block * LANES >= count) return;
  for (int r = threadIdx.y; r < LANES; r += ROWS)
    if (first + r < values) square[r][lane] = x[(block * values + first + r) * LANES + lane];
  __syncthreads();
  for (int r = threadIdx.y; r < LANES; r += ROWS)
    if (first + lane < values && block * LANES + r < count)
      images[(block * LANES + r) * values + first + lane] = square[lane][r];
}

// y (block, 32) = labels[indices[i]] for i < count, -1 behind. One thread per label.
__global__ void __launch_bounds__(256) load_labels(const int* labels, const i64* indices, int* y, int count, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) y[i] = i < count ? labels[indices[i]] : -1;
}
