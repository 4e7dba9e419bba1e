// A small network in two launches: one block of threads computes everything for one image, with all values in shared
// memory; then the sums over the images, which are the gradients of the weights and the loss.
//
// gpucnn/backends/cuda/fused.py writes down a step's operations as types: a stage for each, whose template arguments are
// sizes, places of values in shared memory (in floats) and numbers of arrays. So every loop has constant bounds and every
// address is a constant plus an index. The first kernel runs the stages one after the other, each by all threads, with a
// barrier behind each; an image's values are row-major (channel, D, H, W). The orders of addition are those of the
// kernels for a layer: a chain belongs to one thread, and sums over the images are trees over parts that each image's
// block of threads has left in memory.
#include "channel.cuh"
#include "operations.cuh"
#include "philox.cuh"
#include "softmax.cuh"
#include "windows.cuh"

constexpr int THREADS = 256;
constexpr int NONE = -1;  // no such array

template <int N> struct Arrays { void* at[N]; };

// What a stage sees: the values in shared memory, the arrays, and the image's number in the batch.
struct Image {
  float* values;
  void* const* arrays;
  int number;

  template <class T> DEVICE T* array(int number) const { return static_cast<T*>(arrays[number]); }
};

// A stage that may run beside the next one: it writes no values, and the next one overwrites none that it reads.
template <class Stage> struct Beside : Stage {};

template <class Stage> constexpr bool HAS_BARRIER = true;
template <class Stage> constexpr bool HAS_BARRIER<Beside<Stage>> = false;

template <class... Each> struct Stages {
  static DEVICE void run(const Image& image) { (one<Each>(image), ...); }

  template <class Stage> static DEVICE void one(const Image& image) {
    Stage::run(image);
    if (HAS_BARRIER<Stage>) __syncthreads();
  }
};

// Everything for image blockIdx.x. Four blocks of threads on a multiprocessor: their registers allow it, and shared memory
// does if the values of an image are few. Launch: grid (images,), block (THREADS,).
template <int FLOATS, int N, class Stages> __global__ void __launch_bounds__(THREADS, 4) image_step(Arrays<N> arrays) {
  __shared__ __align__(16) float values[FLOATS];
  Stages::run(Image{values, arrays.at, int(blockIdx.x)});
}

// ---- images from memory, and values to it ---------------------------------------------------------------------------

// Image indices[number] of images at rest, (N, SIZE); normalized if there are MEAN and SCALE of its channels.
template <int SIZE, int TO, int IMAGES_AT_REST, int INDICES, int POSITIONS = 1, int MEAN = NONE, int SCALE = NONE>
struct Gather {
  static DEVICE void run(const Image& image) {
    const i64 first = image.array<const i64>(INDICES)[image.number] * SIZE;
    const float* from = image.array<const float>(IMAGES_AT_REST) + first;
    for (int i = threadIdx.x; i < SIZE; i += THREADS) {
      float v = from[i];
      if constexpr (MEAN != NONE) {
        const float mean = image.array<const float>(MEAN)[i / POSITIONS];
        v = __fmul_rn(__fsub_rn(v, mean), image.array<const float>(SCALE)[i / POSITIONS]);
      }
      image.values[TO + i] = v;
    }
  }
};

// Where value i of an image is in lanes, (block, SIZE, 32).
template <int SIZE> DEVICE i64 in_lanes(const Image& image, int i) {
  return (i64(image.number / LANES) * SIZE + i) * LANES + image.number % LANES;
}

template <int SIZE, int TO, int BATCH> struct FromLanes {
  static DEVICE void run(const Image& image) {
    const float* from = image.array<const float>(BATCH);
    for (int i = threadIdx.x; i < SIZE; i += THREADS) image.values[TO + i] = from[in_lanes<SIZE>(image, i)];
  }
};

template <int SIZE, int FROM, int BATCH> struct ToLanes {
  static DEVICE void run(const Image& image) {
    float* to = image.array<float>(BATCH);
    for (int i = threadIdx.x; i < SIZE; i += THREADS) to[in_lanes<SIZE>(image, i)] = image.values[FROM + i];
  }
};

