"""What layers do besides arithmetic: shapes, errors, modes, containers, and user-defined layers."""

import copy

import numpy as np
import pytest

from gpucnn import check_gradients
from gpucnn.backends import Batch, backends, get_backend
from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.layers import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    LayerNorm,
    LeakyReLU,
    MaxPool2d,
    Parameter,
    ReLU,
    Residual,
    Sequential,
    image_mask,
)
from gpucnn.models import Model
from gpucnn.recordable import is_recordable

FAST = get_backend("numpy", "fast")


def made(layer, shape):
    return Model(layer, shape).initialize(0).place(FAST)


@pytest.mark.parametrize(
    ("layer", "shape", "output", "parameters"),
    [
        (Conv2d(10, 5), (3, 32, 32), (10, 28, 28), 760),  # FEATURES: 76 each
        (Conv2d(6, 5, padding=2), (1, 28, 28), (6, 28, 28), 156),
        (Conv2d(32, 1, bias=False), (64, 56, 56), (32, 56, 56), 2048),
        (Conv2d(4, 3, groups=2, stride=2), (2, 9, 9), (4, 4, 4), 40),
        (MaxPool2d(2), (3, 7, 6), (3, 3, 3), 0),
        (AvgPool2d(3, stride=2, padding=1), (3, 7, 6), (3, 4, 3), 0),
        (GlobalAvgPool2d(), (5, 7, 6), (5,), 0),
        (Flatten(), (5, 7, 6), (210,), 0),
        (Dense(7), (4,), (7,), 35),
        (BatchNorm(), (4, 3, 3), (4, 3, 3), 8),
        (Residual(Conv2d(2, 3, padding="same")), (2, 5, 5), (2, 5, 5), 38),
    ],
)
def test_shapes_and_parameter_counts(layer, shape, output, parameters):
    model = made(layer, shape)
    assert model.output_shape == output
    assert model.parameter_count == parameters
    assert model(np.ones((3, *shape), np.float32))[0].shape == (3, *output)


@pytest.mark.parametrize(
    ("layers", "shape", "words"),
    [
        ([Conv2d(2, 5), MaxPool2d(2), Conv2d(2, 5)], (1, 8, 8), ["layer 2 (Conv2d)", "padding"]),
        ([Conv2d(4, 3, groups=3)], (3, 8, 8), ["layer 0 (Conv2d)", "3 groups"]),
        ([Flatten(), Conv2d(4, 3)], (3, 8, 8), ["layer 1 (Conv2d)", "(C, H, W)", "(192,)"]),
        ([Conv2d(4, 3), Dense(3)], (3, 8, 8), ["layer 1 (Dense)", "Flatten()"]),
        ([ReLU(), Residual(Sequential(Conv2d(4, 9)))], (3, 8, 8), ["layer 1.body.0 (Conv2d)"]),
        ([Residual(Conv2d(3, 3))], (3, 8, 8), ["layer 0 (Residual)", "(3, 6, 6)", "(3, 8, 8)"]),
        ([MaxPool2d(3, padding=2)], (3, 8, 8), ["layer 0 (MaxPool2d)"]),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(layers, shape, words):
    with pytest.raises(ShapeError) as caught:
        Model(Sequential(*layers), shape)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert str(caught.value).count("layer ") == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Conv2d(0, 3),
        lambda: Conv2d(2.5, 3),
        lambda: Conv2d(2, 3, groups=0),
        lambda: Conv2d(2, 3, activation="swish"),
        lambda: Conv2d(2, 3, initializer="best"),
        lambda: Dense(True),
        lambda: Dropout(1.0),
        lambda: Dropout(-0.1),
        lambda: BatchNorm(eps=0),
        lambda: BatchNorm(momentum=2),
        lambda: Sequential("relu"),
        lambda: Residual(3),
    ],
)
def test_wrong_settings_are_refused(make):
    with pytest.raises(ConfigurationError):
        make()


