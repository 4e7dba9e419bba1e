"""Layers of the user's own within recorded steps: they run anew in each repetition, and all else is repeated."""

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.errors import ConfigurationError, GpucnnError
from gpucnn.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, Layer, MaxPool2d, Parameter, Residual, Sequential
from gpucnn.models import Model
from gpucnn.optimizers import SGD
from gpucnn.training import Callback, Trainer
from tests.training import small

RNG = np.random.default_rng(0)
X, Y = RNG.random((45, 2, 8, 8), np.float32), RNG.integers(0, 3, 45)


class Noise(Layer):
    """Its numbers come from a generator of its own, and go on from step to step; it counts its calls."""

    def __init__(self):
        self.calls, self._random = 0, np.random.default_rng(3)

    def __call__(self, x):
        self.calls += 1
        factor = np.float32(2)
        if self.mode.training:
            factor = self._random.integers(1, 4, x.data.shape[1:-1])[..., None].astype(np.float32)
        return x.like(x.data * factor), lambda dy: dy.like(dy.data * factor)


class InPlace(Layer):
    """Changes the arrays that it is given, and returns them."""

    def __call__(self, x):
        x.data[...] *= np.float32(0.5)

        def backward(dy):
            dy.data[...] *= np.float32(0.5)
            return dy

        return x, backward


class Remembers(Layer):
    """Keeps what it was given, from step to step and beyond."""

    def __init__(self):
        self._x = self._dy = np.float32(0)
        self._taps = []

    def __call__(self, x):
        factor = np.float32(0.5)
        same = np.shape(self._x) == x.data.shape
        y = x.like(x.data + factor * self._x if same else x.data + np.float32(0))
        self._x = x.data
        self._taps.append(float(x.data[0, 0, ..., 0].max()))

        def backward(dy):
            same = np.shape(self._dy) == dy.data.shape
            dx = dy.like(dy.data + factor * self._dy if same else dy.data + np.float32(0))
            self._dy = dy.data
            return dx

        return y, backward


class Learned(Layer):
    """A parameter, operations of the backend and other layers within."""

    def build(self, shape):
        self.inside, self.bias = Conv2d(shape[0], 3, padding=1, activation="relu"), Parameter((shape[0],), 0.25)
        return self.inside.connect(shape)

    def __call__(self, x):
        y, step = self.inside(x)
        z = y.backend.add(x, y)

        def backward(dz):
            self.bias.grad[...] = dz.data[0, :, ..., 0].reshape(len(self.bias.value), -1)[:, 0]
            dx = step(dz)
            return dz if dx is None else dz.backend.add(dz, dx)

        return z.backend.add_bias(z, self.bias.value), backward


class Silent(Layer):
    """Has no gradient for what is before it, where nobody needs one."""

    def build(self, shape):
        self.weight = Parameter((1,), 0.5)
        return shape

    def __call__(self, x):
        def backward(dy):
            self.weight.grad[...] = dy.data[0, 0, ..., 0].reshape(-1)[:1]
            return dy.like(dy.data * self.weight.value) if self.input_gradient else None

        return x.like(x.data * self.weight.value), backward


class Within(Layer):
    def __init__(self, inner):
        self.inner = inner

    def build(self, shape):
        return self.inner.connect(shape)

    def __call__(self, x):
        return self.inner(x)


class Changes(Callback):
    """Settings of layers, those that run live too, change in the middle of training; a layer is frozen."""

    def on_epoch_end(self, trainer, record):
        for layer in trainer.model.layer.walk():
            if isinstance(layer, Dropout) and record["epoch"] < 3:
                layer.rate = 0.125 * record["epoch"]
        if record["epoch"] == 3:
            trainer.model.freeze("0")


NETWORKS = {
    "noise": lambda: [Conv2d(4, 3), Noise(), MaxPool2d(2), Noise(), Flatten()],
    "in place": lambda: [Conv2d(4, 3, activation="relu"), InPlace(), BatchNorm(), InPlace(), Flatten()],
    "tanh_in_place": lambda: [Conv2d(4, 3, activation="tanh"), InPlace(), Flatten()],
    "learned": lambda: [Learned(), BatchNorm(activation="relu"), Learned(), Flatten(), Dropout(0.25)],
    "within": lambda: [Conv2d(4, 3), Residual(Sequential(Noise(), Conv2d(4, 3, padding=1), InPlace())), Flatten()],
    "first": lambda: [Silent(), Conv2d(4, 3), Silent(), Flatten()],
    "remembers": lambda: [Conv2d(4, 3, activation="tanh"), Remembers(), MaxPool2d(2), Remembers(), Flatten()],
    "also elsewhere": lambda: [*(lambda c: [Within(c), c])(Conv2d(2, 3, padding=1)), Flatten()],
    "after batch norm": lambda: [Conv2d(4, 3, bias=False), BatchNorm(), Noise(), Flatten()],
}