// Row `number` of (N, SIZE).
template <int SIZE, int FROM, int ROWS> struct ToRows {
  static DEVICE void run(const Image& image) {
    float* to = image.array<float>(ROWS) + i64(image.number) * SIZE;
    for (int i = threadIdx.x; i < SIZE; i += THREADS) to[i] = image.values[FROM + i];
  }
};

// ---- dot products: convolution, dense layers and their input gradients (rule 2) -------------------------------------

// The position of the first weight or output, and the strides of groups, outputs, channels and the axes.
template <int FIRST_, int G_, int O_, int C_, int D_, int H_, int W_> struct Strides {
  static constexpr int FIRST = FIRST_, G = G_, O = O_, C = C_, D = D_, H = H_, W = W_;
};

// conv.cu's kernel, a thread computing OB output channels by QB pixels of a row at a time. Lanes are neighbors in a row,
// so a weight is one load for most of a warp.
template <int OB, int QB, int GROUPS, int C, int O, class In, class Out, class K, class S, class D, class B,
          class Weights, class Places, int X, int Y, int WEIGHTS, int BIAS, int OTHER, bool RELU>
struct Correlate {
  static DEVICE void run(const Image& image) {
    constexpr int OT = ceil_div(O, OB), QT = ceil_div(Out::W, QB), ITEMS = GROUPS * OT * Out::D * Out::H * QT;
    constexpr int NX = (QB - 1) * S::W + (K::W - 1) * D::W + 1;
    constexpr int UNROLLED_ROWS = OB * QB * K::W <= 128 ? K::H : 1;
#pragma unroll 1
    for (int item = threadIdx.x; item < ITEMS; item += THREADS) {
      // Tiles at an end overlap the one before, which has written what both compute.
      const int q_first = item % QT * QB, q = least(q_first, Out::W - QB);
      const int h_out = item / QT % Out::H, d_out = item / (QT * Out::H) % Out::D, tile = item / (QT * Out::H * Out::D);
      const int group = tile / OT, o_first = tile % OT * OB, o = least(o_first, O - OB);
      const float* x = image.values + X + group * C * In::product;
      const float* weights = image.array<const float>(WEIGHTS) + Weights::FIRST + group * Weights::G + o * Weights::O;
      float acc[OB][QB] = {};
#pragma unroll 1
      for (int c = 0; c < C; c++)
#pragma unroll 1
        for (int a = 0; a < K::D; a++) {
          const int d = d_out * S::D - B::D + a * D::D;
          if (unsigned(d) >= unsigned(In::D)) continue;
#pragma unroll UNROLLED_ROWS
          for (int r = 0; r < K::H; r++) {
            const int h = h_out * S::H - B::H + r * D::H, column = q * S::W - B::W;
            if (unsigned(h) >= unsigned(In::H)) continue;
            const float* row = x + ((c * In::D + d) * In::H + h) * In::W + column;
            const float* of_row = weights + c * Weights::C + a * Weights::D + r * Weights::H;
            float xs[NX];
#pragma unroll
            for (int i = 0; i < NX; i++) xs[i] = unsigned(column + i) < unsigned(In::W) ? row[i] : 0.0f;
#pragma unroll
            for (int s = 0; s < K::W; s++)
#pragma unroll
              for (int i = 0; i < OB; i++) {
                const float w = __ldg(of_row + i * Weights::O + s * Weights::W);
#pragma unroll
                for (int j = 0; j < QB; j++) acc[i][j] = __fmaf_rn(xs[j * S::W + s * D::W], w, acc[i][j]);
              }
          }
        }
#pragma unroll
      for (int i = 0; i < OB; i++) {
        if (o + i < o_first) continue;
        float b = 0.0f;
        if constexpr (BIAS != NONE) b = __ldg(image.array<const float>(BIAS) + group * O + o + i);
#pragma unroll
        for (int j = 0; j < QB; j++) {
          if (q + j < q_first) continue;
          const int at = Places::FIRST + group * Places::G + (o + i) * Places::O + d_out * Places::D +
                         h_out * Places::H + (q + j) * Places::W;
          float v = finished(acc[i][j], b, RELU);
          if constexpr (OTHER != NONE) v = __fadd_rn(v, image.values[OTHER + at]);
          image.values[Y + at] = v;
        }
      }
    }
  }
};

