// Convolution: forward and input gradient (rule 2), and weight gradient (rule 3), for up to three spatial axes.
//
// Activations are (block, channel, D, H, W, 32), a warp being 32 images; every size is a template argument, so that
// loops unroll, divisions are by constants and addresses are constants too. Groups are independent convolutions; C and
// O below are the channels of one group.
//
// Why register tiles. A product needs one weight, the same for all lanes, and one pixel. A warp that owns OB output
// channels by QB neighboring pixels loads OB weights and a few pixels for OB * QB multiply-adds. Each accumulator is
// the chain of rule 2 as it stands: k in order, never split. The weights come through shared memory, where one 16-byte
// load serves all lanes; the pixels come from L1, where a row's taps find the same pixels again.
#include "channel.cuh"

// OB output channels by QB pixels of a row a warp; WK warps side by side along the channels and WP along the pixels;
// the weights of CC channels in shared memory at a time; SB taps of a kernel row in registers at a time.
template <int OB_, int QB_, int WK_, int WP_, int CC_, int SB_> struct Tile {
  static constexpr int OB = OB_, QB = QB_, WK = WK_, WP = WP_, CC = CC_, SB = SB_, threads = LANES * WK * WP;
  // Weights of all OB * WK channels side by side in shared memory: 16-byte loads, and the next row in other banks.
  static constexpr int ROW = OB * WK == 1 ? 1 : ceil_div(OB * WK, 4) * 4 + 4;
};

// Strides of the weights in elements: from a group, output, channel and tap along each axis to the next.
template <int GROUP_, int O_, int C_, class Tap_> struct WeightStrides {
  static constexpr int GROUP = GROUP_, O = O_, C = C_;
  using Tap = Tap_;
};

// Where outputs are: the first one and the strides, in pixels (32 floats).
struct OutputStrides {
  i64 first, block;
  int g, o, d, h, w;
};

// How many pixels a thread may hold so that they arrive before they are used.
constexpr int MOST_AHEAD = 60;

// How many of N neighboring weights are moved at once.
template <int N> constexpr int TOGETHER = N % 4 == 0 ? 4 : N % 2 == 0 ? 2 : 1;

// The weights of channels c_first ... c_first + CC - 1 for outputs o_first ... of a group, as [c][tap][output]; all
// threads. One address and one store serve several outputs of a tap. Neighboring threads take neighboring taps, then
// channels or outputs, whichever are nearer in memory.
template <class T, int C, int O, class K, class Strides>
DEVICE void fetch_weights(float* weights, const float* group, int o_first, int c_first) {
  using Tap = typename Strides::Tap;
  constexpr int TILE = T::OB * T::WK, EACH = TOGETHER<TILE>, SETS = TILE / EACH;
  constexpr bool OUTPUTS_NEAR = Strides::O < Strides::C;
  const float* source = group + i64(o_first) * Strides::O + i64(c_first) * Strides::C;
#pragma unroll 2
  for (int e = threadIdx.y * LANES + threadIdx.x; e < T::CC * K::product * SETS; e += T::threads) {
    const int tap = e % K::product, rest = e / K::product;
    const int o = EACH * (OUTPUTS_NEAR ? rest % SETS : rest / T::CC), c = OUTPUTS_NEAR ? rest / SETS : rest % T::CC;
    const int a = tap / (K::H * K::W), r = tap / K::W % K::H, s = tap % K::W;
    const float* from = source + o * Strides::O + c * Strides::C + a * Tap::D + r * Tap::H + s * Tap::W;
    float v[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) v[i] = o_first + o + i < O && c_first + c < C ? from[i * Strides::O] : 0.0f;
    float* to = weights + (c * K::product + tap) * T::ROW + o;
    if constexpr (EACH == 4)
      *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
    else if constexpr (EACH == 2)
      *reinterpret_cast<float2*>(to) = make_float2(v[0], v[1]);
    else
      *to = v[0];
  }
}

