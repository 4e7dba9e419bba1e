"""What a user writes trains to the same weights on every backend, recorded or not."""

import functools
import os
import pickle
import sys

import numpy as np
import pytest

import gpucnn.layers
import gpucnn.losses
import gpucnn.optimizers
from gpucnn.backends import get_backend
from gpucnn.emulation import get_emulated_backend, why_not
from gpucnn.errors import GpucnnError
from gpucnn.layers import Conv2d, Dense, Flatten, Layer, MaxPool2d, Parameter, ReLU, Residual, Sequential
from gpucnn.losses import Loss
from gpucnn.models import Model
from gpucnn.optimizers import SGD, Adam, AdamW, Optimizer
from gpucnn.recordable import is_recordable
from gpucnn.schedules import Constant
from gpucnn.training import Callback, Trainer
from gpucnn.training.clipping import Clipping
from tests.processes import finish, start
from tests.training import own_code, small
from tests.training.own_code import BESIDE, KINDS, train


@functools.cache
def expected(kind: str) -> str:
    return train(kind, get_backend("numpy", "exact"))[0]


@functools.cache
def emulated(graph: bool):
    backend = get_emulated_backend()
    backend.graph = graph
    return backend


BACKENDS = {"numba": lambda graph: get_backend("numba", graph=graph), "cupy (emulated)": emulated}


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param != "numba" and why_not():
        pytest.skip(f"emulation: {why_not()}")
    return BACKENDS[request.param]


@pytest.mark.parametrize("kind", [*KINDS, *BESIDE])
def test_own_code_trains_to_the_same_weights(kind, backend, capsys):
    recording, _ = train(kind, backend(True))
    launching, _ = train(kind, backend(False))
    assert recording == launching == expected(kind)
    said = capsys.readouterr().err
    if kind == "an optimiser that counts":
        assert said.startswith(
            "gpucnn: Counting.steps keeps changing while training runs, so steps are launched one by one"
        )
    else:
        assert "launched one by one" not in said, "it was recorded, and only the proof noticed"


@pytest.mark.parametrize("kind", KINDS)
def test_a_false_claim_ends_recording_with_a_sentence(kind, backend, capsys):
    found, _ = train(kind, backend(True), claims=True)
    assert found == expected(kind)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "steps are launched one by one from now on; the weights are right" in lines[0]


class EveryStep(Callback):
    """A search for a learning rate."""

    def on_train_batch_begin(self, trainer, step):
        trainer.optimizer.lr = 0.001 * 1.5**step


class Direct(SGD):
    """Reads in a step what a built-in optimizer reads before it."""

    recordable = True

    def update(self, weights, gradients):
        settings = {"momentum": 0.9, "weight_decay": self.lr, "nesterov": False}
        self.backend.sgd(weights, gradients, self.state["velocity"], self.hyper, **settings)


@pytest.mark.parametrize("make", [SGD, Adam, AdamW, Direct])
def test_a_rate_that_changes_in_each_step_is_recorded_where_no_step_reads_it(make, backend, capsys):
    def train(backend):
        trainer = small.trainer(
            backend=backend, optimizer=make(lr=1.0), callbacks=[EveryStep()], lr_factors={"5": 0.5}, schedule=Constant()
        )
        rates = trainer.fit(*small.data(), 3)["learning_rate"]
        assert rates == [float(np.float32(0.001 * 1.5**step)) for step in (3, 6, 9)]
        return trainer.model.weights_sha256()

    assert train(backend(True)) == train("numpy")
    assert ("lr keeps changing" in capsys.readouterr().err) == (make is Direct)


@pytest.mark.slow
def test_own_code_in_the_simulator():
    """numba-cuda, which records nothing, in a process of its own."""
    folder = os.path.dirname(own_code.__file__)
    code = f"import json, sys; sys.path.append({folder!r}); import own_code; print(json.dumps(own_code.simulated()))"
    found = finish(start(code, NUMBA_ENABLE_CUDASIM="1"), timeout=900)
    assert found == train(own_code.TOGETHER, get_backend("numpy", "exact"), epochs=1)[0]


def _all(module, base):
    kinds = (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, base))
    return {kind for kind in kinds if kind is not base}


