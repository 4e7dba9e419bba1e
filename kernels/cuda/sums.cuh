// Sums over images and positions in float64 (rules 3 and 4), in one launch.
//
// The units of work are (block of 32 images, band of positions): a warp adds a band's positions in order, one image per
// lane, and its half warps run the tree over their 16 images. The partial sums go to memory; the last block of threads
// to finish a channel adds them, first the bands of each block of 16 images, then the blocks. So the order is the
// rule's whatever the number of threads, and no sum waits for a second launch.
#pragma once
#include "common.cuh"

// The tree over one value per thread, by all THREADS threads of a block (a power of two); all get the result.
template <int THREADS> DEVICE double block_sum(double v, int thread) {
  constexpr int WARPS = THREADS / LANES;
  __shared__ double sums[WARPS];
#pragma unroll
  for (int d = 1; d < LANES; d *= 2) v = __dadd_rn(v, __shfl_xor_sync(WHOLE_WARP, v, d));
  __syncthreads();  // a previous call's sums have been read
  if (thread % LANES == 0) sums[thread / LANES] = v;
  __syncthreads();
  double s[WARPS];
#pragma unroll
  for (int w = 0; w < WARPS; w++) s[w] = sums[w];
#pragma unroll
  for (int d = 1; d < WARPS; d *= 2)
#pragma unroll
    for (int w = 0; w < WARPS; w += 2 * d) s[w] = __dadd_rn(s[w], s[w + d]);
  return s[0];
}

// The tree over term(0), ..., term(terms - 1), by all THREADS threads of a block. THREADS neighbors at a time are a
// node of the tree, one term per thread: mostly there is no more than one such node.
template <int THREADS, class Term> DEVICE double tree_over(Term term, int terms, int thread) {
  if (terms <= THREADS) return block_sum<THREADS>(thread < terms ? term(thread) : 0.0, thread);
  Tree<double> tree;
  int nodes = 0;
#pragma unroll 1
  for (int first = 0; first < terms; first += THREADS) {
    const double v = first + thread < terms ? term(first + thread) : 0.0;
    tree.push(nodes++, block_sum<THREADS>(v, thread));
  }
  return tree.total(nodes);
}

constexpr int SUM_WARPS = 8;

// What a sum runs over: channel blockIdx.x of maps (block, channel, positions, 32), cut into bands.
struct Maps {
  int images, blocks, positions, band;

  DEVICE int bands() const { return ceil_div(positions, band); }
  DEVICE i64 start(int block) const { return (i64(block) * gridDim.x + blockIdx.x) * positions * LANES; }
  DEVICE double count() const { return double(i64(images) * positions); }
};

// Where a value is: its index among all, its map (block * channels + channel) and its position there.
struct Place {
  i64 element, map;
  int position;
};

// Sums of SUMS terms over a channel: `terms(place, to)` adds the terms of the value there to to[0 .. SUMS-1]. True,
// with the sums in `result`, for all threads of the channel's last block; false for the others. Launch: grid (channels,
// parts), block (32, SUM_WARPS); part (channels, SUMS, blocks of 16, bands); counters (channels,). UNROLL is how many
// positions are on their way at once: fewer where a term takes many registers. WARPS are those of the block.
template <int SUMS, int UNROLL = 16, int WARPS = SUM_WARPS, class Terms>
DEVICE bool channel_sums(Terms terms, Maps maps, double* part, unsigned* counters, double* result) {
  const int lane = threadIdx.x, bands = maps.bands(), halves = 2 * maps.blocks;
  double* mine = part + i64(blockIdx.x) * SUMS * halves * bands;
  for (int unit = blockIdx.y * WARPS + threadIdx.y; unit < maps.blocks * bands; unit += gridDim.y * WARPS) {
    const int block = unit / bands, band = unit % bands;
    const i64 start = maps.start(block) + lane, map = i64(block) * gridDim.x + blockIdx.x;
    double sum[SUMS] = {};
    const int last = least((band + 1) * maps.band, maps.positions);
#pragma unroll UNROLL
    for (int p = band * maps.band; p < last; p++) terms(Place{start + i64(p) * LANES, map, p}, sum);
#pragma unroll
    for (int s = 0; s < SUMS; s++) {
      const double both = half_warp_sum(present(block, lane, maps.images) ? sum[s] : 0.0);
      if (lane % IMAGES == 0) mine[i64(s * halves + 2 * block + lane / IMAGES) * bands + band] = both;
    }
  }
  if (!last_of(gridDim.y, counters + blockIdx.x)) return false;
  // With the bands of each half filled up by +0 to a power of two, the trees over bands and halves are one.
  int depth = 0;
  while (1 << depth < bands) depth++;
#pragma unroll
  for (int s = 0; s < SUMS; s++) {
    auto filled = [&](int i) {
      const int half = i >> depth, band = i & ((1 << depth) - 1);
      return band < bands ? __ldcg(mine + i64(s * halves + half) * bands + band) : 0.0;
    };
    result[s] = tree_over<LANES * WARPS>(filled, halves << depth, threadIdx.y * LANES + lane);
  }
  return true;
}
