"""Networks with layers of the user's own: plans compute what lies between them, with the bits of NumPy exact."""

import copy
import threading
import warnings

import numpy as np
import pytest

from gpucnn import layers as L
from gpucnn.backends import get_backend
from gpucnn.data.mapped import Mapped
from gpucnn.errors import DataError
from gpucnn.losses import MeanSquared, SoftmaxCrossEntropy
from gpucnn.models import Model, lenet5
from tests.inference.kinds import settle
from tests.inference.random_networks import random_flat_network, random_network
from tests.inference.test_plans import expected, images, same


class Own(L.Layer):
    """Not declared, so Python computes it; counts its calls and the images of the last one."""

    def __init__(self):
        self.calls = self.seen = 0

    def __call__(self, x):
        self.calls, self.seen = self.calls + 1, x.images
        factor = np.float32(1.5)
        return x.like(np.maximum(x.data, np.float32(-0.25)) * factor), lambda dy: dy.like(dy.data * factor)


class Scale(L.Layer):
    """With a parameter."""

    def build(self, shape):
        self.factor = L.Parameter((shape[0],), 1.0)
        return shape

    def __call__(self, x):
        factor = self.factor.value.reshape(-1, *(1,) * (x.data.ndim - 2))
        return x.like(factor * x.data), None


class Inverse(L.Layer):
    """NumPy warns of zeros."""

    def __call__(self, x):
        return x.like(np.float32(1) / x.data), None


class Centered(L.Layer):
    """Depends on all images of a batch."""

    def __call__(self, x):
        values = x.numpy()
        return x.backend.pack(values - values.mean(0, dtype=np.float64).astype(np.float32)), None


def planned(model: Model) -> list[bool]:
    (stages,) = model._plans._stages.values()
    return [stage.graph is not None for stage in stages]


def with_own(network, seed: int) -> Model:
    """A random network with layers of one's own before, between and behind its layers."""
    random, model = np.random.default_rng(seed), network(seed)
    layers = list(copy.deepcopy(model.layer).layers)
    for _ in range(int(random.integers(1, 4))):
        own = Own() if random.integers(3) else L.Residual(L.Sequential(Own()), activation="tanh")
        layers.insert(int(random.integers(len(layers) + 1)), own)
    return settle(Model(L.Sequential(*layers), model.input_shape, head=model.head), seed)


@pytest.mark.parametrize(
    ("network", "seed"), [(n, s) for n in (random_network, random_flat_network) for s in range(25)]
)
def test_random_networks_have_the_bits_of_numpy(network, seed):
    model = with_own(network, seed)
    x = images(model, 19, seed)
    reference = expected(model, x)
    model.place(get_backend("numba", threads=2))
    for count, batch_size in ((1, 256), (9, 256), (19, 7), (1, 1)):
        assert same(model.predict(x[:count], batch_size), reference[:count]), count


def small(*own: L.Layer) -> Model:
    """Convolutions, then `own`, then a dense layer."""
    layers = [L.Conv2d(6, 3, activation="relu"), L.MaxPool2d(2), *own, L.Conv2d(4, 3), L.Flatten(), L.Dense(5)]
    return settle(Model(L.Sequential(*layers), (2, 12, 12)), 0)


def test_what_is_heavy_between_own_layers_is_planned():
    layers = L.Conv2d(6, 3), Own(), L.ReLU(), Own(), L.Conv2d(4, 3), L.Flatten(), L.Dense(5), Own()
    model = settle(Model(L.Sequential(*layers), (2, 12, 12)), 0).place(get_backend("numba", threads=2))
    model.predict(images(model, 1))
    assert planned(model) == [True, False, False, False, True, False]
    whole = settle(Model(Own(), (2, 12, 12), head="regressor"), 0).place(model.backend)
    whole.predict(images(model, 1))
    assert planned(whole) == [False]


def test_a_layer_that_changes_its_own_settings_keeps_the_plans():
    own = Own()
    model = small(own).place(get_backend("numba", threads=2))
    x = images(model, 3)
    first = model.predict(x)
    plans = {id(plan) for waiting in model._plans._free.values() for plan in waiting}
    assert own.calls == 1 and len(plans) == 2
    assert same(model.predict(x), first) and own.calls == 2
    assert plans == {id(plan) for waiting in model._plans._free.values() for plan in waiting}
    model.layer.layers[0].activation = "tanh"
    assert same(model.predict(x), expected(model, x)) and not same(model.predict(x), first)