def test_everything_that_comes_with_the_package_is_recordable():
    inside = {base for kind in _all(gpucnn.layers, gpucnn.layers.Layer) for base in kind.__mro__}
    kinds = _all(gpucnn.layers, gpucnn.layers.Layer) | _all(gpucnn.losses, gpucnn.losses.Loss)
    kinds |= _all(gpucnn.optimizers, gpucnn.optimizers.Optimizer)
    bases = {kind for kind in kinds if kind is not ReLU and kind in inside and "__call__" not in dir(kind)}
    for kind in kinds - bases - {gpucnn.layers.GlobalPool}:
        assert is_recordable(object.__new__(kind)), kind


@pytest.mark.parametrize("name", ["__annotate__", "__annotate_func__", "__replace__"])
def test_what_python_writes_into_a_class_changes_nothing(name):
    """Into one with annotations from 3.14 on, into a dataclass from 3.13 on."""
    parent = type("Parent", (SGD,), {name: lambda self: {}, "recordable": True})
    assert is_recordable(type("Own", (parent,), {name: lambda self: {}})())


@pytest.mark.skipif(sys.version_info < (3, 14), reason="before Python 3.14 annotations are evaluated at once")
def test_annotations_for_type_checkers_alone():
    """Names imported under `if TYPE_CHECKING:`."""
    names: dict = {"gpucnn": gpucnn}
    exec(
        """
class Scale(gpucnn.layers.Layer):
    by: Number
    def __init__(self, by: Number = 2.0):
        super().__init__()
        self.by = by
    def __call__(self, x: Batch) -> Pair:
        return x.like(x.data * x.data.dtype.type(self.by)), lambda dy: dy.like(dy.data * dy.data.dtype.type(self.by))

class Own(gpucnn.losses.Huber):
    delta: Number
    def __init__(self, delta: Number = 0.5):
        super().__init__(delta)

class Step(gpucnn.optimizers.SGD):
    def __init__(self, lr: Rate = 0.1):
        super().__init__(lr)

class Seen(gpucnn.training.Callback):
    def on_epoch_end(self, trainer: Trainer, record: Record) -> Nothing:
        self.seen = record["epoch"]
""",
        names,
    )
    model = Model(Sequential(names["Scale"](3.0), Flatten(), Dense(2)), (1, 4, 4), head="regressor")
    assert "Scale(by=3.0)" in repr(model)
    seen = names["Seen"]()
    trainer = Trainer(model, loss=names["Own"](), optimizer=names["Step"](), callbacks=[seen], progress=False)
    trainer.fit(np.ones((4, 1, 4, 4), np.float32), np.ones((4, 2), np.float32), 1)
    assert seen.seen == 1 and is_recordable(trainer.loss)


def test_an_extra_method_or_a_setting_changes_nothing():
    class Named(Conv2d):
        axes = 2

        def __init__(self):
            super().__init__(3, 3, padding=1)

        def title(self):
            return "mine"

    assert is_recordable(Named()) and not is_recordable(own_code.Doubled())


def test_a_method_replaced_in_one_object_or_by_a_mixin_is_seen():
    layer = Conv2d(3, 3)
    layer.with_max_pool = lambda x, pool: None
    assert not is_recordable(layer)

    class Loud:
        def __call__(self, x):
            return super().__call__(x)

    assert not is_recordable(type("Both", (Loud, ReLU), {})())
    assert is_recordable(type("Both", (Loud, ReLU), {"recordable": True})())


def test_a_class_that_watches_its_attributes_declares_itself():
    watching = type("Watching", (ReLU,), {"__getattribute__": object.__getattribute__})
    assert not is_recordable(watching())


def test_a_layer_kept_within_a_layer_is_asked():
    model = Sequential(Residual(Sequential(own_code.Doubled(), ReLU())), MaxPool2d(2), Dense(2))
    assert [type(part).__name__ for part in model.walk() if not is_recordable(part)] == ["Doubled"]


class Drifting(own_code.Layer):
    """Recordable for what it is: it keeps an array of its own on the device, changed by backend operations alone."""

    recordable = True

    def __call__(self, x):
        backend = x.backend
        backend.update_running(self.drift, self.target, 0.25)
        return backend.add_bias(x, self.drift), lambda dy: dy


