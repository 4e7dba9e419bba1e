"""The tree, the bands and their combination, against plain recursion and cases worked by hand."""

import itertools
import math

import numpy as np
import pytest

from gpucnn.arithmetic import bands, in_bands, over_batch, rounded, total64, tree

RNG = np.random.default_rng(3)


def recursive(terms):
    """Adjacent pairs, then pairs of pairs, an odd tail carried up."""
    if len(terms) == 1:
        return terms[0]
    pairs = [terms[i] + terms[i + 1] for i in range(0, len(terms) - 1, 2)]
    return recursive(pairs + ([terms[-1]] if len(terms) % 2 else []))


@pytest.mark.parametrize("n", range(1, 41))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tree(n, dtype):
    x = (RNG.standard_normal(n) * 10.0 ** RNG.integers(-3, 4, n)).astype(dtype)
    expected = recursive(list(x))
    assert tree(x, 0) == expected and tree(x, 0).dtype == dtype
    filled = np.zeros(1 << (n - 1).bit_length(), dtype)
    filled[:n] = x
    assert tree(filled, 0) == expected, "carrying the tail up must equal filling up with +0"


def test_tree_of_five():
    a, b, c, d, e = RNG.standard_normal(5).astype(np.float32)
    assert tree(np.array([a, b, c, d, e]), 0) == ((a + b) + (c + d)) + e


def test_tree_along_an_axis():
    x = RNG.standard_normal((3, 7, 2)).astype(np.float32)
    expected = [[recursive(list(x[i, :, j])) for j in range(2)] for i in range(3)]
    assert np.array_equal(tree(x, 1), np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [
        ((28, 28), [84] * 9 + [28]),
        ((10, 10), [70, 30]),
        ((32, 32), [64] * 16),
        ((5, 5), [25]),
        ((2, 100), [100, 100]),
        ((3, 4, 5), [60]),
        ((3, 9, 5), [65, 65, 5]),  # bands cross from one plane into the next
        ((130,), [64, 64, 2]),
        ((64,), [64]),
        ((1, 1), [1]),
        ((), [1]),
    ],
)
def test_bands(sizes, lengths):
    cuts = bands(sizes)
    assert [stop - start for start, stop in cuts] == lengths
    assert [start for start, _ in cuts] == [0, *itertools.accumulate(lengths)][:-1]
    assert cuts[-1][1] == math.prod(sizes)


def test_in_bands():
    x = np.arange(1, 2 * 100 + 1, dtype=np.float32).reshape(2, 10, 10)
    steps = in_bands(x, (10, 10))
    assert steps.shape == (70, 2, 2)  # (position in the band, images, bands)
    assert np.array_equal(steps[:, 1, 0], x[1].ravel()[:70])
    assert np.array_equal(steps[:30, 1, 1], x[1].ravel()[70:])
    assert not steps[30:, :, 1].any()


@pytest.mark.parametrize("images", [1, 2, 15, 16, 17, 33, 50, 96])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_over_batch(images, count):
    partial = RNG.standard_normal((images, 2, count)).astype(np.float32)
    for channel in range(2):
        blocks = []
        for first in range(0, images, 16):
            of_bands = [recursive(list(partial[first : first + 16, channel, band])) for band in range(count)]
            blocks.append(recursive(of_bands))
        assert over_batch(partial)[channel] == recursive(blocks)


@pytest.mark.parametrize("shape", [(5, 2), (33, 2, 70), (18, 1, 10, 10), (3, 2, 3, 9, 5)])
def test_total64(shape):
    x = (RNG.standard_normal(shape) * 10.0 ** RNG.integers(-9, 9, shape)).astype(np.float32)
    result = total64(x)
    for channel in range(shape[1]):
        blocks = []
        for first in range(0, shape[0], 16):
            of_bands = []
            for start, stop in bands(shape[2:]):
                of_images = []
                for image in x[first : first + 16, channel]:
                    total = 0.0
                    for value in np.ravel(image)[start:stop].tolist():
                        total += value
                    of_images.append(total)
                of_bands.append(recursive(of_images))
            blocks.append(recursive(of_bands))
        assert result[channel] == recursive(blocks)


def test_rounded_has_no_negative_zero():
    assert not np.signbit(rounded(np.array([-0.0, -1e-60]))).any()