def test_weights_that_change_are_seen_at_once():
    model = small(Scale()).place(get_backend("numba", threads=2))
    x = images(model, 2)
    before = model.predict(x)
    for layer in (2, 3):
        next(iter(model.layer.layers[layer].parameters()))[1].value[...] *= 2
        after = model.predict(x)
        assert same(after, expected(model, x)) and not same(after, before)
        before = after


SETTINGS = {"slope": 0.5}


def _helper(x, slope):
    return x.backend.elementwise("leaky_relu", x, slope)


class Reads(L.Layer):
    """Declared, but it reads a dictionary."""

    recordable = True

    def __call__(self, x):
        return _helper(x, SETTINGS["slope"]), None


class Calls(L.Layer):
    """Its class has the number, and another function the code."""

    recordable = True
    slope = 0.5

    def __call__(self, x):
        return _helper(x, self.slope), None


@pytest.mark.parametrize("kind", [Reads, Calls])
def test_what_the_code_of_a_declared_layer_reads_may_change(kind, monkeypatch):
    """A dictionary may change unseen, so the layer runs in Python; names of classes and functions are looked at."""
    layers = L.Conv2d(6, 3), kind(), L.Conv2d(4, 3), L.Flatten(), L.Dense(5)
    model = settle(Model(L.Sequential(*layers), (2, 12, 12)), 0).place(get_backend("numba", threads=2))
    x = images(model, 2)
    changes = [lambda: monkeypatch.setitem(globals(), "_helper", lambda x, slope: x.backend.elementwise("tanh", x))]
    if kind is Reads:
        changes.insert(0, lambda: monkeypatch.setitem(SETTINGS, "slope", -2.0))
    else:
        changes.insert(0, lambda: monkeypatch.setattr(Calls, "slope", -2.0))
    seen = [model.predict(x)]
    for change in changes:
        change()
        seen.append(model.predict(x))
        assert same(seen[-1], expected(model, x)) and not same(seen[-1], seen[-2])
    assert planned(model) == ([True, False, True] if kind is Reads else [True])


def test_a_layer_may_set_anothers_settings():
    class Turns(L.Layer):
        def __call__(self, x):
            self._other.activation = "tanh" if self._other.activation is None else None
            return x.like(x.data + np.float32(1)), None

    models = []
    for backend in (get_backend("numpy"), get_backend("numba", threads=2)):
        own, other = Turns(), L.Conv2d(4, 3)
        own._other = other
        model = Model(L.Sequential(L.Conv2d(6, 3), own, other, L.Flatten(), L.Dense(5)), (2, 12, 12))
        models.append(settle(model, 0).place(backend))
    x = images(models[0], 2)
    for _ in range(4):
        assert same(models[1].predict(x), models[0].predict(x))


def test_settings_that_another_thread_changes_meanwhile_are_in_no_plan():
    """While a layer waits, another thread changes a setting and predicts; the first then goes on."""
    waits, goes_on = threading.Event(), threading.Event()

    class Slow(L.Layer):
        def __call__(self, x):
            if not goes_on.is_set():
                waits.set()
                goes_on.wait(20)
            return x.like(x.data + np.float32(1)), None

    layers = L.Conv2d(6, 3), Slow(), L.Conv2d(4, 3, activation="relu"), L.Flatten(), L.Dense(5)
    model = settle(Model(L.Sequential(*layers), (2, 12, 12)), 0).place(get_backend("numba", threads=2))
    x = images(model, 2)
    first = threading.Thread(target=lambda: model.predict(x))
    first.start()
    assert waits.wait(20)
    model.layer.layers[2].activation = "tanh"
    # Another prediction would wait for the layer's turn: it only looks.
    model._plans._look_for_changes(model)
    goes_on.set()
    first.join()
    assert same(model.predict(x), expected(model, x))


def test_a_chain_with_other_children_is_called_as_it_is():
    class Aided(L.Sequential):
        def __init__(self, *layers):
            super().__init__(*layers)
            self.aid = L.Conv2d(6, 3, padding=1)

        def children(self):
            yield from super().children()
            yield "aid", self.aid

        def build(self, shape):
            shape = super().build(shape)
            self.aid.connect((6, 10, 10))
            return shape

    layers = Aided(L.Conv2d(6, 3), L.ReLU()), Own(), L.Conv2d(4, 3), L.Flatten(), L.Dense(5)
    model = settle(Model(L.Sequential(*layers), (2, 12, 12)), 0)
    x = images(model, 3)
    reference = expected(model, x)
    assert same(model.place(get_backend("numba", threads=2)).predict(x), reference)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_mapped_images_of_any_type(dtype, tmp_path):
    x = (images(small(Own()), 9) * 3 + 5).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    mapped = Mapped(np.load(tmp_path / "x.npy", mmap_mode="r"))
    for own in ([], [Own()]):
        model = small(*own)
        reference = expected(model, x.astype(np.float32))
        model.place(get_backend("numba", threads=2))
        for batch_size in (4, 9, 256):
            assert same(model.predict(mapped, batch_size), reference)