def _drifting(backend) -> str:
    rng = np.random.default_rng(5)
    images, labels = rng.random((24, 1, 5, 5)).astype(np.float32), rng.integers(0, 3, 24)
    drifting = Drifting()
    drifting.drift, drifting.target = backend.zeros((1,)), backend.array(np.ones(1, np.float32))
    model = Model(Sequential(drifting, Conv2d(3, 3), Flatten(), Dense(3)), (1, 5, 5))
    trainer = Trainer(model, backend=backend, seed=1, batch_size=8, progress=False, optimizer=SGD(0.05))
    trainer.fit(images, labels, 3)
    return model.weights_sha256()


def test_state_of_ones_own_is_recorded_for_what_it_is(backend, capsys):
    assert _drifting(backend(True)) == _drifting(backend(False)) == _drifting(get_backend("numpy"))
    assert capsys.readouterr().err == ""


def test_an_array_made_anew_by_each_step_ends_recording(capsys):
    class Keeping(Dense):
        recordable = True

        def __call__(self, x):
            y, backward = super().__call__(x)
            self.last = y.data
            return y, backward

    found = []
    for graph in (True, False):
        model = Model(Sequential(Flatten(), Keeping(3)), (1, 5, 5))
        rng = np.random.default_rng(5)
        images, labels = rng.random((24, 1, 5, 5)).astype(np.float32), rng.integers(0, 3, 24)
        trainer = Trainer(model, backend=get_backend("numba", graph=graph), batch_size=8, progress=False)
        trainer.fit(images, labels, 2)
        found.append(model.weights_sha256())
    assert found[0] == found[1]
    assert "Keeping.last" in capsys.readouterr().err


def test_clipping_and_a_model_of_ones_own_are_asked(capsys):
    class Looking(Model):
        def __call__(self, x):
            y, backward = super().__call__(x)
            return y.like(y.data + np.float32(0.5)), backward

    class Flooring(Clipping):
        def __call__(self, backend, gradients):
            gradients[...] = np.where(np.abs(gradients) < np.float32(1e-4), np.float32(0), gradients)

    def hash_of(graph, kind, clip):
        model = kind(Sequential(Flatten(), Dense(3)), (1, 5, 5))
        rng = np.random.default_rng(5)
        images, labels = rng.random((24, 1, 5, 5)).astype(np.float32), rng.integers(0, 3, 24)
        trainer = Trainer(model, backend=get_backend("numba", graph=graph), batch_size=8, progress=False)
        trainer.clip = clip
        trainer.fit(images, labels, 2)
        return model.weights_sha256()

    for kind, clip in ((Looking, Clipping()), (Model, Flooring())):
        assert hash_of(True, kind, clip) == hash_of(False, kind, clip)
        assert capsys.readouterr().err == "", "it was recorded, and only the proof noticed"


SLOPE = 0.25


class _Sloped(Layer):
    recordable = True

    def __call__(self, x):
        return x.backend.elementwise("leaky_relu", x, SLOPE), lambda dy: _gradient(dy, x, SLOPE)


def _gradient(dy, x, slope):
    return dy.backend.elementwise_gradient("leaky_relu", dy, x, slope)


def test_joblib_sends_layers_whose_class_is_in_a_script_or_notebook():
    """By value, with cloudpickle, as it does a class within a function."""

    class Shifted(_Sloped):
        def __call__(self, x):
            y, backward = super().__call__(x)
            return y.like(y.data + np.float32(1)), backward

    def hash_of(trainer):
        trainer.fit(np.random.default_rng(5).random((8, 4)).astype(np.float32), np.arange(8) % 3, 2)
        return trainer.model.weights_sha256()

    trainer = Trainer(Model(Sequential(Dense(5), Shifted(), Dense(3)), (4,)), backend="numba", progress=False)
    sent = pickle.loads(pytest.importorskip("cloudpickle").dumps(trainer))
    assert hash_of(sent) == hash_of(trainer)