// A dense layer's product: weight (o, k) is at o * W_O + k * W_K. A thread computes an output.
//
// Where the weights of neighboring outputs are adjacent, lanes read them side by side. Otherwise those of an output are
// adjacent: then a warp turns 32 x 32 of them in a square of its own in SCRATCH.
template <int INPUTS, int OUTPUTS, int W_O, int W_K, int X, int Y, int WEIGHTS, int BIAS, bool RELU, int SCRATCH>
struct Multiply {
  static DEVICE void run(const Image& image) {
    const float* weights = image.array<const float>(WEIGHTS);
    const float* x = image.values + X;
    auto end = [&](int o, float acc) {
      float b = 0.0f;
      if constexpr (BIAS != NONE) b = __ldg(image.array<const float>(BIAS) + o);
      image.values[Y + o] = finished(acc, b, RELU);
    };
    if constexpr (W_O == 1) {
      for (int o = threadIdx.x; o < OUTPUTS; o += THREADS) {
        float acc = 0.0f;
#pragma unroll 32
        for (int k = 0; k < INPUTS; k++) acc = __fmaf_rn(x[k], __ldg(weights + o + k * W_K), acc);
        end(o, acc);
      }
    } else {
      static_assert(W_K == 1, "one of the two axes of the weights is contiguous");
      const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
      float* square = image.values + SCRATCH + warp * LANES * (LANES + 1);
      for (int first = warp * LANES; first < OUTPUTS; first += THREADS) {
        float acc = 0.0f, v[LANES];
        auto fetch = [&](int k_first) {
#pragma unroll
          for (int j = 0; j < LANES; j++) {
            const bool there = first + j < OUTPUTS && k_first + lane < INPUTS;
            v[j] = there ? __ldg(weights + (first + j) * W_O + k_first + lane) : 0.0f;
          }
        };
        fetch(0);
#pragma unroll 1
        for (int k_first = 0; k_first < INPUTS; k_first += LANES) {
          __syncwarp();  // the previous square has been used
#pragma unroll
          for (int j = 0; j < LANES; j++) square[j * (LANES + 1) + lane] = v[j];
          __syncwarp();
          if (k_first + LANES < INPUTS) fetch(k_first + LANES);  // on their way while this square is used
          const int terms = least(LANES, INPUTS - k_first);
#pragma unroll 8
          for (int k = 0; k < terms; k++) acc = __fmaf_rn(x[k_first + k], square[lane * (LANES + 1) + k], acc);
        }
        if (first + lane < OUTPUTS) end(first + lane, acc);
      }
    }
  }
};

// ---- pooling (rule 7), value by value (rules 5 to 7), dropout (rule 10) ---------------------------------------------

template <class W, class Tap, int MAPS, int X, int Y, int WHERE> struct MaxPool {
  static DEVICE void run(const Image& image) {
    Tap* where = reinterpret_cast<Tap*>(image.values + WHERE);
    for (int o = threadIdx.x; o < MAPS * W::Out::product; o += THREADS) {
      const float* map = image.values + X + o / W::Out::product * W::In::product;
      float best = 0.0f;
      int of = -1;
      over_taps<W>(o % W::Out::product, [&](int tap, int pixel) {
        if (of < 0 || map[pixel] > best) {
          best = map[pixel];
          of = tap;
        }
      });
      image.values[Y + o] = best;
      where[o] = Tap(of);
    }
  }
};

template <class W, class Tap, int MAPS, int DY, int WHERE, int DX> struct MaxPoolGradient {
  static DEVICE void run(const Image& image) {
    const Tap* where = reinterpret_cast<const Tap*>(image.values + WHERE);
    for (int i = threadIdx.x; i < MAPS * W::In::product; i += THREADS) {
      const int map = i / W::In::product * W::Out::product;
      float sum = 0.0f;
      over_outputs<W>(i % W::In::product, [&](int tap, int o) {
        if (int(where[map + o]) == tap) sum = __fadd_rn(sum, image.values[DY + map + o]);
      });
      image.values[DX + i] = sum;
    }
  }
};