class Doubling(Layer):
    """Reads `times` when it is built, in a method; `count` is state, `slope` is read in each call."""

    def __init__(self):
        self.times, self.slope = 2, 1.0

    def build(self, shape):
        self.count = 0
        return self._repeated(shape)

    def _repeated(self, shape):
        return (shape[0] * self.times, *shape[1:])


@pytest.mark.parametrize(
    ("layer", "changes"),
    [
        (Conv2d(2, 3), {"stride": 2, "padding": 1, "groups": 2, "use_bias": False, "initializer": "he"}),
        (Dense(2), {"units": 7}),
        (MaxPool2d(2), {"stride": 1, "ceil_mode": True}),
        (LayerNorm(), {"affine": False}),
        (Sequential(Conv2d(2, 3)), {"layers": ()}),
        (Doubling(), {"times": 3}),
    ],
)
def test_settings_that_build_has_used_cannot_be_changed(layer, changes):
    model = Model(layer, (3,) if isinstance(layer, Dense) else (3, 8, 8))
    for name, value in changes.items():
        words = f"{type(layer).__name__} was built with {name}=.*, and what was built would not change"
        with pytest.raises(ConfigurationError, match=words):
            setattr(layer, name, value)
        free = copy.deepcopy(layer)
        setattr(free, name, value)
        assert getattr(free, name) == value and model.structure.startswith(repr(layer))


@pytest.mark.parametrize(
    ("layer", "name", "value", "words"),
    [
        (Dropout(0.5), "rate", 2.0, "rate is 2.0; give a number from 0 up to, not including, 1"),
        (LeakyReLU(), "negative_slope", "a", "negative_slope is 'a' of type str; give a finite number"),
        (BatchNorm(), "momentum", 5, "momentum is 5; give a number from 0 to 1"),
        (LayerNorm(), "eps", 0, "eps is 0; give a number above 0"),
        (Conv2d(2, 3), "activation", "relu6", "activation is 'relu6'; use one of relu, tanh"),
        (Residual(Conv2d(3, 1)), "activation", 3, "activation is 3; use one of relu, tanh"),
    ],
)
def test_a_setting_is_checked_whenever_it_is_set(layer, name, value, words):
    for where in (layer, Model(copy.deepcopy(layer), (3, 8, 8)).layer):
        before = getattr(where, name)
        with pytest.raises(ConfigurationError, match=words):
            setattr(where, name, value)
        assert getattr(where, name) == before


def test_settings_that_are_read_in_each_call_can_be_changed():
    layers = Conv2d(2, 3), BatchNorm(), Dropout(0.5), Doubling()
    Model(Sequential(*layers), (3, 8, 8))
    layers[0].activation, layers[1].eps, layers[2].rate, layers[3].slope = "tanh", 0.5, 0.25, 3.0
    layers[3].count += 1


def test_a_layer_refuses_a_batch_of_another_shape():
    layer = Conv2d(2, 3)
    model = made(layer, (1, 5, 5))
    other = FAST.pack(np.zeros((2, 1, 6, 6), np.float32))
    with pytest.raises(ShapeError, match="Conv2d"):
        layer(other)
    with pytest.raises(ShapeError):
        model(np.zeros((2, 1, 6, 6), np.float32))


def test_fused_relu_is_relu_after():
    x = np.random.default_rng(0).standard_normal((3, 2, 5, 5)).astype(np.float32)
    fused = made(Conv2d(3, 3, activation="relu"), (2, 5, 5))
    apart = made(Sequential(Conv2d(3, 3), ReLU()), (2, 5, 5))
    assert np.array_equal(fused.values, apart.values)
    (y1, back1), (y2, back2) = fused(x), apart(x)
    assert np.array_equal(y1.numpy(), y2.numpy())
    assert np.array_equal(back1(y1).numpy(), back2(y2).numpy())
    assert np.array_equal(fused.grads, apart.grads)


