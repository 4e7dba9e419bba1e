"""Frozen layers, partial loading, new heads, discriminative rates; the oracle is a loop over the parameters by hand."""

import copy

import numpy as np
import pytest

import gpucnn
from gpucnn.arithmetic import fma
from gpucnn.backends import get_backend
from gpucnn.emulation import get_emulated_backend, why_not
from gpucnn.errors import CheckpointError, ConfigurationError
from gpucnn.layers import BatchNorm, Conv2d, Dense, Flatten, Layer, MaxPool2d, Parameter, Sequential, image_mask
from gpucnn.losses import softmax_cross_entropy
from gpucnn.models import Model, lenet5, load_matching, replace_head, resnet20
from gpucnn.optimizers import SGD, AdamW
from gpucnn.schedules import Constant
from gpucnn.training import Callback
from tests.training import small

X, Y = small.data()
# In small.model: "0" Conv2d, "1" BatchNorm, "5" Dense.


def state(model):
    return {name: value.tobytes() for name, value in model.state_dict().items()}


def trainer(model, backend="numpy", **settings):
    return small.trainer(model=model, backend=backend, schedule=Constant(), **settings)


def by_hand(model, steps, rate, factors):
    """Plain SGD with weight decay 0.01 of the parameters in `factors`, each in float32 as rule 9 says."""
    model.place(get_backend("numpy"))
    model.mode.training, model.mode.seed = True, 0
    f = np.float32
    for step in range(steps):
        model.mode.step[0] = step
        y, backward = model(X[:16])
        backward(softmax_cross_entropy(y, Y[:16])[1])
        for p in model.parameters:
            if p.name in factors:
                g = fma(f(0.01), p.value, p.grad)
                p.value[...] = fma(-f(rate * factors[p.name]), g, p.value)
    return state(model)


@pytest.mark.parametrize("backend", ["numpy", "numba", "emulated"])
def test_frozen_layers_and_factors_by_hand(backend):
    if backend == "emulated" and why_not():
        pytest.skip(why_not())
    device = get_emulated_backend() if backend == "emulated" else get_backend(backend)
    net = lambda: Model(Sequential(Conv2d(3, 3), BatchNorm(activation="relu"), Flatten(), Dense(3)), (1, 8, 8))  # noqa: E731
    ours = net().initialize(5)
    assert ours.freeze("1") == ["1"]
    steps = gpucnn.Trainer(
        ours,
        backend=device,
        optimizer=SGD(0.05, momentum=0.0, weight_decay=0.01),
        lr_factors={"0": 0.5, "*.bias": 2.0},
        progress=False,
    )
    for _ in range(3):
        steps.train_step(X[:16], Y[:16])
    expected = net().initialize(5)
    expected.layer.layers[1].trainable = False
    factors = {"0.weight": 0.5, "0.bias": 0.5, "3.weight": 1.0, "3.bias": 2.0}
    assert state(ours) == by_hand(expected, 3, 0.05, factors)


def test_batch_norm_keeps_its_statistics_and_uses_them():
    model = small.model().initialize(0)
    before = state(model)
    model.freeze("0", "1")
    trainer(model, optimizer=AdamW(0.01, weight_decay=0.5)).fit(X, Y, 2)
    after = state(model)
    assert {name for name in before if before[name] == after[name]} == {
        *("0.weight", "1.gamma", "1.beta", "1.running_mean", "1.running_var")
    }
    x = model.backend.pack(X[:16])
    model.mode.training = True
    trained, _ = model.layer.layers[1](model.layer.layers[0](x)[0])
    model.mode.training = False
    inferred, _ = model.layer.layers[1](model.layer.layers[0](x)[0])
    assert trained.numpy().tobytes() == inferred.numpy().tobytes()


