"""Cropping, shifting, mirroring, normalizing and cutting out while images are loaded: by plain loops, on the CPU's
backends; what is drawn is spread as it should be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucnn.arithmetic import CROP, CUTOUT, FLIP, SHIFT
from gpucnn.backends import get_backend
from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.backends.numba.backend import NumbaBackend
from tests.backends import scalar
from tests.backends.guarded import assert_bits, guarded

EXACT = get_backend("numpy", "exact")
# Guarded memory: what a kernel leaves unwritten is NaN, what it writes outside is noticed.
NUMBA = {threads: guarded(NumbaBackend)(threads) for threads in (1, 2)}


def by_loops(images, chosen, count, augmentation, seed, step):
    """kernels/CONTRACT.md, rule 10, pixel by pixel."""
    sizes = images.shape[2:]
    output, axes, a = augmentation.crop or sizes, len(sizes), augmentation
    result = np.zeros((count, images.shape[1], *output), np.float32)

    def draw(purpose, index):
        return scalar.philox_word(seed, index, step, purpose)

    for i in range(count):
        origins, firsts = [], []
        for axis in range(axes):
            if step is None:
                origins.append((sizes[axis] - output[axis]) // 2)
            elif a.crop:
                many = sizes[axis] - output[axis] + 2 * a.shift + 1
                origins.append(((draw(CROP, i * axes + axis) >> 8) * many >> 24) - a.shift)
            else:
                origins.append(a.shift - ((draw(SHIFT, i * axes + axis) >> 8) * (2 * a.shift + 1) >> 24))
            if a.cutout and step is not None:
                firsts.append(((draw(CUTOUT, i * axes + axis) >> 8) * output[axis] >> 24) - a.cutout // 2)
        mirrored = a.flip and step is not None and draw(FLIP, i) >> 31
        for p in scalar.indices(output):
            cut = firsts and all(first <= q < first + a.cutout for first, q in zip(firsts, p, strict=True))
            source = list(p)
            if mirrored:
                source[-1] = output[-1] - 1 - source[-1]
            source = [q + origin for q, origin in zip(source, origins, strict=True)]
            if cut or not all(0 <= q < size for q, size in zip(source, sizes, strict=True)):
                continue
            for c in range(images.shape[1]):
                value = float(images[(chosen[i], c, *source)])
                if a.mean:
                    scale = scalar.f32(1 / scalar.f32(a.std[c]))
                    value = scalar.f32(scalar.f32(value - scalar.f32(a.mean[c])) * scale)
                result[(i, c, *p)] = value
    return result


def load(b, images, chosen, count, augmentation, seed, step):
    step = None if step is None else b.array(np.array([step], np.uint32))
    given = b.array(images), b.array(np.asarray(chosen, np.int64)), count, augmentation
    return b.unpack(b.load_images(*given, seed=seed, step=step))


@st.composite
def cases(draw, pixels=1500):
    axes = draw(st.integers(1, 3))
    sizes = tuple(draw(st.lists(st.integers(1, {1: 40, 2: 20, 3: 6}[axes]), min_size=axes, max_size=axes)))
    channels, count = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 15, 16, 17, 31, 33]))
    if channels * count * np.prod(sizes) > pixels:
        count = max(1, int(pixels // (channels * np.prod(sizes))))
    crop = tuple(draw(st.integers(1, size)) for size in sizes) if draw(st.booleans()) else None
    numbers = st.floats(-2, 2, width=32)
    colors = draw(st.booleans())
    augmentation = Augmentation(
        draw(st.integers(0, 3)),
        crop,
        draw(st.booleans()),
        draw(st.integers(0, 5)),
        tuple(draw(numbers) for _ in range(channels)) if colors else None,
        tuple(abs(draw(numbers)) + 0.125 for _ in range(channels)) if colors else None,
    )
    step = draw(st.one_of(st.none(), st.integers(0, 2**32 - 1)))
    return (channels, *sizes), count, augmentation, draw(st.integers(0, 2**64 - 1)), step


def made(case):
    shape, count, augmentation, seed, step = case
    rng = np.random.default_rng([count, *shape])
    images = rng.standard_normal((count + 2, *shape)).astype(np.float32)
    images[rng.random(images.shape) < 0.1] = -0.0
    return images, rng.integers(0, count + 2, count + 3), count, augmentation, seed, step


@settings(max_examples=60, deadline=None)
@given(cases(600))
def test_numpy_gives_what_the_contract_says(case):
    given_ = made(case)
    assert_bits(load(EXACT, *given_), by_loops(*given_))


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([1, 2]), cases())
def test_numba_gives_the_same_bits(threads, case):
    given_, b = made(case), NUMBA[threads]
    assert_bits(load(b, *given_), load(EXACT, *given_), str(case))
    b.verify()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 15, 16, 17, 31, 33, 50]),
    st.one_of(
        st.tuples(st.integers(1, 700)),
        st.sampled_from([(3, 7), (1, 64), (2, 16, 16), (3, 9, 11), (5, 1, 1), (2, 3, 4, 5)]),
    ),
    st.booleans(),
)
def test_numba_loads_images_of_any_shape_as_they_are(threads, count, shape, normalizes):
    images, chosen, *_ = made((shape, count, None, 0, None))
    augmentation, b = NO_AUGMENTATION, NUMBA[threads]
    if normalizes:
        numbers = np.random.default_rng(count).uniform(0.5, 2, (2, shape[0])).astype(np.float32).tolist()
        augmentation = Augmentation(0, None, False, 0, *map(tuple, numbers))
    for step in (None, 3):
        given_ = images, chosen, count, augmentation, 1, step
        assert_bits(load(b, *given_), load(EXACT, *given_))
        b.verify()


def test_images_that_only_fill_up_a_block_are_zero():
    images = np.ones((3, 2, 5, 4), np.float32)
    augmentation = Augmentation(flip=True, mean=(0.5, 0.5), std=(1.0, 1.0))
    step = np.zeros(1, np.uint32)
    assert not NUMBA[1].load_images(images, np.arange(3), 3, augmentation, step=step).data[..., 3:].any()


def test_float64_is_normalised_with_the_float32_numbers():
    b = get_backend("numpy", "fast", dtype=np.float64)
    images = np.random.default_rng(0).standard_normal((4, 1, 3, 3))
    y = b.load_images(images, np.arange(4), 4, Augmentation(mean=(0.1,), std=(0.3,))).numpy()
    mean, scale = np.float64(np.float32(0.1)), np.float64(np.float32(1) / np.float32(0.3))
    assert y.dtype == np.float64 and np.array_equal(y, (images - mean) * scale)


def test_nothing_asked_for_is_the_plain_loading():
    images = np.random.default_rng(0).standard_normal((5, 1, 4, 4)).astype(np.float32)
    for augmentation in (
        NO_AUGMENTATION,
        Augmentation(shift=2),
        Augmentation(crop=(4, 4)),
        Augmentation(flip=True, cutout=2),
    ):
        for b in (EXACT, NUMBA[1]):
            assert_bits(load(b, images, np.arange(5), 5, augmentation, 3, None), images)


@pytest.mark.parametrize("backend", [EXACT, NUMBA[2]], ids=["numpy", "numba"])
def test_what_is_drawn_is_spread_evenly(backend):
    """Of 4,096 images: every origin of a crop, both directions, every center of a cutout about equally often."""
    count = 4096
    image = np.arange(1, 65, dtype=np.float32).reshape(1, 1, 8, 8)
    still = {"chosen": np.zeros(count, np.int64), "count": count, "seed": 5, "step": 1}

    def corners(augmentation):
        return load(backend, image, still["chosen"], count, augmentation, still["seed"], still["step"])

    def even(found, kinds):
        values, times = np.unique(found, return_counts=True)
        expected = count / kinds
        assert len(values) == kinds and (abs(times - expected) < 5 * np.sqrt(expected)).all()

    even(corners(Augmentation(crop=(6, 6)))[:, 0, 0, 0], 9)
    even(corners(Augmentation(crop=(8, 8), shift=1))[:, 0, 4, 4], 9)
    even(corners(Augmentation(flip=True))[:, 0, 0, 0], 2)
    even(corners(Augmentation(cutout=1)).reshape(count, 64).argmin(1), 64)
    cut = corners(Augmentation(cutout=3))[:, 0] == 0
    # Whole squares where the center is inside, parts of one at the border: 3x3, 2x3, 2x2.
    assert set(cut.sum((1, 2)).tolist()) == {4, 6, 9}