def trained(network: str, backend) -> tuple[str, list, list]:
    model = Model(Sequential(*NETWORKS[network](), Dense(3)), (2, 8, 8))
    # What is in lanes without an image nobody says, and it would be remembered beside one.
    size = 15 if network == "remembers" else 16
    settings = {"seed": 1, "batch_size": size, "shift": 1, "optimizer": SGD(0.05), "callbacks": [Changes()]}
    history = Trainer(model, backend=backend, progress=False, **settings).fit(X, Y, 5, validation=(X[:20], Y[:20]))
    calls = [layer.calls for layer in model.layer.walk() if isinstance(layer, Noise)]
    return model.weights_sha256(), [history[name] for name in ("loss", "validation_loss")], calls


@pytest.mark.parametrize("network", NETWORKS)
def test_steps_are_recorded_around_them_with_the_bits_of_numpy(network, monkeypatch, capsys):
    """And they are called as often as without recording."""
    expected = trained(network, get_backend("numpy"))
    repeated = small.watched_steps(monkeypatch)
    assert trained(network, get_backend("numba", threads=2)) == expected
    assert sum(repeated) > len(repeated) / 2 or network == "also elsewhere"
    assert "launched one by one" not in capsys.readouterr().err
    repeated.clear()
    assert trained(network, get_backend("numba", graph=False)) == expected and not any(repeated)


def test_beside_what_is_only_declared_nothing_is_recorded():
    """It takes a proof, which runs a step twice."""

    class Declared(Layer):
        recordable = True

        def __call__(self, x):
            return x.backend.add(x, x), lambda dy: dy.backend.add(dy, dy)

    noise = Noise()
    model = Model(Sequential(Declared(), noise, Flatten(), Dense(3)), (2, 8, 8))
    trainer = Trainer(model, backend=get_backend("numba"), batch_size=15, progress=False)
    trainer.fit(X, Y, 4)
    assert noise.calls == 12


def test_a_callback_may_give_a_live_layer_another_call():
    class Plain(Layer):
        def __call__(self, x):
            return x.like(x.data + np.float32(1)), lambda dy: dy

    def other(self, x):
        return x.like(x.data * np.float32(0.5)), lambda dy: dy.like(dy.data * np.float32(0.5))

    class Swaps(Callback):
        def on_epoch_end(self, trainer, record):
            if record["epoch"] == 2:
                trainer.model.layer.layers[1].__class__ = type("Other", (Plain,), {"__call__": other})

    hashes = []
    for backend in (get_backend("numpy"), get_backend("numba")):
        model = Model(Sequential(Conv2d(2, 3), Plain(), Flatten(), Dense(3)), (2, 8, 8))
        Trainer(model, backend=backend, batch_size=15, progress=False, callbacks=[Swaps()]).fit(X, Y, 4)
        hashes.append(model.weights_sha256())
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("first", [1, 6])
def test_a_live_layer_that_sets_another_ones_settings_is_not_recorded(first, capsys):
    """From the first step on it is seen at once; later the step that was recorded is refused."""

    class Anneals(Noise):
        def __call__(self, x):
            y, backward = super().__call__(x)
            if self.calls >= first:
                self._other().rate = 0.25 / self.calls
            return y, backward

    found = []
    for backend in (get_backend("numpy"), get_backend("numba")):
        own, dropout = Anneals(), Dropout(0.5)
        own._other = lambda dropout=dropout: dropout  # else it were a part of it
        model = Model(Sequential(Conv2d(2, 3), own, dropout, Flatten(), Dense(3)), (2, 8, 8))
        trainer = Trainer(model, backend=backend, batch_size=15, progress=False)
        if first > 1 and backend.graph:
            with pytest.raises(ConfigurationError, match=r"Dropout.rate was changed within a step, by code of your"):
                trainer.fit(X, Y, 4)
            return
        trainer.fit(X, Y, 4)
        found.append(model.weights_sha256())
    assert found[0] == found[1]
    assert "Dropout.rate changes within a step, so steps are launched one by one" in capsys.readouterr().err


def test_an_error_of_a_live_layer_arrives_and_the_trainer_goes_on():
    class Fails(Noise):
        def __call__(self, x):
            if self.calls == 7:
                self.calls += 1
                raise ValueError("not today")
            return super().__call__(x)

    model = Model(Sequential(Conv2d(2, 3), Fails(), Flatten(), Dense(3)), (2, 8, 8))
    trainer = Trainer(model, backend=get_backend("numba"), batch_size=15, progress=False)
    with pytest.raises(ValueError, match="not today"):
        trainer.fit(X, Y, 4)
    assert len(trainer.fit(X, Y, 4)["loss"]) >= 4


def test_a_live_layer_that_returns_something_else_later_is_refused():
    class Turns(Noise):
        def __call__(self, x):
            y, backward = super().__call__(x)
            return (y.data if self.calls > 5 else y), backward

    model = Model(Sequential(Conv2d(2, 3), Turns(), Flatten(), Dense(3)), (2, 8, 8))
    trainer = Trainer(model, backend=get_backend("numba"), batch_size=15, progress=False)
    with pytest.raises(GpucnnError, match=r"Turns\) returned an ndarray; return a batch"):
        trainer.fit(X, Y, 4)
