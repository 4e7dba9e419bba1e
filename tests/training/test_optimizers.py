"""Optimisers and schedules against their formulas in float64, written out here."""

import io
import math

import joblib
import numpy as np
import pytest

from gpucnn import Model, Trainer
from gpucnn.backends import get_backend
from gpucnn.errors import ConfigurationError
from gpucnn.layers import BatchNorm, Conv2d, Dense, Flatten, Sequential
from gpucnn.optimizers import SGD, Adam, AdamW
from gpucnn.schedules import Constant, Cosine, OneCycle, Step, WarmUp

STEPS = 5


def sgd(w, gradients, lr, momentum=0.9, decay=0.0, nesterov=False):
    v = np.zeros_like(w)
    for g in gradients:
        g = g + decay * w
        v = momentum * v + g
        w = w - lr * (momentum * v + g if nesterov else v)
    return w


def adam(w, gradients, lr, decay=0.0, decoupled=False, b1=0.9, b2=0.999, eps=1e-8):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        if decoupled:
            w = w - lr * decay * w
        else:
            g = g + decay * w
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        w = w - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return w


@pytest.mark.parametrize(
    ("optimizer", "wanted"),
    [
        (SGD(0.1, momentum=0), lambda w, g: sgd(w, g, 0.1, 0)),
        (SGD(0.1), lambda w, g: sgd(w, g, 0.1)),
        (SGD(0.1, weight_decay=0.01), lambda w, g: sgd(w, g, 0.1, decay=0.01)),
        (SGD(0.1, weight_decay=0.01, nesterov=True), lambda w, g: sgd(w, g, 0.1, decay=0.01, nesterov=True)),
        (Adam(0.01), lambda w, g: adam(w, g, 0.01)),
        (Adam(0.01, weight_decay=0.1), lambda w, g: adam(w, g, 0.01, decay=0.1)),
        (AdamW(0.01, weight_decay=0.1), lambda w, g: adam(w, g, 0.01, decay=0.1, decoupled=True)),
    ],
)
@pytest.mark.parametrize("math", ["fast", "exact"])
def test_against_the_formula(optimizer, wanted, math):
    rng = np.random.default_rng(0)
    w = rng.standard_normal(50).astype(np.float32)
    gradients = rng.standard_normal((STEPS, 50)).astype(np.float32)
    backend = get_backend("numpy", math)
    optimizer.place(backend, 50)
    weights = backend.array(w)
    for step, g in enumerate(gradients, 1):
        optimizer.set_rates(1.0, step)
        optimizer.update(weights, backend.array(g))
    # A handful of float32 roundings a step, of numbers below 8: weights, velocities (10 gradients at most), updates.
    bound = STEPS * 10 * 2**-24 * 8
    assert np.abs(weights - wanted(w.astype(np.float64), gradients.astype(np.float64))).max() <= bound


def test_placing_starts_anew():
    backend = get_backend("numpy")
    optimizer, w = SGD(0.1), np.ones(4, np.float32)
    optimizer.place(backend, 4)
    optimizer.set_rates(1.0, 1)
    optimizer.update(w, np.ones(4, np.float32))
    assert np.all(optimizer.state_dict()["velocity"] == 1)
    optimizer.place(backend, 4)
    assert np.all(optimizer.state_dict()["velocity"] == 0)


@pytest.mark.parametrize(
    "array",
    [np.zeros(3, np.float32), np.zeros(40), np.zeros((40, 1), np.float32), np.zeros(80, np.float32)[::2], [0.0]],
)
def test_an_array_in_a_states_place_that_kernels_would_read_beyond_is_refused(array):
    optimizer, w = Adam(), np.ones(40, np.float32)
    optimizer.place(get_backend("numba"), 40)
    optimizer.set_rates(1.0, 1)
    optimizer.state["mean"] = array
    words = r"state\['mean'\] is .* placed for float32 of shape \(40,\): copy into the one there"
    with pytest.raises(ConfigurationError, match=words):
        optimizer.step(w, w)
    trainer = Trainer(Model(Dense(3), (2,)), backend="numba", progress=False)
    trainer.train_step(np.ones((1, 2), np.float32), [0])
    trainer.optimizer.state["mean"] = array
    with pytest.raises(ConfigurationError, match="state"):
        trainer.fit(np.ones((1, 2), np.float32), [0], 1)