def test_batch_norm_uses_the_batch_in_training_and_running_values_in_inference():
    layer = BatchNorm(momentum=0.25)
    model = made(layer, (2, 3, 3))
    x = (np.random.default_rng(0).standard_normal((4, 2, 3, 3)) * 3 + 5).astype(np.float32)
    per_channel = x.astype(np.float64).transpose(1, 0, 2, 3).reshape(2, -1)
    assert np.allclose(model(x)[0].numpy(), x, rtol=1e-5)  # mean 0, variance 1 at first, eps 1e-5
    assert np.array_equal(layer.running_mean.value, [0, 0])  # inference changes nothing
    model.mode.training = True
    y = model(x)[0].numpy().astype(np.float64).transpose(1, 0, 2, 3).reshape(2, -1)
    assert np.allclose(y.mean(1), 0, atol=1e-6) and np.allclose(y.var(1), 1, atol=1e-5)
    assert np.allclose(layer.running_mean.value, 0.25 * per_channel.mean(1))
    assert np.allclose(layer.running_var.value, 0.75 + 0.25 * per_channel.var(1, ddof=1))


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1)])
def test_batch_norm_refuses_to_train_on_one_value_a_channel(shape):
    model = made(Sequential(BatchNorm()), shape)
    x = np.ones((1, *shape), np.float32)
    model(x)  # inference may
    model.mode.training = True
    with pytest.raises(ShapeError, match=r"layer 0 \(BatchNorm\)"):
        model(x)
    model(np.ones((2, *shape), np.float32))


def test_dropout_draws_by_seed_step_and_layer():
    model = made(Sequential(Dropout(0.25), Dropout(0.25)), (50, 4, 4))
    first, second = model.layer.layers
    x = np.ones((4, 50, 4, 4), np.float32)
    batch = FAST.pack(x)
    assert np.array_equal(model(x)[0].numpy(), x)  # inference: the identity
    model.mode.training = True
    y, backward = first(batch)
    kept = y.numpy() != 0
    assert 0.71 < kept.mean() < 0.79  # 3,200 draws: five standard deviations are 0.038
    assert np.array_equal(y.numpy(), np.where(kept, np.float32(1 / 0.75), 0))
    assert np.array_equal(backward(batch).numpy(), y.numpy())
    assert np.array_equal(first(batch)[0].numpy(), y.numpy())
    assert not np.array_equal(second(batch)[0].numpy(), y.numpy())
    FAST.assign(model.mode.step, np.array([1], np.uint32))
    assert not np.array_equal(first(batch)[0].numpy(), y.numpy())
    FAST.assign(model.mode.step, np.array([0], np.uint32))
    model.mode.seed = 1
    assert not np.array_equal(first(batch)[0].numpy(), y.numpy())


def test_the_first_layers_input_gradient_can_be_left_out():
    model = made(Sequential(ReLU(), Conv2d(2, 3), Flatten(), Dense(3)), (1, 5, 5))
    y, backward = model(np.ones((2, 1, 5, 5), np.float32))
    assert backward(y).shape == (2, 1, 5, 5)
    expected = model.grads.copy()
    model.grads[...] = 0
    model.layer.need_input_gradient(False)
    assert model(np.ones((2, 1, 5, 5), np.float32))[1](y) is None
    assert np.array_equal(model.grads, expected)
    model.layer.need_input_gradient(True)
    assert model(np.ones((2, 1, 5, 5), np.float32))[1](y).shape == (2, 1, 5, 5)


def test_the_first_residuals_input_gradient_can_be_left_out():
    model = made(Residual(Conv2d(1, 3, padding=1)), (1, 5, 5))
    model.layer.need_input_gradient(False)
    y, backward = model(np.ones((2, 1, 5, 5), np.float32))
    assert backward(y) is None


