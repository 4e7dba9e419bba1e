"""A loss, an optimizer or an augmentation of the user's within recorded steps: array code that runs anew each time."""

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.errors import GpucnnError
from gpucnn.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, Layer, MaxPool2d, Sequential, image_mask
from gpucnn.losses import Loss, MeanSquared, SoftmaxCrossEntropy
from gpucnn.models import Model
from gpucnn.optimizers import SGD, Optimizer
from gpucnn.training import Callback, Trainer
from tests.training import small

RNG = np.random.default_rng(0)
X, LABELS = RNG.random((45, 2, 8, 8), np.float32), RNG.integers(0, 3, 45)
VALUES = RNG.random((45, 3), np.float32)


class Cubed(Loss):
    """A hundredth of |output - target|**3; exact sums, so that all backends agree; with a factor that it changes."""

    def __init__(self):
        self.calls, self.factor = 0, 1.0

    def __call__(self, outputs, targets, totals=None):
        xp, count = outputs.backend.xp, np.float32(outputs.images)
        self.calls += 1
        difference = xp.where(image_mask(outputs), outputs.data - targets.data, np.float32(0)) * np.float32(self.factor)
        total = xp.sum(xp.round(xp.abs(difference) ** 3 * 1024), dtype=np.float64) / 1024
        if totals is not None:
            totals[0] += total
        gradient = np.float32(0.03) * difference * xp.abs(difference) / count
        return xp.asarray([total / float(count)]), outputs.like(gradient)


class InPlace(Cubed):
    """Writes its gradient over the outputs, and keeps both them and the targets."""

    def __init__(self):
        super().__init__()
        self._before = []

    def __call__(self, outputs, targets, totals=None):
        loss, gradient = super().__call__(outputs, targets, totals)
        shape = gradient.data.shape
        self._before = [old for old in self._before if old.shape == shape][-2:]
        for old in self._before:
            gradient.data[...] += np.float32(0.125) * np.where(image_mask(outputs), old, np.float32(0))
        self._before += [outputs.data, targets.data]
        outputs.data[...] = gradient.data
        return loss, outputs


class Doubled(SoftmaxCrossEntropy):
    """One of ours with another gradient; labels are loaded by ours."""

    def __call__(self, outputs, targets, totals=None):
        loss, gradient = super().__call__(outputs, targets, totals)
        return loss, gradient.like(gradient.data * np.float32(2))


class Reuses(Cubed):
    """Returns the same memory each time, and changes its targets."""

    def __init__(self):
        super().__init__()
        self._gradients = {}

    def __call__(self, outputs, targets, totals=None):
        loss, gradient = super().__call__(outputs, targets, totals)
        kept = self._gradients.setdefault(gradient.data.shape, gradient)
        kept.data[...] = gradient.data
        targets.data[...] += np.float32(1)
        return loss, kept


class Signs(Optimizer):
    """Its state is a new array each time; its rate changes in the middle of training."""

    states = ("mean",)

    def update(self, weights, gradients):
        xp, mean = self.backend.xp, self.state["mean"]
        weights -= self.hyper[0] * xp.sign(np.float32(0.5) * mean + gradients)
        self.state["mean"] = np.float32(0.5) * mean + gradients


class Noisy(SGD):
    """One of ours with something before it."""

    def update(self, weights, gradients):
        gradients += np.float32(2**-7)
        self.backend.sgd(
            weights, gradients, self.state["velocity"], self.hyper, momentum=0.5, weight_decay=0.0, nesterov=False
        )


def mirrored(images, rng):
    images.data[:, :1] *= np.float32(0.5)
    return images if rng.random() < 0.5 else images.like(images.data[..., ::-1, :])


def mean_target(predictions, targets):
    return float(np.mean(targets))


class Halves(Layer):
    def __call__(self, x):
        return x.like(x.data * np.float32(0.5)), lambda dy: dy.like(dy.data * np.float32(0.5))


class Changes(Callback):
    def on_epoch_end(self, trainer, record):
        if record["epoch"] == 2:
            trainer.optimizer.lr *= 0.5
            if isinstance(trainer.loss, Cubed):
                trainer.loss.factor = 2.0
        if record["epoch"] == 4:
            trainer.model.freeze("0")