template <class W, int MAPS, int X, int Y, int COUNTS> struct AvgPool {
  static DEVICE void run(const Image& image) {
    for (int o = threadIdx.x; o < MAPS * W::Out::product; o += THREADS) {
      const float* map = image.values + X + o / W::Out::product * W::In::product;
      float sum = 0.0f;
      over_taps<W>(o % W::Out::product, [&](int, int pixel) { sum = __fadd_rn(sum, map[pixel]); });
      image.values[Y + o] = __fdiv_rn(sum, image.array<const float>(COUNTS)[o % W::Out::product]);
    }
  }
};

template <class W, int MAPS, int DY, int DX, int COUNTS> struct AvgPoolGradient {
  static DEVICE void run(const Image& image) {
    const float* counts = image.array<const float>(COUNTS);
    for (int i = threadIdx.x; i < MAPS * W::In::product; i += THREADS) {
      const float* map = image.values + DY + i / W::In::product * W::Out::product;
      float sum = 0.0f;
      over_outputs<W>(i % W::In::product, [&](int, int o) { sum = __fadd_rn(sum, __fdiv_rn(map[o], counts[o])); });
      image.values[DX + i] = sum;
    }
  }
};

// The mean of each map, in float64 (rule 4): a thread takes a map. DEPTH: the bit length of the number of bands.
template <int MAPS, int POSITIONS, int BAND_POSITIONS, int DEPTH, int X, int Y> struct GlobalAvgPool {
  static DEVICE void run(const Image& image) {
    for (int map = threadIdx.x; map < MAPS; map += THREADS) {
      const float* x = image.values + X + map * POSITIONS;
      Tree<double, DEPTH> bands{};
      int band = 0;
#pragma unroll 1
      for (int first = 0; first < POSITIONS; first += BAND_POSITIONS) {
        double sum = 0.0;
#pragma unroll 4
        for (int p = first; p < least(first + BAND_POSITIONS, POSITIONS); p++) sum = __dadd_rn(sum, double(x[p]));
        bands.push(band++, sum);
      }
      const double mean = __ddiv_rn(bands.total(band), double(POSITIONS));
      image.values[Y + map] = __fadd_rn(__double2float_rn(mean), 0.0f);
    }
  }
};

template <int MAPS, int POSITIONS, int DY, int DX> struct GlobalAvgPoolGradient {
  static DEVICE void run(const Image& image) {
    for (int i = threadIdx.x; i < MAPS * POSITIONS; i += THREADS)
      image.values[DX + i] = __fdiv_rn(image.values[DY + i / POSITIONS], float(POSITIONS));
  }
};

template <int SIZE, int FROM, int TO> struct Copy {
  static DEVICE void run(const Image& image) {
    for (int i = threadIdx.x; i < SIZE; i += THREADS) image.values[TO + i] = image.values[FROM + i];
  }
};

// An operation's SETTINGS are arrays of one number.
template <class Operation, int SIZE, int X, int Y, int... SETTINGS> struct Elementwise {
  static DEVICE void run(const Image& image) {
    for (int i = threadIdx.x; i < SIZE; i += THREADS)
      image.values[Y + i] = Operation::value(image.values[X + i], image.array<const float>(SETTINGS)[0]...);
  }
};

template <class Operation, int SIZE, int DY, int SAVED, int DX, int... SETTINGS> struct ElementwiseGradient {
  static DEVICE void run(const Image& image) {
    for (int i = threadIdx.x; i < SIZE; i += THREADS)
      image.values[DX + i] =
          Operation::gradient(image.values[DY + i], image.values[SAVED + i], image.array<const float>(SETTINGS)[0]...);
  }
};