@pytest.mark.parametrize("kind", ["conv", "transposed", "dense", "norm"])
def test_frozen_layers_cost_no_weight_gradient(kind, monkeypatch):
    layer = {
        "conv": gpucnn.layers.Conv2d(2, 3, activation="relu"),
        "transposed": gpucnn.layers.ConvTranspose2d(2, 3),
        "dense": Sequential(Flatten(), Dense(4)),
        "norm": BatchNorm(activation="relu"),
    }[kind]
    # The convolution before it learns, so that the frozen layer must pass the gradient on.
    model = Model(Sequential(Conv2d(2, 3), layer, Flatten(), Dense(3)), (1, 8, 8)).initialize(0)
    model.freeze("1")
    one = trainer(model)
    frozen = {id(p) for part in layer.walk() for _, p in part.parameters()}
    calls = []
    gradients = ("conv_weight_gradient", "bias_gradient", "dense_weight_gradient", "batch_norm_gradient")
    for name in gradients:
        original = getattr(type(one.backend), name)
        monkeypatch.setattr(
            type(one.backend), name, lambda *a, _n=name, _o=original, **k: (calls.append((_n, a[1:])), _o(*a, **k))[1]
        )
    one.train_step(X[:16], Y[:16])
    written = [a for _, arguments in calls for a in arguments if isinstance(a, np.ndarray)]
    outputs = {id(p) for p in model.parameters if any(a is p.grad for a in written)}
    assert outputs == {id(p) for p in model.parameters} - frozen


def test_nothing_is_computed_below_the_first_layer_that_learns():
    seen = []

    class Watch(Layer):
        def __call__(self, x):
            return x, lambda dy: (seen.append("backward"), dy)[1]

    model = Model(Sequential(Conv2d(2, 3), Watch(), Flatten(), Dense(3)), (1, 8, 8)).initialize(0)
    trainer(model).train_step(X[:16], Y[:16])
    assert seen == ["backward"]
    model.freeze("0")
    trainer(model).train_step(X[:16], Y[:16])
    assert seen == ["backward"]


def test_a_layer_of_ones_own_that_writes_its_gradient_stays_and_does_not_clip_others():
    class Scale(Layer):
        def build(self, shape):
            self.factor = Parameter((1,), 1.0)
            return shape

        def __call__(self, x):
            def backward(dy):
                self.factor.grad[...] = 1e6 + x.backend.xp.sum(dy.data * image_mask(x))
                return dy.like(dy.data * self.factor.value)

            return x.like(x.data * self.factor.value), backward

    # A layer that learns comes before it, or its backward would not be called.
    model = Model(Sequential(Flatten(), Dense(4), Scale(), Dense(3)), (1, 8, 8)).initialize(0)
    plain = Model(Sequential(Flatten(), Dense(4), Dense(3)), (1, 8, 8)).initialize(0)
    plain.load_state_dict({name.replace("3.", "2."): v for name, v in model.state_dict().items() if name[0] != "2"})
    model.freeze("2")
    for net in (model, plain):
        trainer(net, clip_norm=0.01).fit(X, Y, 1)
    assert state(model)["1.weight"] == state(plain)["1.weight"]
    assert state(model)["3.weight"] == state(plain)["2.weight"]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_layers_thaw_while_training(backend, capsys):
    class Thaw(Callback):
        def on_epoch_begin(self, trainer, epoch):
            if epoch == 2:
                trainer.model.unfreeze()

    model = small.model().initialize(0)
    model.freeze("0", "1")
    trainer(model, backend, callbacks=[Thaw()]).fit(X, Y, 3)
    twice = small.model().initialize(0)
    twice.freeze("0", "1")
    other = trainer(twice, "numpy")
    other.fit(X, Y, 1)
    twice.unfreeze()
    other.fit(X, Y, 2)
    assert state(model) == state(twice) and model.frozen == []
    assert "launched one by one" not in capsys.readouterr().err