// N neighboring outputs' weights from shared memory.
template <int N> DEVICE void read_weights(float (&w)[N], const float* at) {
#pragma unroll
  for (int o = 0; o < N; o += TOGETHER<N>) {
    if constexpr (TOGETHER<N> == 4) {
      const float4 v = *reinterpret_cast<const float4*>(at + o);
      w[o] = v.x, w[o + 1] = v.y, w[o + 2] = v.z, w[o + 3] = v.w;
    } else if constexpr (TOGETHER<N> == 2) {
      const float2 v = *reinterpret_cast<const float2*>(at + o);
      w[o] = v.x, w[o + 1] = v.y;
    } else {
      w[o] = at[o];
    }
  }
}

// y = x correlated with w, plus bias (O,) if there is one; then comes After, then `other`, of y's shape, is added if it
// is not null, then ReLU. x (block, GROUPS * C, In, 32) contiguous; the first group's weights begin at w + first.
//
// The input gradient is this kernel on dy, with a transposed and flipped view of the weights, once for each phase of
// the stride. Launch: grid (pixel tiles of all blocks / WP, channel tiles * GROUPS), block (32, WK * WP). A tile at the
// end of a row overlaps its neighbor; tiles past the last block only help to fetch weights.
template <class T, int GROUPS, int C, int O, class In, class Out, class K, class S, class D, class B, class Strides,
          class After>