template <int SIZE, int A, int B, int Y, bool RELU> struct Add {
  static DEVICE void run(const Image& image) {
    for (int i = threadIdx.x; i < SIZE; i += THREADS) {
      const float v = __fadd_rn(image.values[A + i], image.values[B + i]);
      image.values[Y + i] = RELU ? rectified(v) : v;
    }
  }
};

// Batch norm with known statistics, plus what is at OTHER; EPS is an array of one number.
template <int C, int POSITIONS, int X, int Y, int MEAN, int VAR, int GAMMA, int BETA, int EPS, int OTHER, bool RELU>
struct BatchNorm {
  static DEVICE void run(const Image& image) {
    const Norm norm{image.array<const float>(MEAN), image.array<const float>(VAR), image.array<const float>(GAMMA),
                    image.array<const float>(BETA), image.array<const float>(EPS)[0]};
    for (int i = threadIdx.x; i < C * POSITIONS; i += THREADS) {
      float v = Normed(norm, i / POSITIONS)(image.values[X + i]);
      if constexpr (OTHER != NONE) v = __fadd_rn(v, image.values[OTHER + i]);
      image.values[Y + i] = RELU ? rectified(v) : v;
    }
  }
};

// NUMBERS holds the rate and 1 / (1 - rate).
template <int SIZE, int X, int Y, int NUMBERS, u64 SEED, int STEP, unsigned LAYER> struct Dropout {
  static DEVICE void run(const Image& image) {
    const float* numbers = image.array<const float>(NUMBERS);
    const unsigned step = image.array<const unsigned>(STEP)[0];
    for (int i = threadIdx.x; i < SIZE; i += THREADS) {
      const unsigned word = philox_word(SEED, u64(image.number) * SIZE + i, step, DROPOUT, LAYER);
      image.values[Y + i] = dropped(image.values[X + i], word, numbers[0], numbers[1]);
    }
  }
};

// ---- softmax and cross-entropy of one position (rule 8) -------------------------------------------------------------

// Leaves the exponentials in `e`, computed by as many threads as there are classes, and gives all threads their sum.
template <int CLASSES> DEVICE Exponentials shared_exponentials(const float* z, float* e) {
  Exponentials found{z[0], 0.0f, 0};
  for (int c = 1; c < CLASSES; c++)
    if (z[c] > found.largest) {
      found.largest = z[c];
      found.first = c;
    }
  for (int c = threadIdx.x; c < CLASSES; c += THREADS) e[c] = elementary::rounded_exp(__fsub_rn(z[c], found.largest));
  __syncthreads();
  for (int c = 0; c < CLASSES; c++) found.sum = __fadd_rn(found.sum, e[c]);
  __syncthreads();  // all have read them
  return found;
}

template <int CLASSES, int X, int Y> struct Softmax {
  static DEVICE void run(const Image& image) {
    const float sum = shared_exponentials<CLASSES>(image.values + X, image.values + Y).sum;
    for (int c = threadIdx.x; c < CLASSES; c += THREADS) image.values[Y + c] = __fdiv_rn(image.values[Y + c], sum);
  }
};

// dz = (p - hot) * SCALE[0]; PART (N, 2) = the image's loss and whether its first largest logit is the label's. LABELS
// are those of the batch or, if there are INDICES, of all images.
template <int CLASSES, int Z, int DZ, int LABELS, int INDICES, int SCALE, int PART> struct CrossEntropy {
  static DEVICE void run(const Image& image) {
    i64 of = image.number;
    if constexpr (INDICES != NONE) of = image.array<const i64>(INDICES)[of];
    const int label = image.array<const int>(LABELS)[of];
    const float scale = image.array<const float>(SCALE)[0];
    float* dz = image.values + DZ;
    const Exponentials e = shared_exponentials<CLASSES>(image.values + Z, dz);
    for (int c = threadIdx.x; c < CLASSES; c += THREADS)
      dz[c] = __fmul_rn(__fsub_rn(__fdiv_rn(dz[c], e.sum), c == label ? 1.0f : 0.0f), scale);
    if (threadIdx.x == 0) {
      const float loss = __fsub_rn(elementary::rounded_log(e.sum), __fsub_rn(image.values[Z + label], e.largest));
      double* part = image.array<double>(PART) + i64(image.number) * 2;
      part[0] = double(loss);
      part[1] = e.first == label ? 1.0 : 0.0;
    }
  }
};