def test_layers_that_freeze_and_thaw_again_and_again_are_told_of_in_the_users_words(capsys):
    """As where two parts of a network learn in turn."""
    taught = trainer(small.model(), "numba")
    for turn in range(6):
        (taught.model.unfreeze if turn % 2 else taught.model.freeze)("0")
        taught.train_step(X[:16], Y[:16])
    assert capsys.readouterr().err.startswith("gpucnn: which layers are frozen keeps changing while training runs")


def test_freezing_is_saved_loaded_and_resumed(tmp_path):
    def net():
        model = small.model().initialize(3)
        model.freeze("0", "1")
        return model

    whole = trainer(net(), run=tmp_path / "whole", lr_factors={"5": 0.5})
    whole.fit(X, Y, 3)
    trainer(net(), run=tmp_path / "cut", lr_factors={"5": 0.5}).fit(X, Y, 1)
    again = trainer(net(), "numba", run=tmp_path / "cut", lr_factors={"5": 0.5})
    again.fit(X, Y, 3, resume=True)
    assert state(again.model) == state(whole.model)
    for change in ({"lr_factors": {"5": 0.25}}, {}):
        with pytest.raises(CheckpointError, match="lr_factors"):
            trainer(net(), run=tmp_path / "cut", **change).fit(X, Y, 4, resume=True)
    thawed = net()
    thawed.unfreeze()
    with pytest.raises(CheckpointError, match="frozen"):
        trainer(thawed, run=tmp_path / "cut", lr_factors={"5": 0.5}).fit(X, Y, 4, resume=True)
    gpucnn.save(whole.model, tmp_path / "m.safetensors")
    assert gpucnn.load(tmp_path / "m.safetensors", model=small.model()).frozen == ["0", "1"]


def test_the_order_of_patterns_is_a_setting(tmp_path):
    """The first that matches counts, so that another order trains at other rates."""
    factors = {"0.*": 0.5, "*": 0.25}
    trainer(small.model(), run=tmp_path, lr_factors=factors).fit(X, Y, 1)
    other = dict(reversed(factors.items()))
    with pytest.raises(CheckpointError, match="with other settings: lr_factors was"):
        trainer(small.model(), run=tmp_path, lr_factors=other).fit(X, Y, 2, resume=True)
    assert len(trainer(small.model(), run=tmp_path, lr_factors=factors).fit(X, Y, 2, resume=True)) == 2


def test_what_is_no_setting_is_refused():
    model = lenet5()
    with pytest.raises(AttributeError, match=r"model\.freeze\('0'\)"):
        model.parameters[0].trainable = False
    one = trainer(small.model())
    for owner, name in (
        (model, "trainabel"),
        (model.layer.layers[0], "requires_grad"),
        (one.optimizer, "learning_rate"),
        (one, "lr"),
    ):
        with pytest.raises(AttributeError, match=name):
            setattr(owner, name, 1)
    for pattern in ("9", "2", "3.*"):
        with pytest.raises(ConfigurationError, match="there are 0"):
            small.model().freeze(pattern)
    with pytest.raises(ConfigurationError, match="matches no layer or parameter"):
        trainer(small.model(), lr_factors={"7": 1.0})
    model.trainable = False
    assert not model.trainable and len(model.frozen) == 5
    one.model.freeze()
    with pytest.raises(ConfigurationError, match="all layers are frozen"):
        one.fit(X, Y, 1)


def test_a_container_freezes_what_is_in_it():
    model = resnet20((3, 8, 8), 2)
    assert model.freeze("3") == ["3.body.0", "3.body.1", "3.body.2", "3.body.3"]
    assert not model.layer.layers[3].trainable and model.layer.layers[4].trainable
    model.layer.layers[3].body.layers[0].trainable = True
    assert model.frozen == ["3.body.1", "3.body.2", "3.body.3"] and model.layer.layers[3].trainable
    assert len(model.freeze("*.body.1")) == 9