__global__ void __launch_bounds__(T::threads, 1) conv(const float* __restrict__ x, const float* __restrict__ w,
                                                     const float* __restrict__ bias, const float* __restrict__ other,
                                                     float* __restrict__ y, int blocks, int first, OutputStrides ys,
                                                     Norm norm, int relu) {
  constexpr int OB = T::OB, QB = T::QB, SB = T::SB, CC = T::CC, TILE = OB * T::WK;
  constexpr int ROW = T::ROW;
  constexpr i64 MAP = i64(In::product) * LANES;  // values of a channel
  constexpr int ROW_TILES = ceil_div(Out::W, QB), TILES = Out::D * Out::H * ROW_TILES;
  constexpr int NX = (QB - 1) * S::W + (SB - 1) * D::W + 1;  // pixels under QB outputs and SB taps
  // Of those, the ones that are inside the image for every tile, which needs no check: [B::W, INSIDE).
  constexpr int INSIDE = In::W + B::W - (Out::W - QB) * S::W - (ceil_div(K::W, SB) - 1) * SB * D::W;
  // Whether a channel's pixels fit in registers: then those of the next one arrive while these are used.
  constexpr int WINDOW_ROWS = K::D * K::H;
  constexpr bool AHEAD = WINDOW_ROWS > 2 && SB >= K::W && WINDOW_ROWS * NX <= MOST_AHEAD;
  constexpr int UNROLLED_CHANNELS = WINDOW_ROWS > 2 ? 1 : 4;
  constexpr int UNROLLED_ROWS = AHEAD ? WINDOW_ROWS : OB * QB * SB <= 128 ? K::H : 1;
  __shared__ __align__(16) float weights[CC * K::product * ROW];

  const int lane = threadIdx.x, wk = threadIdx.y % T::WK, tile = int(blockIdx.x) * T::WP + threadIdx.y / T::WK;
  constexpr int O_TILES = ceil_div(O, TILE);
  const int group = blockIdx.y / O_TILES, o_first = blockIdx.y % O_TILES * TILE;
  const int block = tile / TILES, q = least(tile % ROW_TILES * QB, Out::W - QB);
  const int p = tile % TILES / ROW_TILES, h_out = p % Out::H, d_out = p / Out::H;
  const bool works = block < blocks;
  const float* pixels = x + (i64(block) * GROUPS + group) * C * In::product * LANES + lane;
  const float* source = w + first + i64(group) * Strides::GROUP;

  // Where the window's rows are: the first one's plane, and its height there.
  const int d_first = d_out * S::D - B::D, h_first = h_out * S::H - B::H;
  auto inside = [&](int row) {
    return unsigned(d_first + row / K::H * D::D) < unsigned(In::D) &&
           unsigned(h_first + row % K::H * D::H) < unsigned(In::H);
  };
  // The pixels of a channel's map under SB taps of a row of the window.
  auto fetch_pixels = [&](float (&xs)[NX], const float* map, int row, int s_first) {
    const int d = d_first + row / K::H * D::D, h = h_first + row % K::H * D::H;
    const int column = q * S::W - B::W + s_first * D::W;
    const float* from = map + Index<In::product>((d * In::H + h) * In::W + column) * LANES;
#pragma unroll
    for (int i = 0; i < NX; i++) {
      const bool inside = (i >= B::W && i < INSIDE) || unsigned(column + i) < unsigned(In::W);
      xs[i] = inside ? from[i * LANES] : 0.0f;
    }
  };

  float acc[OB][QB] = {}, xs[AHEAD ? WINDOW_ROWS : 1][NX];
  const float* map = pixels;  // of the channel whose pixels are fetched next
  if (AHEAD && works) {
#pragma unroll
    for (int row = 0; row < WINDOW_ROWS; row++)
      if (inside(row)) fetch_pixels(xs[AHEAD ? row : 0], map, row, 0);
  }
  for (int c_first = 0; c_first < C; c_first += CC) {
    if (c_first) __syncthreads();  // the previous weights have been used
    fetch_weights<T, C, O, K, Strides>(weights, source, o_first, c_first);
    __syncthreads();
    if (!works) continue;
#pragma unroll UNROLLED_CHANNELS
    for (int c = 0; c < least(CC, C - c_first); c++) {
      if (AHEAD && c_first + c + 1 < C) map += MAP;  // behind the last channel comes the last again
#pragma unroll UNROLLED_ROWS
      for (int row = 0; row < WINDOW_ROWS; row++) {
        if (!inside(row)) continue;
        const float* of_row = weights + (c * WINDOW_ROWS + row) * K::W * ROW + wk * OB;
        float (&now)[NX] = xs[AHEAD ? row : 0];
#pragma unroll 1
        for (int s_first = 0; s_first < K::W; s_first += SB) {
          if (!AHEAD) fetch_pixels(now, map, row, s_first);
#pragma unroll
          for (int s = 0; s < SB; s++)
            if (s_first + s < K::W) {
              float wv[OB];
              read_weights(wv, of_row + (s_first + s) * ROW);
#pragma unroll
              for (int o = 0; o < OB; o++)
#pragma unroll
                for (int j = 0; j < QB; j++) acc[o][j] = __fmaf_rn(now[j * S::W + s * D::W], wv[o], acc[o][j]);
            }
        }
        if (AHEAD) fetch_pixels(now, map, row, 0);
      }
      if (!AHEAD) map += MAP;
    }
  }
  if (!works) return;
  const i64 row_first = ys.first + block * ys.block + i64(group) * ys.g + i64(d_out) * ys.d + i64(h_out) * ys.h;
#pragma unroll
  for (int i = 0; i < OB; i++) {
    const int o = o_first + wk * OB + i;
    if (o >= O) break;
    const float b = bias ? bias[group * O + o] : 0.0f;
    const After after(norm, group * O + o);
#pragma unroll
    for (int j = 0; j < QB; j++) {
      const i64 at = row_first + i64(o) * ys.o + i64(q + j) * ys.w;
      float v = after(finished(acc[i][j], b, false));
      if (other) v = __fadd_rn(v, other[at * LANES + lane]);
      y[at * LANES + lane] = relu ? rectified(v) : v;
    }
  }
}

// ---- convolution, ReLU and 2x2 max pooling ------------------------------------------------------------------------