// ---- an image's part of sums over the batch: bands, rule 3a ---------------------------------------------------------

// PART (N, bands, channels) = the sums of dy over the positions of a band, in float64.
template <int CHANNELS, int POSITIONS, int BAND_POSITIONS, int DY, int PART> struct BandsOfChannels {
  static DEVICE void run(const Image& image) {
    constexpr int BANDS = ceil_div(POSITIONS, BAND_POSITIONS);
    double* part = image.array<double>(PART) + i64(image.number) * BANDS * CHANNELS;
    // The last threads first: the first ones have the most to do in the stage that runs beside this one.
    for (int i = THREADS - 1 - threadIdx.x; i < BANDS * CHANNELS; i += THREADS) {
      const int band = i / CHANNELS, last = least((band + 1) * BAND_POSITIONS, POSITIONS);
      const float* dy = image.values + DY + i % CHANNELS * POSITIONS;
      double sum = 0.0;
#pragma unroll 4
      for (int p = band * BAND_POSITIONS; p < last; p++) sum = __dadd_rn(sum, double(dy[p]));
      part[i] = sum;
    }
  }
};

// PART (N, bands, GROUPS * O, C, K) = the chains of dy and x over the positions of a band of BAND_ROWS rows. A thread
// takes OB output channels by a kernel row at a time.
template <int OB, int GROUPS, int C, int O, class In, class Out, class K, class S, class D, class B, int BAND_ROWS,
          int DY, int X, int PART>
struct BandsOfWeights {
  static DEVICE void run(const Image& image) {
    constexpr int ROWS = Out::D * Out::H, BANDS = ceil_div(ROWS, BAND_ROWS), OT = ceil_div(O, OB);
    constexpr int ITEMS = BANDS * GROUPS * OT * C * K::D * K::H, COUNT = GROUPS * O * C * K::product;
#pragma unroll 1
    for (int item = threadIdx.x; item < ITEMS; item += THREADS) {
      const int r = item % K::H, a = item / K::H % K::D, c = item / (K::H * K::D) % C;
      const int tile = item / (K::H * K::D * C) % (GROUPS * OT), band = item / (K::H * K::D * C * GROUPS * OT);
      const int group = tile / OT, o_first = tile % OT * OB, o = least(o_first, O - OB);
      const float* dy = image.values + DY + (group * O + o) * Out::product;
      const float* x = image.values + X + (group * C + c) * In::product;
      float acc[OB][K::W] = {};
#pragma unroll 1
      for (int p = band * BAND_ROWS; p < least((band + 1) * BAND_ROWS, ROWS); p++) {
        const int d = p / Out::H * S::D - B::D + a * D::D, h = p % Out::H * S::H - B::H + r * D::H;
        if (unsigned(d) >= unsigned(In::D) || unsigned(h) >= unsigned(In::H)) continue;
#pragma unroll 4
        for (int q = 0; q < Out::W; q++) {
          float of_dy[OB];
#pragma unroll
          for (int i = 0; i < OB; i++) of_dy[i] = dy[i * Out::product + p * Out::W + q];
#pragma unroll
          for (int s = 0; s < K::W; s++) {
            const int column = q * S::W - B::W + s * D::W;
            const float v = unsigned(column) < unsigned(In::W) ? x[(d * In::H + h) * In::W + column] : 0.0f;
#pragma unroll
            for (int i = 0; i < OB; i++) acc[i][s] = __fmaf_rn(of_dy[i], v, acc[i][s]);
          }
        }
      }
      float* part = image.array<float>(PART) + (i64(image.number) * BANDS + band) * COUNT;
#pragma unroll
      for (int i = 0; i < OB; i++)
#pragma unroll
        for (int s = 0; s < K::W; s++)
          if (o + i >= o_first)
            part[(((group * O + o + i) * C + c) * K::D + a) * K::H * K::W + r * K::W + s] = acc[i][s];
    }
  }
};