@pytest.mark.parametrize("count", [1, 5, 16, 21])
def test_lanes_without_an_image_hold_one(count):
    model = Model(L.Sequential(L.Dense(3, bias=False), Inverse(), L.Dense(2)), (4,)).initialize(0)
    model.place(get_backend("numba", threads=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(images(model, count))


def test_a_layer_sees_as_many_images_as_the_caller_asked_for():
    model = small(Own(), Centered()).place(get_backend("numba", threads=2))
    x = images(model, 300)
    reference = expected(model, x)
    assert same(model.predict(x), reference) and model.layer.layers[2].seen == 44
    assert same(model.predict(x, 300), expected_in_one(model, x)) and model.layer.layers[2].seen == 300


def expected_in_one(model: Model, x: np.ndarray) -> np.ndarray:
    return copy.deepcopy(model, {id(model.backend): None}).place(get_backend("numpy")).predict(x, len(x))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_what_a_loss_makes_of_outputs_depends_on_its_targets(backend):
    """Losses share one method, which asks what their targets are: the plan of the first was used for all."""
    model, x = lenet5((1, 16, 16), 3).initialize(0).place(get_backend(backend)), np.ones((2, 1, 16, 16), np.float32)
    raw = model.predict(x, finish=lambda outputs: outputs)
    for _ in range(2):
        assert same(model.predict(x, finish=SoftmaxCrossEntropy().predict), model.predict(x))
        assert same(model.predict(x, finish=MeanSquared().predict), raw)


def test_any_finish_follows_a_plan():
    calls = []

    def finish(outputs):
        calls.append(outputs.images)
        return outputs.like(outputs.data * np.float32(2 * len(calls)))

    for own in ([], [Own()]):
        model = small(*own).place(get_backend("numba", threads=2))
        x = images(model, 5)
        values = copy.deepcopy(model, {id(model.backend): None}).place(get_backend("numpy")).predict(x, finish=_once)
        calls.clear()
        assert same(model.predict(x, finish=finish), 2 * values)
        assert same(model.predict(x, finish=finish), 4 * values) and calls == [5, 5]


def _once(outputs):
    return outputs


def test_images_that_are_no_numbers_are_named_by_their_place_among_all():
    for layers in ([L.Conv2d(3, 3), Own()], [Own(), L.Conv2d(3, 3)]):
        model = Model(L.Sequential(*layers, L.Flatten(), L.Dense(2)), (1, 8, 8)).initialize(0)
        x = images(model.place(get_backend("numba", threads=2)), 10)
        x[7, 0, 3, 3] = np.nan
        with pytest.raises(DataError, match="image 7"):
            model.predict(x, batch_size=4)


def test_what_an_own_layer_raises_arrives_and_training_goes_on():
    class Fails(L.Layer):
        def __call__(self, x):
            assert not self.mode.training
            raise ValueError("not today")

    model = small(Fails()).place(get_backend("numba", threads=2))
    model.mode.training = True
    for _ in range(2):
        with pytest.raises(ValueError, match="not today"):
            model.predict(images(model, 2))
        assert model.mode.training


def test_images_are_prepared_before_the_first_layer():
    for layers in ([L.Conv2d(3, 3), Own()], [Own(), L.Conv2d(3, 3)]):
        model = settle(Model(L.Sequential(*layers, L.Flatten(), L.Dense(2)), (2, 8, 8)), 0)
        model.image_shape, model.mean, model.std = (2, 11, 10), (0.5, 0.25), (2.0, 3.0)
        x = images(model, 3)
        reference = expected(model, x)
        model.place(get_backend("numba", threads=2))
        assert same(model.predict(x), reference) and same(model.predict(x[:1]), reference[:1])


def test_threads_share_a_model():
    model = small(Own()).place(get_backend("numba", threads=2))
    x = images(model, 6)
    reference, wrong = expected(model, x), []

    def work(first):
        for k in range(200):
            count = 1 + (first + k) % 6
            if not same(model.predict(x[:count]), reference[:count]):
                wrong.append((first, k))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