CASES = {
    "loss": lambda: {"loss": Cubed()},
    "loss in place": lambda: {"loss": InPlace()},
    "loss made of ours": lambda: {"loss": Doubled()},
    "loss with mix-up": lambda: {"loss": Cubed(), "mixup": 0.4},
    "loss with one gradient": lambda: {"loss": Reuses(), "mixup": 0.4, "metrics": [mean_target]},
    "loss made of ours, with a metric": lambda: {"loss": Doubled(), "metrics": ["f1"]},
    "optimizer": lambda: {"optimizer": Signs(0.01)},
    "optimizer with an average": lambda: {"optimizer": Signs(0.01), "ema": 0.5, "clip_norm": 1.0},
    "optimizer by pieces": lambda: {"optimizer": Signs(0.01), "lr_factors": {"0": 0.25}},
    "optimizer made of ours": lambda: {"optimizer": Noisy(0.01)},
    "augmentation": lambda: {"augment": mirrored, "shift": 1},
    "all": lambda: {"loss": InPlace(), "optimizer": Signs(0.01), "augment": mirrored},
    "all with a layer": lambda: {"loss": Cubed(), "optimizer": Signs(0.01), "augment": mirrored, "own": True},
}


def trained(case: str, backend) -> tuple:
    settings = {"optimizer": SGD(0.02)} | CASES[case]()
    own = [Halves()] * settings.pop("own", False)
    layers = [Conv2d(4, 3), BatchNorm(activation="relu"), *own, MaxPool2d(2), Flatten(), Dropout(0.25), Dense(3)]
    values = isinstance(settings.get("loss"), Cubed)
    targets = VALUES if values else LABELS
    model = Model(Sequential(*layers), (2, 8, 8), head="regressor" if values else "classifier")
    trainer = Trainer(model, backend=backend, progress=False, seed=1, batch_size=15, callbacks=[Changes()], **settings)
    history = trainer.fit(X, targets, 6, validation=(X[:15], targets[:15]))
    calls = getattr(trainer.loss, "calls", 0)
    names = "loss", "mean_target", "f1", "validation_loss", "validation_mean_target", "validation_f1"
    return model.weights_sha256(), [history.column(name) for name in names], calls


@pytest.mark.parametrize("case", CASES)
def test_steps_are_recorded_around_them_with_the_bits_of_numpy(case, monkeypatch, capsys):
    """And they are called as often as without recording."""
    expected = trained(case, get_backend("numpy"))
    repeated = small.watched_steps(monkeypatch)
    assert trained(case, get_backend("numba", threads=2)) == expected
    assert sum(repeated) > len(repeated) / 2
    assert "launched one by one" not in capsys.readouterr().err
    repeated.clear()
    assert trained(case, get_backend("numba", graph=False)) == expected and not any(repeated)


class LoadsItself(Cubed):
    def load(self, backend, targets, indices, count, **motion):
        batch = Loss.load(self, backend, targets, indices, count, **motion)
        return batch.like(batch.data * np.float32(0.5))


class StepsItself(Signs):
    def step(self, weights, gradients):
        weights *= np.float32(0.99)
        super().step(weights, gradients)


class HalvesTargets(Loss):
    def load(self, backend, targets, indices, count, **motion):
        batch = super().load(backend, targets, indices, count, **motion)
        return batch.like(batch.data * np.float32(0.5))


class BehindOurs(MeanSquared, HalvesTargets):
    """Its other base comes after ours in the order of methods."""

    def __call__(self, outputs, targets, totals=None):
        return super().__call__(outputs, targets, totals)


ELSEWHERE = {
    "loss": lambda: {"loss": LoadsItself()},
    "loss of two bases": lambda: {"loss": BehindOurs()},
    "optimizer": lambda: {"optimizer": StepsItself(0.01)},
}