// ---- sums over the images: the rest of rule 3 -----------------------------------------------------------------------

constexpr int WARPS = 8;

// The smallest power of two that is at least n.
__host__ __device__ constexpr int filled(int n) { return n <= 1 ? 1 : 2 * filled((n + 1) / 2); }

// The tree over `nodes` terms of SUMS sums a lane, the terms divided among the block's warps: `term(n, to)` sets to[0 ..
// SUMS-1] to the nth. The first warp gets the result. A warp takes 2**(DEPTH - 1) * TOGETHER terms, both factors powers
// of two, TOGETHER at a time, so that their loads are on their way together.
template <class T, int SUMS, int DEPTH, int TOGETHER, class Term>
DEVICE void tree_by_warps(Term term, int nodes, T* scratch, T (&result)[SUMS]) {
  const int lane = threadIdx.x;
  Tree<T, DEPTH> trees[SUMS] = {};
  int taken = 0;
#pragma unroll 1
  for (int n = threadIdx.y << (DEPTH - 1); taken < 1 << (DEPTH - 1) && n * TOGETHER < nodes; n++, taken++) {
    T v[TOGETHER][SUMS];
#pragma unroll
    for (int t = 0; t < TOGETHER; t++) term(n * TOGETHER + t, v[t]);
#pragma unroll
    for (int d = 1; d < TOGETHER; d *= 2)
#pragma unroll
      for (int t = 0; t < TOGETHER; t += 2 * d)
#pragma unroll
        for (int s = 0; s < SUMS; s++) v[t][s] = add(v[t][s], v[t + d][s]);
#pragma unroll
    for (int s = 0; s < SUMS; s++) trees[s].push(taken, v[0][s]);
  }
#pragma unroll
  for (int s = 0; s < SUMS; s++) scratch[(threadIdx.y * SUMS + s) * LANES + lane] = trees[s].total(taken);
  __syncthreads();
  if (threadIdx.y == 0)
#pragma unroll
    for (int s = 0; s < SUMS; s++) {
      Tree<T, 4> over_warps{};  // 8 terms
#pragma unroll
      for (int w = 0; w < WARPS; w++) over_warps.push(w, scratch[(w * SUMS + s) * LANES + lane]);
      result[s] = over_warps.total(WARPS);
    }
}

// Where sum number i goes.
template <int OUT> struct Weight {
  static DEVICE void store(void* const* arrays, int i, int, float sum) {
    static_cast<float*>(arrays[OUT])[i] = __fadd_rn(sum, 0.0f);
  }
};
template <int OUT> struct Rounded {
  static DEVICE void store(void* const* arrays, int i, int, double sum) {
    static_cast<float*>(arrays[OUT])[i] = __fadd_rn(__double2float_rn(sum), 0.0f);
  }
};
// The first sum is the loss, the second the number of hits.
template <int MEAN, int TOTALS> struct Loss {
  static DEVICE void store(void* const* arrays, int i, int images, double sum) {
    if (i == 0) static_cast<float*>(arrays[MEAN])[0] = __double2float_rn(__ddiv_rn(sum, double(images)));
    if constexpr (TOTALS != NONE) {
      double* totals = static_cast<double*>(arrays[TOTALS]);
      totals[i] = __dadd_rn(totals[i], sum);
    }
  }
};