// y = the maxima of ReLU of After of the convolution, over windows of 2x2 that do not overlap; where = their taps, if it
// is not null. Two axes, stride 1.
//
// The convolution's output never goes to memory: a warp's tile is the two rows of 2 QB pixels under QB maxima. Input
// row h serves both: it meets tap h of the upper output row and tap h - 1 of the lower one, so each chain has its taps
// in order. Launch as conv, with QB maxima in place of QB pixels; Out are the sizes of y.
template <class T, int GROUPS, int C, int O, class In, class Out, class K, class B, class After>
__global__ void __launch_bounds__(T::threads, 1)
                                      conv_max_pool(const float* __restrict__ x, const float* __restrict__ w,
                                                    const float* __restrict__ bias, float* __restrict__ y,
                                                    unsigned char* __restrict__ where, int blocks, Norm norm) {
  constexpr int OB = T::OB, QB = T::QB, CC = T::CC, TILE = OB * T::WK, NX = 2 * QB + K::W - 1;
  constexpr int ROW_TILES = ceil_div(Out::W, QB), TILES = Out::H * ROW_TILES, O_TILES = ceil_div(O, TILE);
  using Strides = WeightStrides<O * C * K::product, C * K::product, K::product, Axes<K::H * K::W, K::W, 1>>;
  constexpr int INSIDE = In::W + B::W - 2 * (Out::W - QB);  // pixels [B::W, INSIDE) of a tile's row are inside for all
  __shared__ __align__(16) float weights[CC * K::product * T::ROW];

  const int lane = threadIdx.x, wk = threadIdx.y % T::WK, tile = int(blockIdx.x) * T::WP + threadIdx.y / T::WK;
  const int group = blockIdx.y / O_TILES, o_first = blockIdx.y % O_TILES * TILE;
  const int block = tile / TILES, p = tile % TILES / ROW_TILES, q = least(tile % ROW_TILES * QB, Out::W - QB);
  const bool works = block < blocks;
  const float* pixels = x + (i64(block) * GROUPS + group) * C * In::product * LANES + lane;
  const float* source = w + i64(group) * Strides::GROUP;

  float acc[2][OB][2 * QB] = {};
  for (int c_first = 0; c_first < C; c_first += CC) {
    if (c_first) __syncthreads();  // the previous weights have been used
    fetch_weights<T, C, O, K, Strides>(weights, source, o_first, c_first);
    __syncthreads();
    if (!works) continue;
    for (int c = 0; c < least(CC, C - c_first); c++) {
      const float* map = pixels + i64(c_first + c) * In::product * LANES;
#pragma unroll 1
      for (int r = 0; r <= K::H; r++) {
        const int h = 2 * p - B::H + r, column = 2 * q - B::W;
        if (unsigned(h) >= unsigned(In::H)) continue;
        float xs[NX];
#pragma unroll
        for (int i = 0; i < NX; i++) {
          const bool inside = (i >= B::W && i < INSIDE) || unsigned(column + i) < unsigned(In::W);
          xs[i] = inside ? map[Index<In::product>(h * In::W + column + i) * LANES] : 0.0f;
        }
#pragma unroll
        for (int row = 0; row < 2; row++) {
          if (unsigned(r - row) >= unsigned(K::H)) continue;
#pragma unroll
          for (int s = 0; s < K::W; s++) {
            float wv[OB];
            read_weights(wv, weights + ((c * K::H + r - row) * K::W + s) * T::ROW + wk * OB);
#pragma unroll
            for (int o = 0; o < OB; o++)
#pragma unroll
              for (int j = 0; j < 2 * QB; j++) acc[row][o][j] = __fmaf_rn(xs[j + s], wv[o], acc[row][o][j]);
          }
        }
      }
    }
  }
  if (!works) return;
#pragma unroll
  for (int i = 0; i < OB; i++) {
    const int o = o_first + wk * OB + i;
    if (o >= O) break;
    const float b = bias ? bias[group * O + o] : 0.0f;
    const After after(norm, group * O + o);
    const i64 at = (((i64(block) * GROUPS + group) * O + o) * Out::product + p * Out::W + q) * LANES + lane;
#pragma unroll
    for (int j = 0; j < QB; j++) {
      float best = rectified(after(finished(acc[0][i][2 * j], b, false)));
      int tap = 0;
#pragma unroll
      for (int t = 1; t < 4; t++) {
        const float v = rectified(after(finished(acc[t / 2][i][2 * j + t % 2], b, false)));
        if (v > best) {
          best = v;
          tap = t;
        }
      }
      y[at + j * LANES] = best;
      if (where) where[at + j * LANES] = static_cast<unsigned char>(tap);
    }
  }
}