def test_weights_that_match_are_loaded_and_the_others_are_named(tmp_path):
    source, target = small.model().initialize(1), small.model(width=3).initialize(2)
    source.mean, source.std = (0.5,), (0.25,)
    gpucnn.save(source, tmp_path / "m.safetensors")
    wider = Model(Sequential(Conv2d(3, 3, bias=False), BatchNorm(), Flatten(), Dense(4)), (1, 8, 8)).initialize(2)
    own = state(wider)
    report = load_matching(tmp_path / "m.safetensors", wider)
    assert report.loaded == ["0.weight", "1.gamma", "1.beta", "1.running_mean", "1.running_var"]
    assert report.missing == ["3.weight", "3.bias"] and report.unused == ["5.bias", "5.weight"]
    assert report.normalization and (wider.mean, wider.std) == ((0.5,), (0.25,))
    assert "only in the model: 3.weight, 3.bias" in str(report)
    after = state(wider)
    for name in own:
        assert after[name] == (state(source)[name] if name in report.loaded else own[name])
    report = load_matching(source, target, "5", "1.gamma")
    assert report.loaded == ["1.gamma", "5.weight", "5.bias"]
    assert load_matching(
        {"0.weight": np.zeros((9, 9), np.float32), "1.beta": np.ones(3, np.float32)}, target
    ).different == {"0.weight": ((9, 9), (3, 1, 3, 3))}
    with pytest.raises(CheckpointError, match="nothing in the source matches"):
        load_matching({"a": np.ones(3)}, target)


def test_what_is_not_loaded_draws_no_weights(tmp_path):
    """A trainer would take them for those of its own seed."""
    model, source = small.model(), small.model().initialize(1)
    for given, patterns, words in (
        ({"a": np.ones(3)}, (), "nothing in the source matches"),
        (source, ("7",), "'7' matches no layer or parameter"),
    ):
        with pytest.raises((CheckpointError, ConfigurationError), match=words):
            load_matching(given, model, *patterns)
        assert not model.initialized
    source.mean = (0.5,)
    with pytest.raises(ConfigurationError, match="a mean but no std"):
        load_matching(source, model)
    assert not model.initialized
    assert load_matching({"5.bias": np.arange(3)}, model).loaded == ["5.bias"]  # as load_state_dict takes them
    assert np.array_equal(model.state_dict()["5.bias"], [0, 1, 2])


@pytest.mark.pytorch
def test_tensors_that_track_gradients_are_loaded():
    torch = pytest.importorskip("torch")
    target = small.model().initialize(1)
    for load in (lambda state: load_matching(state, target), target.load_state_dict):
        value = torch.rand(target.parameters[0].shape, requires_grad=True)
        load(target.state_dict() | {"0.weight": value})
        assert np.array_equal(target.state_dict()["0.weight"], value.detach().numpy())


def test_a_new_head(tmp_path):
    old = lenet5((1, 16, 16), 4).initialize(1)
    old.freeze("0", "7")
    new = replace_head(old, 6, seed=3)
    fresh = lenet5((1, 16, 16), 6).initialize(3)
    for name, value in state(new).items():
        assert value == (state(fresh) if name.startswith("7.") else state(old))[name], name
    assert new.frozen == ["0"]
    again, fresh = state(replace_head(old, 4, seed=3)), lenet5((1, 16, 16), 4).initialize(3)
    assert again["7.weight"] == state(fresh)["7.weight"] != state(old)["7.weight"]  # of as many classes: new as well
    gpucnn.save(new, tmp_path / "n.safetensors")
    assert state(gpucnn.load(tmp_path / "n.safetensors")) == state(new)  # by its name
    values = replace_head(small.model().initialize(0), outputs=2)
    assert (values.head, values.output_shape) == ("regressor", (2,))
    deep = replace_head(old, head=Sequential(Dense(5, activation="relu"), Dense(2)))
    assert [p.name for p in deep.parameters][-4:] == ["7.0.weight", "7.0.bias", "7.1.weight", "7.1.bias"]
    with pytest.raises(ConfigurationError, match="MaxPool2d, not with Dense"):
        replace_head(Model(Sequential(MaxPool2d(2)), (1, 4, 4)), 2)
    twice = Dense(4)
    with pytest.raises(ConfigurationError, match="Dense, which has other places too; give head="):
        replace_head(Model(Sequential(twice, twice), (4,)), 2)
    with pytest.raises(ConfigurationError, match="is one layer"):
        replace_head(Model(Dense(2), (4,)), 3)


