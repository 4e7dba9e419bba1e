"""Whoever has an array of a model's weights may change them; while nobody has, plans do not look."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

from gpucnn import Trainer, get_backend
from gpucnn import layers as L
from gpucnn.backends.numba.backend import NumbaBackend
from gpucnn.backends.numba.inference import NativePlan
from gpucnn.backends.numba.later import later
from gpucnn.models import Model, at_size, weights
from gpucnn.models.weights import Weights
from gpucnn.training.recording import RecordedStep
from tests.inference.test_plans import expected, images, same, settle


def _layers() -> L.Sequential:
    """Packed weights, deviations of batch norm, and a dense layer that is packed only while nobody looks."""
    return L.Sequential(L.Conv2d(5, 3), L.BatchNorm(activation="relu"), L.Flatten(), L.Dense(40), L.Dense(3))


def _model(threads: int = 2) -> Model:
    return settle(Model(_layers(), (2, 8, 8)), 0).place(get_backend("numba", threads=threads))


def _double(array: np.ndarray) -> None:
    array *= np.float32(2)


def _double_flat(iterator) -> None:
    iterator[:] = np.array(iterator) * np.float32(2)


def _double_bytes(view: memoryview) -> None:
    _double(np.asarray(view))


# How somebody may take a hold of weights, and change them later.
HOLDS = {
    "a parameter": (lambda model: model.parameters[0].value, _double),
    "a statistic": (lambda model: model.running[1].value, _double),
    "all parameters": (lambda model: model.values, _double),
    "all statistics": (lambda model: model.statistics, _double),
    "a part": (lambda model: model.parameters[4].value[1:], _double),
    "a part of a part": (lambda model: model.values[16:][:64], _double),
    "other axes": (lambda model: model.parameters[-2].value.T[1:].T, _double),
    "another shape": (lambda model: model.parameters[0].value.reshape(-1), _double),
    "the parts by name": (lambda model: model.split(model.values), lambda views: _double(views["3.weight"])),
    "strides": (
        lambda model: np.lib.stride_tricks.as_strided(model.parameters[-1].value, (2,), (4,)),
        _double,
    ),
    "an iterator": (lambda model: model.parameters[0].value.flat, _double_flat),
    "a buffer": (lambda model: memoryview(model.parameters[0].value), _double_bytes),
    "what it refers to": (lambda model: model.parameters[4].value.base, _double_bytes),
    "a weak reference": (lambda model: weakref.ref(model.values), lambda reference: _double(reference())),
    "another model's parameter": (lambda model: at_size(model, (2, 8, 8)).parameters[4].value, _double),
    "a parameter, before another model": (
        lambda model: (model.parameters[4].value, at_size(model, (2, 8, 8)))[0],
        _double,
    ),
    "a subclass": (lambda model: model.parameters[-2].value.view(np.matrix), _double),
}


@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("count", [1, 5])
def test_a_change_through_whatever_somebody_holds_is_seen(hold, count):
    take, change = HOLDS[hold]
    model = _model()
    x = images(model, count)
    for _ in range(3):
        model.predict(x)
    held = take(model)
    assert model._weights.seal() is None
    before = model.predict(x)
    for _ in range(2):
        change(held)
        after = model.predict(x)
        assert not same(before, after) and same(after, expected(model, x))
        before = after
    del held
    assert model._weights.seal() is not None and same(model.predict(x), before)


def test_a_change_that_leaves_nothing_behind_is_seen():
    model = _model()
    x = images(model, 1)
    changes = [
        lambda: _double(model.parameters[4].value),
        lambda: _double(model.statistics),
        lambda: setattr(model.parameters[0], "value", np.full_like(model.parameters[0].value, 0.25)),
        lambda: model.load_state_dict({name: value * 2 for name, value in model.state_dict().items()}),
        lambda: model.initialize(7),
        lambda: _double(at_size(model, (2, 8, 8)).parameters[0].value),
    ]
    for change in changes:
        for _ in range(3):
            before = model.predict(x)
        change()
        after = model.predict(x)
        assert not same(before, after) and same(after, expected(model, x)) and same(after, model.predict(x))


def test_weights_are_looked_at_only_after_somebody_has_had_them(monkeypatch):
    run, again = NativePlan.run, []

    def spy(self, images, outputs, known):
        again.append(known)
        return run(self, images, outputs, known)

    monkeypatch.setattr(NativePlan, "run", spy)
    model = _model()
    x = images(model, 2)

    def runs(count: int) -> list[bool]:
        again.clear()
        for _ in range(count):
            model.predict(x)
        return list(again)

    assert runs(3) == [False, True, True]
    _double(model.values)
    assert runs(4) == [False, False, True, True]  # by the plan of weights that change, then by the other
    held = model.values
    assert runs(3) == [False] * 3
    del held
    assert runs(4) == [False, False, True, True]


@pytest.mark.parametrize("first", [True, False])
def test_who_takes_an_array_while_holders_are_counted_is_not_missed(monkeypatch, first):
    model, taken, count = _model(), [], Weights._is_held

    def counted(self):
        taken.extend([model.values] * first)
        held = count(self)
        taken.extend([model.values] * (not first))
        return held

    monkeypatch.setattr(Weights, "_is_held", counted)
    assert model._weights.seal() is None
    monkeypatch.undo()
    assert model._weights.seal() is None
    taken.clear()
    assert model._weights.seal() is not None


def _during_the_count(monkeypatch, work) -> list[bool]:
    """`work` is done once, when holders are counted next; True then."""
    count, during = Weights._is_held, []

    def counted(self):
        if not during:
            during.append(True)
            work()
        return count(self)

    monkeypatch.setattr(Weights, "_is_held", counted)
    return during


def test_a_seal_that_another_thread_counts_for_is_not_relied_on_before_it_has(monkeypatch):
    """A plan that has verified its copies under a seal which is refused then looks again."""
    model = _model()
    x = images(model, 1)
    model.predict(x)
    held = model.values
    during = _during_the_count(monkeypatch, lambda: model.predict(x))
    assert model._weights.seal() is None and during
    _double(held)
    assert same(model.predict(x), expected(model, x))


def test_a_seal_that_another_thread_counts_for_is_relied_on_by_nobody(monkeypatch):
    """Not even by plans that have seen it before, however long the count takes."""
    model = _model()
    x = images(model, 1)
    model.predict(x)
    held = model.values

    def work() -> None:
        for _ in range(3):
            model.predict(x)
        _double(held)
        assert same(model.predict(x), expected(model, x))

    during = _during_the_count(monkeypatch, work)
    assert model._weights.seal() is None and during


def test_a_seal_whose_count_was_interrupted_is_relied_on_by_nobody(monkeypatch):
    model = _model()
    x = images(model, 1)
    model.predict(x)
    held = model.values

    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Weights, "_is_held", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.predict(x)
    for _ in range(3):
        model.predict(x)
    _double(held)
    assert same(model.predict(x), expected(model, x))


def test_what_was_held_may_be_another_thread_s_to_forget(monkeypatch):
    model = _model()
    held, known = model.values, [None, model._weights._all[False]]

    def forgets(self):
        return known.pop() if known else None

    monkeypatch.setattr(Weights, "_held", property(forgets, lambda self, place: None), raising=False)
    assert model._weights.seal() is None and held is model.values


def test_models_of_several_sizes_have_one_seal():
    model = _model()
    other = at_size(model, (2, 8, 8))
    x = images(model, 1)
    assert model._weights.seal() is not None and other._weights.seal() is model._weights.seal()
    held = other.parameters[0].value
    assert model._weights.seal() is None
    model.predict(x)
    _double(held)
    assert same(model.predict(x), other.predict(x))
    del held, other
    assert model._weights.seal() is not None


def test_nothing_is_relied_on_where_holders_cannot_be_counted(monkeypatch):
    monkeypatch.setattr(weights, "_COUNTS", False)
    model = _model()
    assert model._weights.seal() is None
    x = images(model, 1)
    model.predict(x)
    _double(model.values)
    assert same(model.predict(x), expected(model, x))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_recorded_step_has_the_weights_only_while_it_runs(monkeypatch, threads):
    model, capture, seals = _model(threads), NumbaBackend.capture, []

    def spied(self, step):
        replay = capture(self, step)

        def run() -> None:
            seals.append(model._weights.seal())
            replay()

        return run

    monkeypatch.setattr(NumbaBackend, "capture", spied)
    x = images(model, 8)
    trainer = Trainer(model, backend=model.backend, batch_size=4, progress=False)
    trainer.fit(x, np.arange(8) % 3, 2)
    later.wait()  # faster kernels that arrive make a step a new one
    for epochs in (6, 8):
        trainer.fit(x, np.arange(8) % 3, epochs)
        assert len(seals) >= 4 and set(seals) == {None}
        for _ in range(3):
            assert same(model.predict(x[:1]), expected(model, x[:1]))
        gc.collect()  # frames that compiled a kernel
        assert model._weights.seal() is not None
    trainer.train_step(x[:4], np.arange(4) % 3)
    assert model._weights.seal() is not None and same(model.predict(x[:1]), expected(model, x[:1]))


def test_a_layer_of_ones_own_that_keeps_its_weights_is_counted():
    class Scale(L.Layer):
        recordable = True

        def build(self, shape):
            self.factor = L.Parameter((1,), 1.0)
            return shape

        def __call__(self, x):
            self._kept = self.factor.value
            return x.like(x.data * self._kept), lambda dy: dy.like(dy.data * self._kept)

    model = Model(L.Sequential(L.Conv2d(3, 3), Scale(), L.Flatten(), L.Dense(3)), (2, 8, 8)).initialize(0)
    x = images(model, 8)
    trainer = Trainer(model, backend="numba", batch_size=4, progress=False)
    trainer.fit(x, np.arange(8) % 3, 3)
    assert model._weights.seal() is None
    before = model.predict(x[:1])
    _double(model.layer.layers[1]._kept)
    assert not same(model.predict(x[:1]), before)


def test_threads_that_change_weights_and_predict_in_turn():
    model, turn = _model(), threading.Semaphore(0)
    x, told = images(model, 1), threading.Semaphore(0)

    def change() -> None:
        for _ in range(20):
            turn.acquire()
            model.parameters[4].value[...] *= np.float32(0.9)
            told.release()

    thread = threading.Thread(target=change, daemon=True)
    thread.start()
    before = model.predict(x)
    for _ in range(20):
        turn.release()
        told.acquire()
        for _ in range(3):
            after = model.predict(x)
        assert not same(before, after)
        before = after
    thread.join()
    assert same(before, expected(model, x))


def test_copies_have_weights_of_their_own():
    model = _model()
    x = images(model, 1)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(copy.deepcopy(model)))):
        held = other.values
        assert other._weights.seal() is None and model._weights.seal() is not None
        before = model.predict(x)
        _double(held)
        assert same(model.predict(x), before) and not same(other.predict(x), before)


def test_what_a_model_was_built_with_cannot_be_assigned():
    from gpucnn.errors import ConfigurationError

    model = _model()
    for name in ("values", "grads", "statistics"):
        with pytest.raises(ConfigurationError, match=rf"copy into them: model.{name}\[...\] = array"):
            setattr(model, name, np.zeros(3, np.float32))
    for name in ("input_shape", "output_shape", "structure", "layer"):
        with pytest.raises(ConfigurationError, match=f"{name} of a Model cannot be changed; make another Model"):
            setattr(model, name, getattr(model, name))
    before = model.values.copy()
    model.values *= 2
    assert same(model.values, before * 2)


def test_the_proof_of_a_recorded_step_leaves_plans_alone(monkeypatch):
    """Another thread may predict with them meanwhile."""
    model, state, places = _model(), RecordedStep._state, []

    def watched(self):
        for place, array in state(self):
            places.append(place)
            yield place, array

    monkeypatch.setattr(RecordedStep, "_state", watched)
    x = images(model, 8)
    model.predict(x)
    Trainer(model, backend=model.backend, batch_size=4, progress=False).fit(x, np.arange(8) % 3, 2)
    assert any("_flats[0]" in place for place in places)
    assert not any("_plans" in place or "_arrays" in place for place in places)