// ---- weight gradient ----------------------------------------------------------------------------------------------

// OB output channels by CB input channels by RB x SB taps of one kernel plane a warp, which fetches a position's
// gradients and pixels AHEAD positions early; WARPS tiles a block; each warp takes BANDS neighboring bands, a power of two.
template <int OB_, int CB_, int RB_, int SB_, int AHEAD_, int WARPS_, int BANDS_> struct GradientTile {
  static constexpr int OB = OB_, CB = CB_, RB = RB_, SB = SB_, AHEAD = AHEAD_, WARPS = WARPS_, BANDS = BANDS_;
  static constexpr int SUMS = OB * CB * RB * SB;
};

// The first indices of a tile's group, output and input channels, kernel plane, row and column.
template <class T, int GROUPS, int C, int O, class K> struct GradientTiles {
  static constexpr int OT = ceil_div(O, T::OB), CT = ceil_div(C, T::CB), RT = ceil_div(K::H, T::RB);
  static constexpr int ST = ceil_div(K::W, T::SB), count = GROUPS * OT * CT * K::D * RT * ST;
  static constexpr i64 weights = i64(GROUPS) * O * C * K::product;
  int group, o, c, a, r, s;

  DEVICE explicit GradientTiles(int tile)
      : group(tile / (ST * RT * K::D * CT * OT)),
        o(least(tile / (ST * RT * K::D * CT) % OT * T::OB, O - T::OB)),
        c(least(tile / (ST * RT * K::D) % CT * T::CB, C - T::CB)),
        a(tile / (ST * RT) % K::D),
        r(least(tile / ST % RT * T::RB, K::H - T::RB)),
        s(least(tile % ST * T::SB, K::W - T::SB)) {}

  // The weight that a sum of the tile belongs to.
  DEVICE i64 weight(int sum) const {
    const int output = group * O + o + sum / (T::CB * T::RB * T::SB), channel = c + sum / (T::RB * T::SB) % T::CB;
    return ((i64(output) * C + channel) * K::D + a) * K::H * K::W + (r + sum / T::SB % T::RB) * K::W + s + sum % T::SB;
  }
};

// The smallest power of two that is at least n.
__host__ __device__ constexpr int filled(int n) { return n <= 1 ? 1 : 2 * filled((n + 1) / 2); }

__host__ __device__ constexpr int log2_of(int n) { return n == 1 ? 0 : 1 + log2_of(n / 2); }

// common.cuh's Tree with its slots in shared memory, a lane's own, 32 floats apart.
DEVICE void push(float* slot, unsigned t, float value) {
  for (; t & 1; t >>= 1, slot += LANES) value = __fadd_rn(*slot, value);
  *slot = value;
}
DEVICE float total(const float* slot, unsigned terms) {
  for (; !(terms & 1); terms >>= 1) slot += LANES;
  float value = *slot;
  while (terms >>= 1) {
    slot += LANES;
    if (terms & 1) value = __fadd_rn(*slot, value);
  }
  return value;
}

