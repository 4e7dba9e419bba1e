"""What own code keeps that no checkpoint has is said; what it keeps where a checkpoint has it is resumed."""

import random
import re

import numpy as np
import pytest

from gpucnn.layers import Dense, Flatten, Layer, Parameter, Sequential, Statistic
from gpucnn.losses import MeanSquared
from gpucnn.models import Model
from gpucnn.optimizers import SGD, Optimizer
from gpucnn.schedules import Schedule
from gpucnn.training import Quiet
from tests.training.small import data, trainer

RNG = np.random.default_rng(0)


class Told(Quiet):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


class Heavy(Optimizer):
    """Momentum, kept where `where` says."""

    states = ("mean",)

    def __init__(self, lr=0.05, where="state", count=0):
        super().__init__(lr)
        self.where, self.count, self._count, self._mean, self.mean = where, count, 0, None, None

    def update(self, weights, gradients):
        self.count, self._count = (self.count + 1, 0) if self.where != "_count" else (0, self._count + 1)
        mean = self.state["mean"]
        if self.where in ("_mean", "mean"):
            if getattr(self, self.where) is None:
                setattr(self, self.where, np.zeros_like(weights))
            mean = getattr(self, self.where)
        mean[...] = np.float32(0.5) * mean + gradients
        weights -= self.hyper[0] / np.float32(1 + self.count + self._count) * mean


class Counter(Optimizer):
    count = 0  # no attribute of the object until a step sets it

    def update(self, weights, gradients):
        self.count += 1
        weights -= self.hyper[0] / np.float32(self.count) * gradients


class Falling(Schedule):
    def __init__(self, name):
        self.name_, self.calls, self._calls = name, 0, 0

    def __call__(self, step, steps, epoch):
        setattr(self, self.name_, getattr(self, self.name_) + 1)
        return 1 / (self.calls + self._calls)


class Drift(MeanSquared):
    def __init__(self):
        self._ups = [0]

    def __call__(self, outputs, targets, totals=None):
        self._ups[0] += 1
        return super().__call__(outputs, targets, totals)


def brightness(images, rng):
    return images.like(images.data * np.float32(rng.uniform(0.5, 1)))


def own_numbers(images, rng):
    return images.like(images.data * np.float32(RNG.uniform(0.5, 1)))


def old_numbers(images, rng):
    return images.like(images.data * np.float32(np.random.uniform(0.5, 1)))


def pythons_numbers(images, rng):
    return images.like(images.data * np.float32(random.uniform(0.5, 1)))


class Growing:
    def __init__(self):
        self.steps = 0

    def __call__(self, images, rng):
        self.steps += 1
        return images.like(images.data / np.float32(self.steps))


def fitted(folder, epochs, make, **more) -> tuple[str, list[str]]:
    """(hash of the weights, what was said) of a run with what `make` makes."""
    settings = {"optimizer": SGD(0.05), "schedule": None, "progress": Told(), "run": folder, **make()}
    regressor = isinstance(settings.get("loss"), MeanSquared)
    head, count = ("regressor", 3) if regressor else ("classifier", 3)
    it = trainer(model=Model(Sequential(Flatten(), Dense(count)), (1, 8, 8), head=head), **settings)
    labels = np.eye(3, dtype=np.float32)[data()[1]] if regressor else data()[1]
    it.fit(data()[0], labels, epochs, **more)
    return it.model.weights_sha256(), [text for text in it.progress.said if "no checkpoint" in text]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: {"optimizer": Heavy()}, None),
        (lambda: {"optimizer": Heavy(where="_count")}, "Heavy._count changes .* without a leading _"),
        (lambda: {"optimizer": Heavy(where="_mean")}, "Heavy._mean changes .* name its arrays in `states`"),
        (lambda: {"optimizer": Heavy(where="mean")}, "Heavy.mean changes"),
        (lambda: {"optimizer": Counter(0.05)}, "Counter.count changes .* set its numbers in __init__"),
        (lambda: {"schedule": Falling("calls")}, None),
        (lambda: {"schedule": Falling("_calls")}, "Falling._calls changes"),
        (lambda: {"augment": brightness}, None),
        (lambda: {"augment": own_numbers}, "RNG changes .* take random numbers from the generator that it gets"),
        (lambda: {"augment": old_numbers}, "numpy.random changes"),
        (lambda: {"augment": pythons_numbers}, "random changes"),
        (lambda: {"augment": Growing()}, "Growing.steps changes"),
    ],
)
def test_what_no_checkpoint_has_is_said_once(make, named, tmp_path):
    whole, said = fitted(tmp_path / "whole", 3, make)
    fitted(tmp_path / "parts", 1, make)
    resumed, _ = fitted(tmp_path / "parts", 3, make, resume=True)
    assert (whole == resumed) is (named is None)
    assert len(said) == (named is not None)
    if named:
        assert re.search(named, said[0])


def test_a_loss_is_looked_at_too_and_nothing_is_said_without_a_run(tmp_path):
    _, said = fitted(tmp_path / "run", 2, lambda: {"loss": Drift()})
    assert said[0].startswith("Drift._ups changes while training runs")
    assert fitted(None, 2, lambda: {"loss": Drift()})[1] == []


class Centered(Layer):
    """x minus a running mean of all values, kept where `kept` says; `cache` is there for the backward pass."""

    def __init__(self, kept):
        self.kept = kept

    def build(self, shape):
        self.center, self.array = Statistic((1,)), np.zeros(1, np.float32)
        self.scale, self.fixed = Parameter((1,), 1.0), np.ones(1, np.float32)
        return shape

    def __call__(self, x):
        mean = self.array if self.kept == "array" else self.center.value
        if self.mode.training:
            mean += np.float32(0.25) * x.data[0, 0, 0, 0, 0]
        self.cache = x.data + 0
        return x.like((x.data - mean) * self.fixed), self.backward

    def backward(self, dy):
        self.scale.grad[...] = 0
        return dy


@pytest.mark.parametrize("kept", ["array", "statistic"])
def test_an_array_of_a_layer_is_looked_at(kept, tmp_path):
    def run(folder, epochs, **more):
        model = Model(Sequential(Centered(kept), Flatten(), Dense(3)), (1, 8, 8))
        it = trainer(model=model, optimizer=SGD(0.05), schedule=None, progress=Told(), run=folder)
        it.fit(*data(), epochs, **more)
        return it.model.weights_sha256(), [text for text in it.progress.said if "no checkpoint" in text]

    whole, said = run(tmp_path / "whole", 3)
    run(tmp_path / "parts", 1)
    resumed, _ = run(tmp_path / "parts", 3, resume=True)
    assert (whole == resumed) is (kept == "statistic")
    wanted = "layer 0 (Centered).array changes while training runs, and no checkpoint has it: "
    assert [text.startswith(wanted) and text.endswith("as gpucnn.layers.Statistic") for text in said] == (
        [True] if kept == "array" else []
    )