// Sums of PART (N, BANDS, COUNT) over images and bands: the tree over the images of a block and, one tree because the
// bands of each are filled up by +0 to a power of two, over bands and blocks. A block of threads has 32 sums.
template <class T, int COUNT, int BANDS, int DEPTH, int TOGETHER, int PART, class End> struct Sums {
  static constexpr int BLOCKS = ceil_div(COUNT, LANES), FILLED = filled(BANDS);

  static DEVICE void run(void* const* arrays, int block, int images, void* scratch) {
    const int i = block * LANES + threadIdx.x;
    const T* part = static_cast<const T*>(arrays[PART]) + i;
    T sum[1];
    auto term = [&](int node, T(&to)[1]) {
      const int first = node / FILLED * IMAGES, band = node % FILLED;
      T v[IMAGES];
#pragma unroll
      for (int n = 0; n < IMAGES; n++) {
        const bool there = i < COUNT && band < BANDS && first + n < images;
        v[n] = there ? part[(i64(first + n) * BANDS + band) * COUNT] : T(0);
      }
#pragma unroll
      for (int d = 1; d < IMAGES; d *= 2)
#pragma unroll
        for (int n = 0; n < IMAGES; n += 2 * d) v[n] = add(v[n], v[n + d]);
      to[0] = v[0];
    };
    tree_by_warps<T, 1, DEPTH, TOGETHER>(term, ceil_div(images, IMAGES) * FILLED, static_cast<T*>(scratch), sum);
    if (threadIdx.y == 0 && i < COUNT) End::store(arrays, i, images, sum[0]);
  }
};

constexpr int SIDE_BY_SIDE = 4;  // outputs whose weights a thread sums

// The weight gradient of a dense layer, from rows of dy (N, OUTPUTS) and x (N, INPUTS): a chain over the images of each
// block, then the tree over the blocks. A block of threads has 32 inputs by SIDE_BY_SIDE outputs.
template <int INPUTS, int OUTPUTS, int DEPTH, int DY, int X, int OUT> struct DenseWeights {
  static constexpr int COLUMNS = ceil_div(INPUTS, LANES), BLOCKS = COLUMNS * ceil_div(OUTPUTS, SIDE_BY_SIDE);

  static DEVICE void run(void* const* arrays, int block, int images, void* scratch) {
    const int k = block % COLUMNS * LANES + threadIdx.x, o = block / COLUMNS * SIDE_BY_SIDE;
    const float* x = static_cast<const float*>(arrays[X]) + k;
    const float* dy = static_cast<const float*>(arrays[DY]) + o;
    float sum[SIDE_BY_SIDE];
    auto term = [&](int node, float (&to)[SIDE_BY_SIDE]) {
      float v[IMAGES];
#pragma unroll
      for (int n = 0; n < IMAGES; n++) {
        const int image = node * IMAGES + n;
        v[n] = k < INPUTS && image < images ? x[i64(image) * INPUTS] : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < SIDE_BY_SIDE; i++) {
        to[i] = 0.0f;
#pragma unroll
        for (int n = 0; n < IMAGES; n++) {
          const int image = node * IMAGES + n;
          const float d = o + i < OUTPUTS && image < images ? dy[i64(image) * OUTPUTS + i] : 0.0f;
          to[i] = __fmaf_rn(d, v[n], to[i]);
        }
      }
    };
    tree_by_warps<float, SIDE_BY_SIDE, DEPTH, 1>(term, ceil_div(images, IMAGES), static_cast<float*>(scratch), sum);
    if (threadIdx.y == 0 && k < INPUTS)
#pragma unroll
      for (int i = 0; i < SIDE_BY_SIDE; i++)
        if (o + i < OUTPUTS) Weight<OUT>::store(arrays, (o + i) * INPUTS + k, images, sum[i]);
  }
};

// Jobs side by side, each with as many blocks of threads as it has use for.
template <class Job, class... Others> struct Jobs {
  static DEVICE void run(void* const* arrays, int block, int images, void* scratch) {
    if (block < Job::BLOCKS) {
      Job::run(arrays, block, images, scratch);
    } else if constexpr (sizeof...(Others) > 0) {
      Jobs<Others...>::run(arrays, block - Job::BLOCKS, images, scratch);
    }
  }
};

// All sums over the images. Launch: grid (all jobs' blocks,), block (32, WARPS).
template <int N, class Jobs> __global__ void __launch_bounds__(LANES* WARPS, 2) image_sums(Arrays<N> arrays, int images) {
  __shared__ __align__(16) char scratch[WARPS * LANES * SIDE_BY_SIDE * sizeof(float)];
  Jobs::run(arrays.at, blockIdx.x, images, scratch);
}
