"""Mix-up and random erasing: the contract's rule 10, worked out number by number."""

import math

import numpy as np
import pytest

from gpucnn import arithmetic
from gpucnn.backends import get_backend
from gpucnn.emulation import get_emulated_backend, why_not
from gpucnn.errors import ConfigurationError
from gpucnn.layers import Dense, Flatten, Sequential
from gpucnn.models import Model
from gpucnn.optimizers import SGD
from gpucnn.schedules import Constant
from gpucnn.training.mixing import draw_boxes, draw_share
from tests.training import small

X, Y = small.data()
F = np.float32


def word(seed, index, step, purpose, layer=0):
    """One draw, by Philox itself."""
    counter = (index & 0xFFFFFFFF, index >> 32, step, purpose << 16 | layer)
    return [int(w) for w in arithmetic.philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))[:2]]


def share_by_hand(alpha, seed, step):
    for n in range(100):
        u, v = (math.log((word(seed, 2 * n + k, step, 9, 1)[0] + 1) * 2.0**-32) / alpha for k in (0, 1))
        if math.exp(u) + math.exp(v) <= 1:
            s = 1 / (1 + math.exp(v - u))
            return F(max(s, 1 - s))
    raise AssertionError


@pytest.mark.parametrize("alpha", [1.0, 0.4, 0.05])
def test_the_share_is_the_contracts(alpha):
    for step in range(40):
        assert draw_share(alpha, 7, step) == pytest.approx(share_by_hand(alpha, 7, step), rel=1e-6)


def test_shares_are_beta_distributed():
    """Mean and variance of max(s, 1 - s), s uniform for alpha 1: 3/4 and 1/48."""
    shares = np.array([draw_share(1.0, 1, step) for step in range(3000)], np.float64)
    assert shares.mean() == pytest.approx(0.75, abs=5 * math.sqrt(1 / 48 / 3000))
    assert shares.var() == pytest.approx(1 / 48, rel=0.15)
    assert shares.min() >= 0.5


def box_by_hand(rate, seed, step, image, size):
    u = [(word(seed, image * 5 + k, step, 10)[0] >> 8) * 2.0**-24 for k in range(5)]
    if u[0] >= rate:
        return None
    area = (0.02 + u[1] * (0.33 - 0.02)) * (size[0] * size[1])
    aspect = math.exp(math.log(0.3) + u[2] * (math.log(1 / 0.3) - math.log(0.3)))
    sides = [math.floor(math.sqrt(a) + 0.5) for a in (area * aspect, area / aspect)]
    height, width = (min(max(side, 1), most) for side, most in zip(sides, size))
    return math.floor(u[3] * (size[0] - height + 1)), math.floor(u[4] * (size[1] - width + 1)), height, width


def test_the_boxes_are_the_contracts():
    for step in range(5):
        found = draw_boxes(0.6, 2**33 + 5, step, 30, (28, 12))
        assert found == [box_by_hand(0.6, 2**33 + 5, step, image, (28, 12)) for image in range(30)]
    assert 0 < sum(box is None for box in found) < 30


def devices():
    yield get_backend("numpy")
    yield get_backend("numba")
    if why_not() is None:
        yield get_emulated_backend()


def step_by_hand(model, mixup, erase, seed, step, rate):
    """One step of SGD on all images, of a single Dense over 64 pixels, in the contract's order of operations."""
    backend = get_backend("numpy")
    weight, bias = (model.state_dict()[name] for name in ("1.weight", "1.bias"))
    images, count = X.copy(), len(X)
    if mixup:
        draws = [word(seed, i, step, 9)[0] | word(seed, i, step, 9)[1] << 32 for i in range(count)]
        order = sorted(range(count), key=lambda i: (draws[i], i))
        share = draw_share(mixup, seed, step)
        images = (share * images + F(0)) + ((1 - share) * images[order] + F(0))
    if erase:
        for image in range(count):
            box = box_by_hand(erase, seed, step, image, (8, 8))
            if box:
                top, left, height, width = box
                images[image, :, top : top + height, left : left + width] = 0
    x = backend.pack(images.reshape(count, -1))
    logits = backend.dense(x, weight, bias)
    gradient = backend.softmax_cross_entropy(logits, backend.pack_labels(Y))[1].numpy()
    if mixup:
        other = backend.softmax_cross_entropy(logits, backend.pack_labels(Y[order]))[1].numpy()
        gradient = (share * gradient + F(0)) + ((1 - share) * other + F(0))
    dw, db = np.zeros_like(weight), np.zeros_like(bias)
    backend.dense_weight_gradient(backend.pack(gradient), x, dw)
    backend.bias_gradient(backend.pack(gradient), db)
    return weight - F(rate) * dw, bias - F(rate) * db


@pytest.mark.parametrize(("mixup", "erase"), [(0.4, 0.0), (0.0, 0.7), (0.8, 0.5)])
def test_a_step_by_hand(mixup, erase):
    for device in devices():
        model = Model(Sequential(Flatten(), Dense(3)), (1, 8, 8)).initialize(1)
        one = small.trainer(
            model=model,
            backend=device,
            optimizer=SGD(0.5, momentum=0),
            schedule=Constant(),
            shift=0,
            mixup=mixup,
            erase=erase,
        )
        for step in range(2):
            expected = step_by_hand(model, mixup, erase, 3, step, 0.5)
            one.train_step(X, Y)
            for name, value in zip(("1.weight", "1.bias"), expected, strict=True):
                # The last operation is an fma, which the hand computes in two roundings.
                np.testing.assert_allclose(model.state_dict()[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("settings", [{"mixup": 0.3}, {"erase": 0.8}, {"mixup": 1.0, "erase": 0.5, "ema": 0.9}])
def test_every_backend_trains_to_the_same_bits(settings):
    hashes = set()
    for device in devices():
        one = small.trainer(backend=device, **settings)
        one.fit(X[:20], Y[:20], 3)
        hashes.add(one.model.weights_sha256())
    assert len(hashes) == 1


def test_mapped_images_mix_the_same(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    hashes = set()
    for images in (X, mapped):
        one = small.trainer(mixup=0.5, erase=0.5, shift=0)
        one.fit(images, Y, 2)
        hashes.add(one.model.weights_sha256())
    assert len(hashes) == 1


def test_odd_settings_are_refused():
    for settings in ({"mixup": -1}, {"mixup": 2.0}, {"erase": 1.5}, {"erase": "a"}, {"ema": 1.0}, {"ema": 0}):
        with pytest.raises(ConfigurationError, match=next(iter(settings))):
            small.trainer(**settings)
    flat = Model(Sequential(Dense(3)), (4,))
    with pytest.raises(ConfigurationError, match="erase needs images"):
        small.trainer(model=flat, shift=0, erase=0.5).fit(np.ones((3, 4), np.float32), np.array([0, 1, 2]), 1)
