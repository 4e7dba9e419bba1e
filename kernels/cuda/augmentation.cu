// Images from their resting layout, (N, C, D, H, W), into lanes, cropped or shifted, mirrored, normalized and cut out
// (rules 5 and 10). Plain loading and shifts are in images.cu, and so is why a square of shared memory turns the images.
//
// Each block of threads draws its own 32 images' numbers: seven per image, one thread per number. They
// are drawn again for every 32 values of an image, which costs less than a launch of its own and a trip through memory.
#include "philox.cuh"

constexpr int ROWS = 8;  // of threads

// What is drawn for one image: the position of the output's first pixel in it, where its cutout starts, whether it is
// mirrored.
enum { ORIGIN = 0, FIRST = 3, MIRRORED = 6, DRAWS = 7 };

// y_labels (block, 32) = labels[indices[i]] for i < count, -1 behind, unless labels is null.
// y = images[indices[i]] for i < count, zeros behind; (x - mean) * scale of the pixels shown, +0 elsewhere. The last
// `axes` axes are the images' own; `offset` is the number of the first image in the whole batch. `step` is null where
// nothing is drawn: then crops are from the middle. Launch: as load_images of images.cu, values = C * D * H * W of the
// output, 32 x 8 threads.
__global__ void __launch_bounds__(LANES * ROWS)
    load_augmented(const float* images, const i64* indices, float* y, const int* labels, int* y_labels, int count,
                   int shift, int crops, int flips, int cutout, int axes, i64 offset, u64 seed, const unsigned* step,
                   const float* mean, const float* scale, int C, int D, int H, int W, int ID, int IH, int IW) {
  __shared__ float square[LANES][LANES + 1];
  __shared__ int drawn[LANES][DRAWS];
  const int lane = threadIdx.x, values = C * D * H * W;
  const i64 block = block_of_images();
  if (block * LANES >= count) return;
  if (labels && blockIdx.x == 0 && threadIdx.y == 0)
    y_labels[block * LANES + lane] = block * LANES + lane < count ? labels[indices[block * LANES + lane]] : -1;
  const int kind = threadIdx.y;
  if (kind < DRAWS) {
    const int axis = kind % 3, own = axis - (3 - axes);  // below 0 for an axis that the images do not have
    const int size = axis == 0 ? D : axis == 1 ? H : W, room = (axis == 0 ? ID : axis == 1 ? IH : IW) - size;
    const i64 i = block * LANES + lane;
    int value = kind < FIRST ? room >> 1 : 0;
    if (step && i < count) {
      const u64 index = u64((offset + i) * axes + own);
      if (kind == MIRRORED) {
        value = flips ? philox_word(seed, u64(offset + i), step[0], FLIP, 0) >> 31 : 0;
      } else if (own >= 0 && kind >= FIRST) {
        const u64 draw = philox_word(seed, index, step[0], CUTOUT, 0) >> 8;
        value = int(draw * u64(size) >> 24) - cutout / 2;
      } else if (own >= 0 && crops) {
        const u64 draw = philox_word(seed, index, step[0], CROP, 0) >> 8;
        value = int(draw * u64(room + 2 * shift + 1) >> 24) - shift;
      } else if (own >= 0 && shift) {
        const u64 draw = philox_word(seed, index, step[0], SHIFT, 0) >> 8;
        value = shift - int(draw * u64(2 * shift + 1) >> 24);
      }
    }
    drawn[lane][kind] = value;
  }
  __syncthreads();
  const int v = blockIdx.x * LANES + lane;
  const int w = v % W, h = v / W % H, d = v / (W * H) % D, c = v / (W * H * D);
  const bool cuts = step && cutout > 0;
  for (int r = threadIdx.y; r < LANES; r += ROWS) {
    const i64 i = block * LANES + r;
    const int sd = d + drawn[r][ORIGIN], sh = h + drawn[r][ORIGIN + 1];
    const int sw = (drawn[r][MIRRORED] ? W - 1 - w : w) + drawn[r][ORIGIN + 2];
    bool shown = unsigned(sd) < unsigned(ID) && unsigned(sh) < unsigned(IH) && unsigned(sw) < unsigned(IW);
    if (cuts) {
      const unsigned side = unsigned(cutout);
      // An axis that the images do not have holds one pixel, and its cutout starts there.
      const bool cut = unsigned(d - drawn[r][FIRST]) < side && unsigned(h - drawn[r][FIRST + 1]) < side &&
                       unsigned(w - drawn[r][FIRST + 2]) < side;
      shown = shown && !cut;
    }
    float value = 0.0f;
    if (v < values && i < count && shown) {
      const float x = images[((indices[i] * C + c) * ID + sd) * i64(IH) * IW + i64(sh) * IW + sw];
      value = __fmul_rn(__fsub_rn(x, mean[c]), scale[c]);
    }
    square[r][lane] = value;
  }
  __syncthreads();
  for (int r = threadIdx.y; r < LANES; r += ROWS) {
    const int to = blockIdx.x * LANES + r;
    if (to < values) y[(block * values + to) * LANES + lane] = square[lane][r];
  }
}