def test_a_layer_may_keep_a_read_only_array(capsys):
    """The proof of a recording does not write to it."""

    def hash_of(backend):
        layer = _Sloped()
        layer.table = np.broadcast_to(np.float32(1), 3)
        trainer = Trainer(
            Model(Sequential(Dense(5), layer, Dense(3)), (4,)), backend=backend, progress=False, batch_size=4
        )
        trainer.fit(np.random.default_rng(5).random((8, 4)).astype(np.float32), np.arange(8) % 3, 2)
        return trainer.model.weights_sha256()

    assert hash_of("numba") == hash_of("numpy")
    assert capsys.readouterr().err == ""


def test_steps_see_code_that_changes_between_them(monkeypatch, capsys):
    """As a notebook changes it: a number that it reads, or the code itself, in the function that the class has."""

    def hash_of(backend):
        monkeypatch.setitem(globals(), "SLOPE", 0.25)
        model = Model(Sequential(Dense(5), _Sloped(), Dense(3)), (4,))
        trainer = Trainer(model, backend=backend, progress=False)
        images, labels = np.random.default_rng(5).random((8, 4)).astype(np.float32), np.arange(8) % 3
        hashes = []
        with monkeypatch.context() as during:
            for change in range(3):
                for _ in range(4):
                    trainer.train_step(images, labels)
                hashes.append(model.weights_sha256())
                if change == 0:
                    during.setitem(globals(), "SLOPE", -3.0)
                elif change == 1:
                    code = (lambda self, x: (x, lambda dy: dy)).__code__
                    during.setattr(_Sloped.__call__.__wrapped__, "__code__", code)
        return hashes

    assert hash_of("numba") == hash_of("numpy")
    assert capsys.readouterr().err == "", "recorded again, and the proof had nothing to say"


class _Odd(Layer):
    """Returns what `answer` makes of the batch."""

    def __init__(self, answer, build=None):
        self._answer, self._build = answer, build or (lambda layer, shape: shape)

    def build(self, shape):
        return self._build(self, shape)

    def __call__(self, x):
        return self._answer(x)


class _OddLoss(Loss):
    def __init__(self, answer):
        self._answer = answer

    def __call__(self, outputs, targets, totals=None):
        return self._answer(outputs)


def _twice(batch):
    """The batch in twice as many blocks as its images take."""
    return batch.like(np.concatenate([batch.data, batch.data]))


def _hide(layer, shape):
    layer.scales = [Parameter((1,), 1.0)]
    return shape


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (
            lambda: _Odd(None, lambda layer, shape: None),
            "layer 1 ._Odd.: what build returned is None; give a tuple of sizes",
        ),
        (lambda: _Odd(None, _hide), "layer 1 ._Odd.: scales.0 is a Parameter in a list, .* setattr.self, 'scales0'"),
        (lambda: _Odd(lambda x: x), r"layer 1 \(_Odd\) returned a Batch; return \(y, backward\)"),
        (lambda: _Odd(lambda x: None), r"layer 1 \(_Odd\) returned nothing; return \(y, backward\)"),
        (lambda: _Odd(lambda x: (x.data, lambda dy: dy)), r"layer 1 \(_Odd\) returned an ndarray; return a batch"),
        (
            lambda: _Odd(lambda x: (x, lambda dy: dy.data)),
            r"_Odd\) returned an ndarray from its backward pass; return a",
        ),
        (lambda: _Odd(lambda x: (x.like(x.data * np.float64(2)), abs)), r"_Odd\) returned float64; compute in float32"),
        (lambda: _Odd(lambda x: (x, lambda dy: None)), r"_Odd\) returned nothing from its backward pass; return a"),
        # Kernels would read and write beside such arrays.
        (
            lambda: _Odd(lambda x: (x.like(x.data[:, :2]), abs)),
            r"_Odd\) returned a batch of shape \(8, 2\); give \(8, 3\)",
        ),
        (lambda: _Odd(lambda x: (_twice(x), abs)), r"_Odd\) returned data of shape .*; give \(., 3, .*\)"),
        (
            lambda: _Odd(lambda x: (x, lambda dy: dy.like(dy.data[:, :2]))),
            r"_Odd\) returned a batch of shape \(8, 2\) from its backward pass; give \(8, 3\)",
        ),
        (
            lambda: _Odd(lambda x: (x, _twice)),
            r"_Odd\) returned data of shape .* from its backward pass; give \(., 3, .*\)",
        ),
    ],
)
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_what_a_layer_of_ones_own_gets_wrong_is_one_sentence(layer, words, backend):
    images = np.random.default_rng(5).random((8, 4)).astype(np.float32)

    def train():
        model = Model(Sequential(Dense(3), layer(), Dense(3)), (4,))
        Trainer(model, backend=backend, progress=False).fit(images, np.arange(8) % 3, 1)

    with pytest.raises(GpucnnError, match=words):
        train()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            lambda outputs: (np.float32(0), outputs),
            r"_OddLoss returned .*; return \(loss, gradient\), an array",
        ),
        (lambda outputs: None, r"_OddLoss returned nothing; return \(loss, gradient\)"),
        (lambda outputs: outputs, r"_OddLoss returned a Batch; return \(loss, gradient\)"),
        (lambda outputs: (np.zeros(1, np.float32), outputs.data), "_OddLoss returned an ndarray as gradient; return a"),
        (lambda outputs: (np.zeros(1), outputs.like(outputs.data * np.float64(1))), "float64 as gradient; compute in"),
        (lambda outputs: (np.zeros(1), outputs.reshape(3, 1)), r"batch of shape \(8, 3, 1\) as gradient; give"),
        (lambda outputs: (np.zeros(1), _twice(outputs)), r"returned data of shape .* as gradient; give \(., 3, .*\)"),
    ],
)
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_what_a_loss_of_ones_own_gets_wrong_is_one_sentence(answer, words, backend):
    images = np.random.default_rng(5).random((8, 4)).astype(np.float32)
    model = Model(Dense(3), (4,), head="regressor")
    with pytest.raises(GpucnnError, match=words):
        Trainer(model, backend=backend, loss=_OddLoss(answer), progress=False).fit(images, images[:, :3].copy(), 1)


