"""Philox4x32-10 against the known answers that its authors publish with Random123 (file kat_vectors)."""

import numpy as np
import pytest

from gpucnn.arithmetic import DROPOUT, SHUFFLE, draws64, permutation, philox4x32, uniform, words

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter, key, answer):
    result = philox4x32(counter, key)
    assert tuple(map(int, result)) == answer
    assert all(word.dtype == np.uint32 for word in result)


def scalar(counter, key):
    """The published algorithm in whole numbers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & ONES, (p0 >> 32) ^ c[3] ^ k[1], p0 & ONES]
        k = [(k[0] + 0x9E3779B9) & ONES, (k[1] + 0xBB67AE85) & ONES]
    return c


def test_words_lay_out_counter_and_key():
    seed, step, layer = 0x1234567_89ABCDEF, 7, 3
    index = np.array([[0, 1], [2**32 + 5, 2**63 + 9]], np.uint64)
    result = words(seed, index, step, DROPOUT, layer)
    assert result.shape == (2, 2) and result.dtype == np.uint32
    for i, word in zip(index.ravel().tolist(), result.ravel().tolist(), strict=True):
        assert word == scalar((i & ONES, i >> 32, step, DROPOUT << 16 | layer), (seed & ONES, seed >> 32))[0]


def test_draws64_take_two_words():
    for i, draw in enumerate(draws64(5, np.arange(4), 2, SHUFFLE).tolist()):
        low, high, _, _ = scalar((i, 0, 2, SHUFFLE << 16), (5, 0))
        assert draw == low | high << 32


def test_uniform():
    result = uniform(np.array([0, 255, 256, ONES], np.uint32))
    assert result.dtype == np.float32
    assert result.tolist() == [0, 0, 2.0**-24, 1 - 2.0**-24]
    many = uniform(words(1, np.arange(100_000), 0, DROPOUT))
    assert abs(many.mean() - 0.5) < 5 * (1 / 12 / 100_000) ** 0.5  # five standard errors, with a fixed seed


@pytest.mark.parametrize("n", [0, 1, 2, 100, 1437])
def test_permutation(n):
    order = permutation(9, n, 4)
    assert order.dtype == np.int64 and sorted(order.tolist()) == list(range(n))
    draws = [(lambda w: w[0] | w[1] << 32)(scalar((i, 0, 4, SHUFFLE << 16), (9, 0))) for i in range(n)]
    assert order.tolist() == sorted(range(n), key=draws.__getitem__)


def test_equal_draws_keep_their_order(monkeypatch):
    from gpucnn.arithmetic import philox

    monkeypatch.setattr(philox, "draws64", lambda *_: np.array([7, 3, 7, 3, 3, 7] * 10, np.uint64))
    order = permutation(0, 60, 0).tolist()
    assert order == [i for i in range(60) if i % 6 in (1, 3, 4)] + [i for i in range(60) if i % 6 in (0, 2, 5)]


def test_permutations_differ_by_seed_and_epoch():
    orders = {tuple(permutation(seed, 50, epoch).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