// out (GROUPS * O, C, K), by way of part (blocks of 16, groups of bands, GROUPS * O, C, K), which holds rules 3a, 3b and
// the part of 3c within one group of bands.
//
// Here the accumulators are one product of a gradient and a pixel for each lane, summed over the positions of a band of
// `BAND_ROWS` rows. After a band comes the tree over the 16 images of each half warp, and then its sums wait in a tree over
// the bands. The last block of threads to finish its tiles adds up what all of them left. One dimension comes as the
// axis H, so that a band is 64 positions. Launch: grid (tiles / WARPS, groups of bands, blocks), block (32, WARPS);
// counters (tiles / WARPS,). Tiles at an axis' end overlap the one before and compute the same.
template <class T, int GROUPS, int C, int O, class In, class Out, class K, class S, class D, class B, int BAND_ROWS>
DEVICE void band_sums(const float* __restrict__ dy, const float* __restrict__ x, float* part, int images) {
  using Tiles = GradientTiles<T, GROUPS, C, O, K>;
  constexpr int OB = T::OB, CB = T::CB, RB = T::RB, SB = T::SB, AHEAD = T::AHEAD, SUMS = OB * CB * RB * SB;
  // Pixels of a row under the taps, and how many of them the position before does not see.
  constexpr int SPAN = (SB - 1) * D::W + 1, NEW = least(SPAN, S::W);
  // Positions until the ring of registers is where it was.
  constexpr int ROUND = filled(AHEAD + ceil_div(SPAN, S::W)), RING = ROUND * S::W;
  constexpr int POSITION_ROWS = Out::D * Out::H, ALL_BANDS = ceil_div(POSITION_ROWS, BAND_ROWS);
  constexpr int BAND_GROUPS = ceil_div(ALL_BANDS, T::BANDS), EACH = ceil_div(SUMS, IMAGES);
  constexpr int DEPTH = log2_of(T::BANDS) + 1;
  using Gradients = Index<i64(OB) * Out::product>;
  using Pixels = Index<i64(CB) * In::product>;

  const int lane = threadIdx.x, tile = blockIdx.x * T::WARPS + threadIdx.y, block = blockIdx.z;
  if (tile >= Tiles::count) return;
  const Tiles corner(tile);
  const int s0 = corner.s, r0 = corner.r, a = corner.a, c0 = corner.c, o0 = corner.o, group = corner.group;
  const float* gradients = dy + ((i64(block) * GROUPS + group) * O + o0) * Out::product * LANES + lane;
  const float* pixels = x + ((i64(block) * GROUPS + group) * C + c0) * In::product * LANES + lane;
  const bool there = present(block, lane, images);

  // The waiting sums of a tree over the bands: seldom touched, so they leave the registers to the accumulators.
  __shared__ float slots[T::WARPS][EACH][DEPTH][LANES];
  const int band_first = blockIdx.y * T::BANDS, bands = least(T::BANDS, ALL_BANDS - band_first);
#pragma unroll 1
  for (int t = 0; t < bands; t++) {
    float acc[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; i++) acc[i] = 0.0f;
    const int first = (band_first + t) * BAND_ROWS, last = least(first + BAND_ROWS, POSITION_ROWS);
#pragma unroll 1
    for (int p = first; p < last; p++) {
      const int d = p / Out::H * S::D - B::D + a * D::D, h_first = p % Out::H * S::H - B::H + r0 * D::H;
      bool row_inside[RB];
#pragma unroll
      for (int r = 0; r < RB; r++)
        row_inside[r] = unsigned(d) < unsigned(In::D) && unsigned(h_first + r * D::H) < unsigned(In::H);
      float dv[ROUND][OB], xs[CB][RB][RING];
      // Position q's gradients, and of the pixels under its taps those from `begin` on; its place in the ring is u.
      auto fetch = [&](int q, int u, int begin) {
        if ((u >= ROUND || Out::W % ROUND) && q >= Out::W) return;
#pragma unroll
        for (int o = 0; o < OB; o++)
          dv[u % ROUND][o] = gradients[(Gradients(o) * Out::product + p * Out::W + q) * LANES];
        const int column = q * S::W - B::W + s0 * D::W;
#pragma unroll
        for (int c = 0; c < CB; c++)
#pragma unroll
          for (int r = 0; r < RB; r++) {
            const float* row =
                pixels + (((Pixels(c) * In::D + d) * In::H + h_first + r * D::H) * In::W + column) * LANES;
#pragma unroll
            for (int i = begin; i < SPAN; i++)
              xs[c][r][(u * S::W + i) % RING] =
                  row_inside[r] && unsigned(column + i) < unsigned(In::W) ? row[i * LANES] : 0.0f;
          }
      };
#pragma unroll
      for (int u = 0; u < AHEAD; u++) fetch(u, u, u ? SPAN - NEW : 0);
#pragma unroll 1
      for (int q = 0; q < Out::W; q += ROUND) {
#pragma unroll
        for (int u = 0; u < ROUND; u++) {  // positions in order
          if (Out::W % ROUND && q + u >= Out::W) break;
          fetch(q + u + AHEAD, u + AHEAD, SPAN - NEW);
#pragma unroll
          for (int o = 0; o < OB; o++)
#pragma unroll
            for (int c = 0; c < CB; c++)
#pragma unroll
              for (int r = 0; r < RB; r++)
#pragma unroll
                for (int s = 0; s < SB; s++) {
                  const int i = ((o * CB + c) * RB + r) * SB + s;
                  acc[i] = __fmaf_rn(dv[u][o], xs[c][r][(u * S::W + s * D::W) % RING], acc[i]);
                }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < SUMS; i++) acc[i] = there ? acc[i] : 0.0f;
    half_warp_sums<SUMS>(acc, lane);
#pragma unroll
    for (int i = 0; i < EACH; i++) push(&slots[threadIdx.y][i][0][lane], t, acc[i]);
  }
  float* out = part + ((i64(block) * 2 + lane / IMAGES) * BAND_GROUPS + blockIdx.y) * Tiles::weights;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    const int sum = i * IMAGES + lane % IMAGES;
    if (sum < SUMS) out[corner.weight(sum)] = total(&slots[threadIdx.y][i][0][lane], bands);
  }
}

template <class T, int GROUPS, int C, int O, class In, class Out, class K, class S, class D, class B, int BAND_ROWS>
__global__ void __launch_bounds__(LANES * T::WARPS)
    conv_weight_gradient(const float* __restrict__ dy, const float* __restrict__ x, float* part, float* out, int images,
                         unsigned* counters) {
  using Tiles = GradientTiles<T, GROUPS, C, O, K>;
  band_sums<T, GROUPS, C, O, In, Out, K, S, D, B, BAND_ROWS>(dy, x, part, images);
  if (!last_of(gridDim.y * gridDim.z, counters + blockIdx.x)) return;
  // With each block's groups of bands filled up by +0 to a power of two, the rest of 3c and 3d are one tree.
  constexpr int BAND_GROUPS = ceil_div(ceil_div(Out::D * Out::H, BAND_ROWS), T::BANDS), FILLED = filled(BAND_GROUPS);
  constexpr int TOGETHER = 16;
  const int halves = 2 * gridDim.z;
  for (int e = threadIdx.y * LANES + threadIdx.x; e < T::WARPS * T::SUMS; e += LANES * T::WARPS) {
    const int tile = blockIdx.x * T::WARPS + e / T::SUMS;
    if (tile >= Tiles::count) return;
    const i64 weight = Tiles(tile).weight(e % T::SUMS);
    Tree<float> tree;
    int nodes = 0;
#pragma unroll 1
    for (int first = 0; first < halves * FILLED; first += TOGETHER) {
      float v[TOGETHER];
#pragma unroll
      for (int k = 0; k < TOGETHER; k++) {
        const int half = (first + k) / FILLED, group = (first + k) % FILLED;
        const bool there = half < halves && group < BAND_GROUPS;
        v[k] = there ? __ldcg(part + (i64(half) * BAND_GROUPS + group) * Tiles::weights + weight) : 0.0f;
      }
#pragma unroll
      for (int d = 1; d < TOGETHER; d *= 2)
#pragma unroll
        for (int k = 0; k < TOGETHER; k += 2 * d) v[k] = __fadd_rn(v[k], v[k + d]);
      tree.push(nodes++, v[0]);
    }
    out[weight] = __fadd_rn(tree.total(nodes), 0.0f);
  }
}