class _Pair(Layer):
    """A layer for another layer of one's own: two inputs, and a gradient for each."""

    def __call__(self, a, b):
        return a.backend.add(a, b), lambda dy: (dy, dy)


class _Doubled(Layer):
    """It holds its parameter twice, and says its name where it is built."""

    def __init__(self):
        self.pair = _Pair()

    def build(self, shape):
        self.told = f"{self.name}, {self.input_gradient}"
        self.w = Parameter(shape)
        self.all = [self.w]
        self.pair.connect(shape)
        return shape

    def __call__(self, x):
        y, backward = self.pair(x, b=x)

        def both(dy):
            a, b = backward(dy)
            return a.backend.add(a, b)

        return [y, both]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_what_layers_of_ones_own_give_to_each_other_is_their_own(backend):
    """And a layer may read its name as it is built, and keep its parameters in a list too."""
    model = Model(Sequential(Dense(3), _Doubled(), Dense(3)), (4,))
    Trainer(model, backend=backend, progress=False).fit(np.ones((8, 4), np.float32), np.arange(8) % 3, 1)
    assert model.layer.layers[1].told == "1, True"


class _TwoLosses(gpucnn.losses.MeanSquared):
    def __init__(self):
        self.first = gpucnn.losses.Huber()


class _Arrays(Optimizer):
    """A setting that becomes an array in the first step."""

    def __init__(self, lr=0.1):
        super().__init__(lr)
        self.mean = None

    def update(self, weights, gradients):
        self.mean = 0 * gradients
        weights -= self.hyper[0] * gradients


def test_a_setting_that_no_checkpoint_can_hold_is_named(tmp_path):
    model = Model(Sequential(Flatten(), Dense(3)), (1, 8, 8), head="regressor")
    values = np.eye(3, dtype=np.float32)[small.data()[1]]
    with pytest.raises(
        GpucnnError, match=r"_TwoLosses.first is a Huber, which no checkpoint can hold: .* begins with _"
    ):
        Trainer(model, loss=_TwoLosses(), progress=False).fit(small.data()[0], values, 1)
    it = small.trainer(tmp_path / "run", optimizer=_Arrays(), schedule=Constant())
    it.fit(*small.data(), 2)  # each epoch is kept
    with pytest.raises(GpucnnError, match="_Arrays.mean is an ndarray, which no checkpoint can hold"):
        it.fit(*small.data(), 1)
