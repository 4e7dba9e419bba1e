// Sums over images and positions in float64 (rules 3 and 4), in one launch.
//
// The units of work are (block of 32 images, band of positions): a warp adds a band's positions in order, one image per
// lane, and its half warps run the tree over their 16 images. The partial sums go to memory; the last block of threads
// to finish a channel adds them, first the bands of each block of 16 images, then the blocks. So the order is the
// rule's whatever the number of threads, and no sum waits for a second launch.
#pragma once
#include "common.cuh"

// The tree over term(0), ..., term(terms - 1), by all THREADS threads of a block (a power of two); all get the result.
// Each takes 2**n neighbors, so that its sum is a node of the tree.
template <int THREADS, class Term> DEVICE double tree_over(Term term, int terms, int thread) {
  __shared__ double sums[THREADS];
  int each = 1;
  while (each * THREADS < terms) each *= 2;
  Tree<double> tree;
  int taken = 0;
  for (int t = thread * each; t < terms && taken < each; t++) tree.push(taken++, term(t));
  __syncthreads();  // a previous call's result has been read
  sums[thread] = tree.total(taken);
  for (int d = 1; d < THREADS; d *= 2) {
    __syncthreads();
    if (thread % (2 * d) == 0) sums[thread] = __dadd_rn(sums[thread], sums[thread + d]);
  }
  __syncthreads();
  return sums[0];
}

constexpr int SUM_WARPS = 8;

// What a sum runs over: channel blockIdx.x of maps (block, channel, positions, 32), cut into bands.
struct Maps {
  int images, blocks, positions, band;

  DEVICE int bands() const { return ceil_div(positions, band); }
  DEVICE i64 start(int block) const { return (i64(block) * gridDim.x + blockIdx.x) * positions * LANES; }
  DEVICE double count() const { return double(i64(images) * positions); }
};

// Sums of SUMS terms over a channel: `terms(element, to)` adds element's terms to to[0 .. SUMS-1]. True, with the sums
// in `result`, for all threads of the channel's last block; false for the others. Launch: grid (channels, parts), block
// (32, SUM_WARPS); part (channels, SUMS, blocks of 16, bands); counters (channels,). UNROLL is how many positions are on
// their way at once: fewer where a term takes many registers.
template <int SUMS, int UNROLL = 4, class Terms>
DEVICE bool channel_sums(Terms terms, Maps maps, double* part, unsigned* counters, double* result) {
  const int lane = threadIdx.x, bands = maps.bands(), halves = 2 * maps.blocks;
  double* mine = part + i64(blockIdx.x) * SUMS * halves * bands;
  for (int unit = blockIdx.y * SUM_WARPS + threadIdx.y; unit < maps.blocks * bands; unit += gridDim.y * SUM_WARPS) {
    const int block = unit / bands, band = unit % bands;
    const i64 start = maps.start(block) + lane;
    double sum[SUMS] = {};
    const int last = least((band + 1) * maps.band, maps.positions);
#pragma unroll UNROLL
    for (int p = band * maps.band; p < last; p++) terms(start + i64(p) * LANES, sum);
#pragma unroll
    for (int s = 0; s < SUMS; s++) {
      const double both = half_warp_sum(present(block, lane, maps.images) ? sum[s] : 0.0);
      if (lane % IMAGES == 0) mine[i64(s * halves + 2 * block + lane / IMAGES) * bands + band] = both;
    }
  }
  if (!last_of(gridDim.y, counters + blockIdx.x)) return false;
#pragma unroll
  for (int s = 0; s < SUMS; s++) {
    auto over_bands = [&](int half) {
      Tree<double> tree;
      for (int band = 0; band < bands; band++) tree.push(band, __ldcg(mine + i64(s * halves + half) * bands + band));
      return tree.total(bands);
    };
    result[s] = tree_over<LANES * SUM_WARPS>(over_bands, halves, threadIdx.y * LANES + lane);
  }
  return true;
}