def test_a_head_that_has_other_places_stays_in_them():
    twice = Dense(4)
    old = Model(Sequential(twice, Sequential(twice)), (4,)).initialize(1)
    old.freeze("0")
    new = replace_head(old, head=Dense(2), seed=3)
    assert state(new)["0.weight"] == state(old)["0.weight"] and new.frozen == ["0"]
    assert new.output_shape == (2,) and list(state(new)) == ["0.weight", "0.bias", "1.0.weight", "1.0.bias"]


def test_a_model_of_ones_own_may_have_the_name_of_a_ready_made_one():
    for arguments in ({}, {"input_shape": [1, 4, 4], "hidden": [5], "classes": 3}):
        old = Model(Sequential(Flatten(), Dense(7), Dense(3)), (1, 4, 4), "mlp", arguments).initialize(1)
        new = replace_head(old, 5)
        assert new.output_shape == (5,) and state(new)["1.weight"] == state(old)["1.weight"] and new.name == "custom"


@pytest.mark.parametrize("backend", [None, "numpy", "numba", "emulated"])
def test_a_copy_of_a_model_is_independent(backend):
    if backend == "emulated" and why_not():
        pytest.skip(why_not())
    model = small.model().initialize(0)
    if backend:
        model.place(get_emulated_backend() if backend == "emulated" else get_backend(backend))
        model.predict(X[:4])
    model.freeze("0")
    copied = copy.deepcopy(model)
    assert state(copied) == state(model) and copied.frozen == ["0"] and copied.backend is model.backend
    assert [p.name for p in copied.parameters] == [p.name for p in model.parameters]
    before = state(model)
    device = model.backend or "numpy"
    answers = model.predict(X[:4])
    small.trainer(model=copied, backend=device).fit(X, Y, 1)
    assert state(model) == before != state(copied) and np.array_equal(model.predict(X[:4]), answers)
    other = small.model().initialize(0)
    other.freeze("0")
    small.trainer(model=other, backend="numpy").fit(X, Y, 1)
    assert state(copied) == state(other)
    with pytest.raises(ConfigurationError, match="part of a model already"):
        Model(copied.layer, (1, 8, 8))


def test_an_optimizer_of_ones_own_gets_its_pieces():
    class Plain(gpucnn.optimizers.Optimizer):
        states = ("sum",)

        def update(self, weights, gradients):
            self.state["sum"] = self.state["sum"] + gradients  # a new array, which must not get lost
            weights -= self.hyper[0] * self.state["sum"]

    model = small.model().initialize(0)
    model.freeze("1")
    before = state(model)
    one = trainer(model, optimizer=Plain(0.1))
    one.train_step(X[:16], Y[:16])
    moved = {name for name in before if state(model)[name] != before[name]}
    assert moved == {"0.weight", "5.weight", "5.bias"}
    sums = model.split(one.optimizer.state["sum"])
    assert sums["5.weight"].any() and not sums["1.gamma"].any()


def test_a_text_is_not_a_list_of_layers():
    model = gpucnn.models.lenet5()
    with pytest.raises(ConfigurationError, match=r"frozen is \'07\' of type str; give a list of layers\' names"):
        model.frozen = "07"
    model.frozen = ["0", "7"]
    assert model.frozen == ["0", "7"]