class Scale(Layer):
    """The example of gpucnn.layers.base: y = factor * x, with the backend's array module alone."""

    def build(self, shape):
        self.factor = Parameter((1,), 1.0)
        return shape

    def __call__(self, x):
        xp, f = x.backend.xp, self.factor

        def backward(dy):
            f.grad[...] = xp.sum(dy.data * x.data * image_mask(x))
            return dy.like(dy.data * f.value)

        return x.like(x.data * f.value), backward


class Twice(Layer):
    """A user-defined layer made of others, which are found without a `children` method."""

    def __init__(self):
        self.first, self.second = Conv2d(2, 3, padding=1), Scale()

    def build(self, shape):
        return self.second.connect(self.first.connect(shape))

    def __call__(self, x):
        y, first = self.first(x)
        z, second = self.second(y)
        return z, lambda dz: first(second(dz))


@pytest.mark.parametrize("name", [entry["name"] for entry in backends() if entry["usable"]])
def test_a_user_defined_layer_gets_the_same_gradient_on_every_backend(name):
    """19 images: with 16 lanes, thirteen of the second block hold no image and must not count."""
    backend = get_backend(name)
    model = Model(Sequential(Scale(), Flatten()), (2, 3, 3)).initialize(0).place(backend)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 19, 2, 3, 3)).astype(np.float32)
    y, backward = model(x)
    dx = backward(backend.pack(dy.reshape(19, 18)))
    assert np.array_equal(y.numpy(), x.reshape(19, 18)) and np.array_equal(dx.numpy(), dy)
    expected, size = np.sum(dy.astype(np.float64) * x), np.sum(np.abs(dy.astype(np.float64) * x))
    assert abs(backend.host(model.grads)[0] - expected) <= dy.size * 2**-24 * size


def test_a_user_defined_layer():
    model = made(Sequential(Twice(), Flatten(), Dense(2)), (2, 4, 4))
    assert [p.name for p in model.parameters] == [
        "0.first.weight",
        "0.first.bias",
        "0.second.factor",
        "2.weight",
        "2.bias",
    ]
    assert not all(map(is_recordable, model.layer.walk()))
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32)
    y, backward = model(x)
    assert backward(y).shape == x.shape
    assert model.parameters[2].grad[0] != 0


def test_present_masks_lanes_that_only_fill_up():
    class Sixteen:  # a backend of 16 lanes, as far as `image_mask` looks
        xp = np

    mask = image_mask(Batch(np.zeros((2, 3, 5, 5, 16)), 19, Sixteen()))
    assert mask.shape == (2, 1, 1, 1, 16)
    assert mask.reshape(-1).tolist() == [True] * 19 + [False] * 13


def test_a_layer_that_is_part_of_itself_is_refused_in_one_sentence():
    class Child(Layer):
        def __init__(self, parent):
            self.parent = parent

    class Parent(Layer):
        def __init__(self):
            self.child = Child(self)

    for made in (lambda: Model(Parent(), (3,)), lambda: check_gradients(Parent(), shape=(3,))):
        with pytest.raises(ConfigurationError, match="a layer is part of itself, by way of Child and Parent: "):
            made()


def test_a_layer_that_was_not_connected_says_what_is_missing():
    class Forgets(Layer):
        def __init__(self):
            self.inner = Dense(3)

        def __call__(self, x):
            return self.inner(x)

    with pytest.raises(
        ShapeError, match=r"layer inner \(Dense\) was not built; .* calls its connect\(shape\) in build"
    ):
        Model(Forgets(), (4,)).initialize(0).place(FAST).predict(np.ones((1, 4), np.float32))


def test_layers_may_be_deep_in_one_another():
    layer = Dense(3)
    for _ in range(150):
        layer = Sequential(layer)
    assert Model(layer, (2,)).parameter_count == 9


def test_deep_layers_have_an_end():
    layer = Dense(3)
    for _ in range(220):
        layer = Sequential(layer)
    assert Model(layer, (3,)).output_shape == (3,)