@pytest.mark.parametrize("settings", ELSEWHERE.values(), ids=ELSEWHERE)
def test_with_array_code_elsewhere_nothing_is_recorded(settings, monkeypatch):
    hashes, repeated = [], small.watched_steps(monkeypatch)
    for backend in (get_backend("numpy"), get_backend("numba")):
        model = Model(Sequential(Conv2d(4, 3), Flatten(), Dense(3)), (2, 8, 8), head="regressor")
        options = {"loss": MeanSquared()} | settings()
        Trainer(model, backend=backend, progress=False, batch_size=16, **options).fit(X, VALUES, 4)
        hashes.append(model.weights_sha256())
    assert hashes[0] == hashes[1] and not any(repeated)


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (lambda loss, gradient: None, "Turns returned nothing"),
        (lambda loss, gradient: (loss, gradient.data), "Turns returned an ndarray as gradient"),
        (lambda loss, gradient: (loss, gradient.like(gradient.data[:, :1])), "Turns returned a batch of shape"),
    ],
)
def test_a_loss_that_returns_something_else_later_is_refused(later, said):
    class Turns(Cubed):
        def __call__(self, outputs, targets, totals=None):
            result = super().__call__(outputs, targets, totals)
            return result if self.calls < 9 else later(*result)

    model = Model(Sequential(Conv2d(4, 3), Flatten(), Dense(3)), (2, 8, 8), head="regressor")
    trainer = Trainer(model, backend=get_backend("numba"), progress=False, batch_size=16, loss=Turns())
    with pytest.raises(GpucnnError, match=said):
        trainer.fit(X, VALUES, 4)


def test_an_augmentation_that_returns_something_else_later_is_refused():
    def augment(images, rng, calls=[0]):  # noqa: B006
        calls[0] += 1
        return images if calls[0] < 7 else None

    model = Model(Sequential(Conv2d(4, 3), Flatten(), Dense(3)), (2, 8, 8))
    trainer = Trainer(model, backend=get_backend("numba"), progress=False, batch_size=16, augment=augment)
    with pytest.raises(GpucnnError, match="augment returned nothing; return a batch"):
        trainer.fit(X, LABELS, 4)


def test_a_model_without_parameters_trains():
    model = Model(Sequential(Flatten()), (3, 1, 1))
    trainer = Trainer(model, backend=get_backend("numba", threads=2), progress=False, batch_size=16)
    assert np.isfinite(trainer.fit(VALUES[..., None, None], LABELS, 4)["loss"]).all()


def calls_of(backend, augment, update=None) -> tuple:
    model = Model(Sequential(Conv2d(4, 3), Flatten(), Dense(3)), (2, 8, 8))
    trainer = Trainer(model, backend=backend, progress=False, batch_size=15, optimizer=SGD(0.02), augment=augment)
    trainer.train_step(X[:15], LABELS[:15])
    if update:
        trainer.optimizer.update = update
    for start in (0, 15, 30) * 3:
        trainer.train_step(X[start : start + 15], LABELS[start : start + 15])
    return model.weights_sha256()


@pytest.mark.parametrize("part", ["augment", "update"])
def test_what_counts_its_calls_is_called_once_a_step(part):
    """Kernels are compiled ahead of a first step by running it without them, and no code of the user's."""
    found = []
    for backend in (get_backend("numpy"), get_backend("numba", threads=2)):
        calls = []

        def augment(images, rng, calls=calls):
            calls.append(images.images)
            return images.like(images.data * np.float32(1 + len(calls) / 64))

        def update(weights, gradients, calls=calls, **rest):
            calls.append(1)
            weights -= np.float32(len(calls) / 64) * gradients

        parts = (augment, None) if part == "augment" else (None, update)
        found.append((calls_of(backend, *parts), calls))
    assert found[0] == found[1]


class Replaces(Callback):
    def on_epoch_end(self, trainer, record):
        if record["epoch"] == 3:
            trainer.loss.load = lambda *arguments, **motion: LoadsItself.load(trainer.loss, *arguments, **motion)


def test_another_method_of_a_live_part_is_noticed():
    hashes = []
    for backend in (get_backend("numpy"), get_backend("numba")):
        model = Model(Sequential(Conv2d(4, 3), Flatten(), Dense(3)), (2, 8, 8), head="regressor")
        options = {"loss": Cubed(), "callbacks": [Replaces()]}
        Trainer(model, backend=backend, progress=False, batch_size=16, **options).fit(X, VALUES, 5)
        hashes.append(model.weights_sha256())
    assert hashes[0] == hashes[1]
