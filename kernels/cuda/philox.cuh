// Philox4x32-10 (rule 10): Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
#pragma once
#include "common.cuh"

constexpr unsigned DROPOUT = 3, SHIFT = 4, CROP = 6, FLIP = 7, CUTOUT = 8;  // purposes

// The first output word of counter (index low, index high, step, purpose << 16 | layer) under `seed`.
DEVICE unsigned philox_word(u64 seed, u64 index, unsigned step, unsigned purpose, unsigned layer) {
  unsigned k0 = unsigned(seed), k1 = unsigned(seed >> 32);
  unsigned c0 = unsigned(index), c1 = unsigned(index >> 32), c2 = step, c3 = purpose << 16 | layer;
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const unsigned h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0;
    const unsigned h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
    c0 = h1 ^ c1 ^ k0;
    c1 = l1;
    c2 = h0 ^ c3 ^ k1;
    c3 = l0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

// Dropout of x by a drawn word: u < rate ? +0 : x * scale.
DEVICE float dropped(float x, unsigned word, float rate, float scale) {
  return __fmul_rn(__uint2float_rn(word >> 8), 0x1p-24f) < rate ? 0.0f : __fmul_rn(x, scale);
}