def test_an_optimizer_from_a_file_of_joblib_takes_the_rates_that_are_set():
    """joblib makes two arrays of one that is in two places."""
    optimizer, file = SGD(0.1, momentum=0), io.BytesIO()
    optimizer.place(get_backend("numpy"), 4)
    joblib.dump(optimizer, file)
    file.seek(0)
    loaded, w = joblib.load(file), np.ones(4, np.float32)
    loaded.set_rates(1.0, 1)
    loaded.step(w, np.ones(4, np.float32))
    assert np.all(w == np.float32(1) - np.float32(0.1))


def test_adams_corrections_are_repeated_products():
    optimizer = Adam()
    power1 = power2 = 1.0
    for step in range(1, 200):
        power1, power2 = power1 * 0.9, power2 * 0.999
        assert optimizer.rates(0.5, step) == (0.5, 1 - power1, 1 - power2, 0.0)
    assert Adam().rates(0.5, 199) == optimizer.rates(0.5, 199)  # a resumed run jumps there
    assert optimizer.rates(0.5, 3) == Adam().rates(0.5, 3)  # a second fit starts again


def test_rates_are_rounded_once():
    backend, optimizer = get_backend("numpy"), AdamW(0.1, weight_decay=0.3)
    optimizer.place(backend, 1)
    rate = optimizer.set_rates(1 / 3, 1)
    assert rate == np.float32(0.1 * (1 / 3))
    assert np.array_equal(
        optimizer.hyper, np.array([0.1 * (1 / 3), 1 - 0.9, 1 - 0.999, 0.1 * (1 / 3) * 0.3], np.float32)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(-1),
        lambda: SGD(float("nan")),
        lambda: SGD("fast"),
        lambda: SGD(momentum=1),
        lambda: SGD(weight_decay=-1),
        lambda: SGD(momentum=0, nesterov=True),
        lambda: Adam(beta1=1.0),
        lambda: Adam(eps=-1),
        lambda: Step(0),
        lambda: Step(3, 2.0),
        lambda: Cosine(-0.1),
        lambda: OneCycle(rise=1.5),
        lambda: WarmUp(0),
    ],
)
def test_wrong_settings_are_refused(make):
    with pytest.raises(ConfigurationError):
        make()


def factors(schedule, epochs, an_epoch):
    steps = epochs * an_epoch
    return [schedule(step, steps, step // an_epoch) for step in range(steps)]


def test_constant_and_step():
    assert factors(Constant(), 2, 2) == [1] * 4
    assert factors(Step(2, 0.5), 5, 2) == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_cosine():
    got = factors(Cosine(final=0.2), 4, 5)
    wanted = [0.2 + 0.8 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(20)]
    assert np.abs(np.subtract(got, wanted)).max() < 1e-15
    assert got[0] == 1.0 and got == sorted(got, reverse=True)


def test_one_cycle():
    got = factors(OneCycle(rise=0.25, start=0.1, final=0.01), 4, 5)
    up = [1 + (0.1 - 1) * (1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)]
    down = [0.01 + 0.99 * (1 + math.cos(math.pi * step / 15)) / 2 for step in range(15)]
    assert np.abs(np.subtract(got, up + down)).max() < 1e-15
    assert abs(got[0] - 0.1) < 1e-15 and got[5] == 1.0
    for rise in (0.0, 1.0):
        assert all(0 < factor <= 1 for factor in factors(OneCycle(rise=rise), 2, 3))


def test_warm_up():
    assert factors(WarmUp(3), 3, 2) == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = factors(Cosine(), 3, 2)
    assert factors(WarmUp(3, Cosine()), 3, 2) == [factor * min((i + 1) / 4, 1) for i, factor in enumerate(cosine)]
    assert WarmUp(3, Cosine()).uses_steps and not WarmUp(3).uses_steps
    assert WarmUp(3, Step(2)).settings() == {
        "name": "WarmUp",
        "steps": 3,
        "then": {"name": "Step", "every": 2, "factor": 0.1},
    }


def test_weights_of_every_kind_decay_but_not_frozen_ones():
    net = Model(Sequential(Conv2d(2, 3), BatchNorm(), Flatten(), Dense(2)), (1, 5, 5)).initialize(0)
    state = {name: value + np.float32(0.5) for name, value in net.state_dict().items()}  # biases too
    net.load_state_dict(state)
    net.freeze("3")
    optimizer = AdamW(1e-9, weight_decay=1e8)  # a tenth off, and next to nothing by the gradients
    images, labels = np.zeros((4, 1, 5, 5), np.float32), np.arange(4) % 2
    Trainer(net, optimizer=optimizer, backend="numpy", progress=False).fit(images, labels, 1)
    for name, value in net.state_dict().items():
        if "running" not in name:
            np.testing.assert_allclose(value, state[name] * (1 if name[0] == "3" else 0.9), rtol=1e-6, err_msg=name)
