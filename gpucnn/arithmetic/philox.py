"""Random numbers by counter: Philox4x32-10, kernels/CONTRACT.md, rule 10.

The number at an index depends only on the index, not on the order of the draws: every backend, thread and lane gets
the same. (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.)
"""

import numpy as np

# Purposes of the numbers.
INIT, SHUFFLE, DROPOUT, SHIFT, SPLIT, CROP, FLIP, CUTOUT, MIX, ERASE = range(1, 11)

ROUNDS = 10
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = 0x9E3779B9, 0xBB67AE85  # added to the key from round to round
MASK = 0xFFFFFFFF
LOW = np.uint64(MASK)
HALF = np.uint64(32)


def philox4x32(counter, key) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Four uint32 arrays of random words from a counter of four and a key of two 32-bit numbers or arrays of them."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = (np.asarray(word, np.uint64) for word in key)
    for _ in range(ROUNDS):
        first, second = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2  # 32 x 32 -> 64 bits, no overflow
        c0, c1, c2, c3 = (second >> HALF) ^ c1 ^ k0, second & LOW, (first >> HALF) ^ c3 ^ k1, first & LOW
        k0, k1 = (k0 + np.uint64(WEYL[0])) & LOW, (k1 + np.uint64(WEYL[1])) & LOW
    w0, w1, w2, w3 = (np.asarray(word, np.uint32) for word in (c0, c1, c2, c3))
    return w0, w1, w2, w3


def _draw(seed: int, index, step, purpose: int, layer: int):
    index = np.asarray(index, np.uint64)
    seed = int(seed) & 0xFFFFFFFFFFFFFFFF
    counter = (index & LOW, index >> HALF, np.uint64(int(step) & MASK), np.uint64(purpose << 16 | layer))
    return philox4x32(counter, (seed & MASK, seed >> 32))


def words(seed: int, index, step: int, purpose: int, layer: int = 0) -> np.ndarray:
    """The first output word for each index (whole numbers below 2**64), uint32, of the index's shape.

    counter = (index low, index high, step, purpose << 16 | layer), key = (seed low, seed high).
    """
    return _draw(seed, index, step, purpose, layer)[0]


def draws64(seed: int, index, step: int, purpose: int, layer: int = 0) -> np.ndarray:
    """64 random bits for each index, uint64: the first output word, and the second as the high half."""
    low, high, _, _ = _draw(seed, index, step, purpose, layer)
    return low.astype(np.uint64) | high.astype(np.uint64) << HALF


def uniform(words: np.ndarray) -> np.ndarray:
    """(word >> 8) * 2**-24: float32 in [0, 1), every value exact."""
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def permutation(seed: int, n: int, epoch: int) -> np.ndarray:
    """0 .. n-1 shuffled, int64: the stable sort of n 64-bit draws, so equal draws keep their order."""
    return np.argsort(draws64(seed, np.arange(n, dtype=np.uint64), epoch, SHUFFLE), kind="stable").astype(np.int64)
