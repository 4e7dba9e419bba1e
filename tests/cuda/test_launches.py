"""What a training step launches: how many kernels, and that a recorded step needs nothing from the host."""

import collections
import importlib

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.backends.cuda.backend import CudaBackend
from gpucnn.backends.cuda.planning import PlanningLauncher
from gpucnn.layers import (
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    MaxPool2d,
    Residual,
    Sequential,
)
from gpucnn.models import Model, build_model
from gpucnn.optimizers import SGD, Adam, Optimizer
from gpucnn.schedules import Cosine
from gpucnn.throughput.jobs import SHAPES
from gpucnn.training import Callback, Trainer
from gpucnn.training.data import Resident
from gpucnn.training.steps import TrainingSteps
from tests.cuda import fake_cupy
from tests.cuda.emulated import needs_emulation


@pytest.fixture
def cupy_backend(monkeypatch):
    fake_cupy.install(monkeypatch)
    return importlib.import_module("gpucnn.backends.cuda.cupy_backend").CupyBackend(0, np.dtype(np.float32))


def _launches(model: str, batch: int, optimizer: Optimizer) -> list[tuple]:
    """Those of the second of two planned steps, the first having copied what does not change."""
    launcher = PlanningLauncher(132)
    backend, shape = CudaBackend(launcher), SHAPES.get(model, (3, 32, 32))
    built = build_model(model, shape, 10).initialize(0).place(backend)
    built.layer.need_input_gradient(False)
    optimizer.place(backend, built.values.size)
    data = Resident(backend, np.zeros((2 * batch, *shape), np.float32), np.zeros(2 * batch, np.int32), batch)
    steps, batches = TrainingSteps(built, optimizer, data), data.batches(np.arange(2 * batch))
    steps.look_ahead(batches, 0, [1.0, 0.5])
    steps.run(batches[0], 0, 1.0)
    launcher.launches.clear()
    steps.run(batches[1], 1, 0.5)
    return launcher.launches


@pytest.mark.parametrize("optimizer", [SGD, Adam])
@pytest.mark.parametrize(
    ("model", "batch", "most"),
    [("lenet5", 64, 16), ("lenet5", 512, 16), ("vgg_small", 128, 52), ("resnet20", 128, 140)],
)
def test_a_training_step_is_so_many_launches(model, batch, most, optimizer):
    launches = _launches(model, batch, optimizer())
    assert not [launch for launch in launches if launch[0] == "copy"]
    names = collections.Counter(launch[0] if len(launch) == 2 else launch[0][1].split("<")[0] for launch in launches)
    assert len(launches) <= most, names


class _Rates(SGD):
    """A rate that is known only when it is asked for."""

    asked = 0

    def rates(self, lr, step):
        self.asked += 1
        return (lr / self.asked,)


class _Halve(Callback):
    """Changes the rate within an epoch, from a schedule of its own."""

    def on_epoch_begin(self, trainer, epoch):
        trainer.optimizer.lr /= 2


def _network() -> Model:
    layers = (
        Conv2d(2, 3, activation="relu"),
        MaxPool2d(2),
        Dropout(0.25),
        Flatten(),
        Dense(8, activation="relu"),
        Dense(3),
    )
    return Model(Sequential(*layers), (1, 6, 6)).initialize(3)


def _residual() -> Model:
    """What ResNet-20 has: batch norm with an addition and ReLU at its end, with and without a shortcut."""

    def body(filters: int, stride: int) -> Sequential:
        first = Conv2d(filters, 3, stride=stride, padding=1, bias=False)
        return Sequential(first, BatchNorm(activation="relu"), Conv2d(filters, 3, padding=1, bias=False), BatchNorm())

    shortcut = Sequential(Conv2d(4, 1, stride=2, bias=False), BatchNorm())
    layers = Conv2d(2, 3), Residual(body(2, 1)), Residual(body(4, 2), shortcut), Residual(body(4, 1), activation=None)
    return Model(Sequential(*layers, GlobalAvgPool2d(), Dense(3)), (1, 6, 6)).initialize(3)


@needs_emulation
def test_residual_blocks_end_in_kernels_that_add(cupy_backend):
    assert _trained(cupy_backend, _residual) == _trained(get_backend("numpy", "exact"), _residual)


def _trained(backend, network=_network, **settings) -> str:
    random = np.random.default_rng(2)
    images, labels = random.standard_normal((75, 1, 6, 6)).astype(np.float32), random.integers(0, 3, 75)
    model = network()
    Trainer(model, backend=backend, batch_size=18, seed=5, progress=False, **settings).fit(images, labels, 3)
    return model.weights_sha256()


# Settings, and whether the device can know all of them before a step.
_RUNS = {
    "constant": ({}, True),
    "adam, cosine": ({"optimizer": lambda: Adam(0.01), "schedule": Cosine}, True),
    "rates of one's own": ({"optimizer": lambda: _Rates(0.02)}, False),
    "a callback": ({"callbacks": lambda: [_Halve()]}, True),
}


@needs_emulation
@pytest.mark.parametrize("run", _RUNS)
def test_steps_that_the_device_prepares_itself(cupy_backend, run, monkeypatch):
    """The weights are those of the specification, which knows no tables; and what is known before is not copied."""
    settings, known = _RUNS[run]
    copied = []
    write = type(cupy_backend.launcher).write
    monkeypatch.setattr(
        type(cupy_backend.launcher),
        "write",
        lambda self, array, host: (copied.append(array.shape), write(self, array, host)),
    )
    made = [{name: make() for name, make in settings.items()} for _ in range(2)]
    assert _trained(cupy_backend, **made[0]) == _trained(get_backend("numpy", "exact"), **made[1])
    # 5 steps an epoch, the last one short: a batch's indices are written once an epoch, or for each step.
    indices = copied.count((18,))
    assert indices <= 10 if known else indices >= 15


@needs_emulation
def test_steps_that_are_not_those_announced(cupy_backend):
    """What is run decides, and after that the host has its say until the next epoch is planned."""

    def weights(backend, announced: bool) -> str:
        model, optimizer = _network().place(backend), SGD(0.05)
        optimizer.place(backend, model.values.size)
        random = np.random.default_rng(2)
        images, labels = random.standard_normal((40, 1, 6, 6)).astype(np.float32), random.integers(0, 3, 40)
        data = Resident(backend, images, labels.astype(np.int32), 10)
        steps = TrainingSteps(model, optimizer, data)
        batches = data.batches(np.arange(40))
        for epoch in range(2):
            if announced:
                steps.look_ahead(batches, 4 * epoch, [1.0] * 4)
            for number, batch in enumerate([0, 1, 3, 2] if epoch == 0 else [0, 1, 2, 3], start=4 * epoch):
                steps.run(batches[batch], number, 0.5 if number == 5 else 1.0)
        return model.weights_sha256()

    assert weights(cupy_backend, True) == weights(get_backend("numpy", "exact"), False)
