"""One layer in several places: against a network with a copy in each place, whose gradients are added by hand."""

import copy
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

import gpucnn
from gpucnn.backends import get_backend
from gpucnn.emulation import get_emulated_backend, why_not
from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.layers import (
    BatchNorm,
    Concat,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    MaxPool2d,
    Parameter,
    Residual,
    Sequential,
    image_mask,
)
from gpucnn.models import Model, at_size, lenet5, resnet20, unet_small
from gpucnn.optimizers import SGD
from gpucnn.schedules import Constant
from tests.training import small

X, Y = small.data()
F = np.float32


def layers():
    """(first, the layer that is in three places, last)"""
    return Conv2d(4, 3, padding=1), Conv2d(4, 3, padding=1, activation="relu"), Dense(3)


def tied():
    first, shared, last = layers()
    return Model(Sequential(first, shared, MaxPool2d(1), shared, Residual(shared), Flatten(), last), (1, 8, 8))


def untied():
    first, shared, last = layers()
    copies = [copy.deepcopy(shared) for _ in range(3)]
    return Model(Sequential(first, copies[0], MaxPool2d(1), copies[1], Residual(copies[2]), Flatten(), last), (1, 8, 8))


def devices():
    yield get_backend("numpy")
    yield get_backend("numba")
    if why_not() is None:
        yield get_emulated_backend()


def test_the_gradient_is_the_sum_of_the_places_last_first():
    for device in devices():
        one, three = tied().initialize(2), untied()
        weights = one.state_dict()
        names = {"0": "0", "1": "1", "3": "1", "4.body": "1", "6": "6"}
        pairs = {p.name: f"{names[p.name.rpartition('.')[0]]}.{p.name.rpartition('.')[2]}" for p in three.parameters}
        three.load_state_dict({name: weights[pair] for name, pair in pairs.items()})
        found = []
        for model in (one.place(device), three.place(device)):
            model.mode.training = True
            for _ in range(2):  # the second pass must not add to the first
                y, backward = model(X[:20])
                dx = backward(device.pack(np.random.default_rng(1).random(y.shape).astype(F)))
            gradients = {p.name: device.host(p.grad) for p in model.parameters}
            found.append((device.unpack(y).tobytes(), device.unpack(dx).tobytes(), gradients))
        assert found[0][:2] == found[1][:2]
        gradients, parts = found[0][2], found[1][2]
        for kind in ("weight", "bias"):
            expected = (parts[f"4.body.{kind}"] + parts[f"3.{kind}"]) + parts[f"1.{kind}"]
            assert gradients[f"1.{kind}"].tobytes() == expected.tobytes()
            assert gradients[f"0.{kind}"].tobytes() == parts[f"0.{kind}"].tobytes()


def test_backward_passes_come_in_any_order_and_any_number():
    """As a step on two or three batches does: all forward first, each with its backward pass after."""
    for device in devices():
        model = tied().initialize(2).place(device)
        dy = device.pack(np.random.default_rng(1).random((8, 3)).astype(F))

        def gradient(backward, model=model, device=device, dy=dy):
            backward(dy)
            return device.host(model.grads).tobytes()

        alone = [gradient(model.layer(device.pack(images))[1]) for images in (X[:8], X[8:16])]  # without the model
        first, second = model(X[:8])[1], model(X[8:16])[1]
        assert [gradient(back) for back in (first, second, second, first)] == [alone[i] for i in (0, 1, 1, 0)]


def test_training_gives_the_same_bits_everywhere_and_is_recorded(capsys):
    def net():
        block = Sequential(Conv2d(2, 3, padding=1), BatchNorm(activation="relu"), Dropout(0.2))
        return Model(Sequential(Conv2d(2, 3), block, block, Concat(block, block), Flatten(), Dense(3)), (1, 8, 8))

    hashes = set()
    for device in devices():
        one = small.trainer(model=net(), backend=device)
        one.fit(X, Y, 2)
        hashes.add(one.model.weights_sha256())
    assert len(hashes) == 1
    assert "launched one by one" not in capsys.readouterr().err


def test_gradients_by_differences():
    cell = Dense(6, activation="tanh")
    report = gpucnn.check_gradients(Sequential(cell, cell, Dense(6), cell), shape=(6,))
    assert report.passed
    assert [tensor.name for tensor in report.tensors] == ["input", "0.weight", "0.bias", "2.weight", "2.bias"]


def test_it_counts_once_and_keeps_the_name_of_its_first_place(tmp_path):
    model = tied().initialize(0)
    assert [p.name for p in model.parameters] == ["0.weight", "0.bias", "1.weight", "1.bias", "6.weight", "6.bias"]
    assert gpucnn.summary.summary(model).total.parameters == model.parameter_count
    model.freeze("1")
    assert model.frozen == ["1"]
    gpucnn.save(model, tmp_path / "m.safetensors")
    assert gpucnn.load(tmp_path / "m.safetensors", model=tied()).weights_sha256() == model.weights_sha256()
    copied = copy.deepcopy(model)
    assert copied.predict(X[:3]).tobytes() == model.predict(X[:3]).tobytes()
    gpucnn.export_onnx(model, tmp_path / "m.onnx")


def test_a_pickle_of_a_model_holds_its_weights_and_no_backend():
    for device in devices():
        model = tied().initialize(0).place(device)
        model.freeze("0")
        model.class_names, model.mean, model.std = ["a", "b", "c"], (0.5,), (0.25,)
        again = pickle.loads(pickle.dumps(model))
        assert again.backend is None and (again.frozen, again.mean, again.class_names) == (["0"], (0.5,), list("abc"))
        assert again.place(device).predict(X[:3]).tobytes() == model.predict(X[:3]).tobytes()
        if device.name == "numpy":
            for one in (model, again):
                small.trainer(model=one, backend=device).fit(X, Y, 1)
        assert again.weights_sha256() == model.weights_sha256()
    with pytest.raises(ConfigurationError, match="layers belong to it alone: take copy.deepcopy"):
        copy.copy(model)


def test_an_exported_network_computes_the_same(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model = tied().initialize(0)
    gpucnn.export_onnx(model, tmp_path / "m.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: X[:5]})
    np.testing.assert_allclose(outputs, model(X[:5])[0].numpy(), rtol=1e-4, atol=1e-5)


def test_other_shapes_are_refused():
    layer = Conv2d(2, 3, padding=1)
    with pytest.raises(ShapeError, match=r"several times, for inputs of shape \(2, 8, 8\) and \(2, 4, 4\)"):
        Model(Sequential(layer, MaxPool2d(2), layer), (2, 8, 8))
    assert Model(Sequential(layer, layer), (2, 4, 4)).output_shape == (2, 4, 4)  # and the layer can still be used


class Held(Layer):
    """Holds a parameter that it was given."""

    def __init__(self, w):
        self.w = w

    def __call__(self, x):
        return x, lambda dy: dy


def test_one_parameter_in_two_layers_is_refused():
    one = Parameter((2,))
    words = r"layer 0 \(Held\) as w and layer 2 \(Held\) as w hold the same Parameter; give each its own, or put one"
    with pytest.raises(ConfigurationError, match=words):
        Model(Sequential(Held(one), Flatten(), Held(one)), (2,))
    both = Held(one)
    assert Model(Sequential(both, both), (2,)).parameter_count == 2
    with pytest.raises(ConfigurationError, match=r"Held as w has an array already, another model's or its own"):
        Model(Held(one), (2,))
    assert Model(copy.deepcopy(both), (2,)).parameter_count == 2


class Unrolled(Layer):
    """One layer of its own, three times in a row."""

    def __init__(self, cell, *again):
        self.cell, self.again = cell, again

    def build(self, shape):
        return self.cell.connect(shape)

    def __call__(self, x):
        steps = []
        for _ in range(3):
            x, step = self.cell(x)
            steps.insert(0, step)

        def backward(dy):
            for step in steps:
                dy = step(dy)
            return dy

        return x, backward


class Skipped(Unrolled):
    """The layer once."""

    def __call__(self, x):
        return self.cell(x)


class Within(Conv2d):
    """Looks at its input before it computes as a convolution."""

    def __call__(self, x):
        self.check(x)
        return super().__call__(x)


@pytest.mark.parametrize("kind", [Conv2d, Within])
def test_a_layer_that_a_layer_of_the_users_calls_several_times_needs_several_places(kind):
    cell = kind(1, 3, padding=1, activation="tanh")
    words = r"layer [cel.]+ \((Conv2d|Within)\) runs 3 times in a call of \w+, .* hold it in two attributes"
    with pytest.raises(ConfigurationError, match=words):
        gpucnn.check_gradients(Unrolled(cell), shape=(1, 8, 8))
    with pytest.raises(ConfigurationError, match=words):
        gpucnn.check_gradients(Skipped(Unrolled(cell)), shape=(1, 8, 8))
    assert gpucnn.check_gradients(Unrolled(cell, cell), shape=(1, 8, 8)).passed
    assert gpucnn.check_gradients(Skipped(cell), shape=(1, 8, 8)).passed


@pytest.mark.parametrize("hashed", [False, True])
def test_layers_of_a_dataclass_that_are_equal_are_layers_of_their_own(hashed):
    @dataclass(unsafe_hash=hashed)
    class Scale(Layer):
        start: float = 2.0

        def build(self, shape):
            self.factor = Parameter((1,), self.start)
            return shape

        def __call__(self, x):
            def backward(dy):
                self.factor.grad[...] = np.sum(dy.data * x.data * image_mask(x))
                return dy.like(dy.data * self.factor.value)

            return x.like(x.data * self.factor.value), backward

    outer = Skipped(Sequential(Scale(), Scale()))
    assert gpucnn.check_gradients(outer, shape=(1, 8, 8)).passed
    model = Model(Sequential(outer, Flatten(), Dense(3)), (1, 8, 8))
    assert gpucnn.summary.summary(model).rows[0].parameters == 2


def test_weights_that_training_leaves_alone_may_be_used_in_one_place():
    model = Model(Sequential(Unrolled(Conv2d(1, 3, padding=1)), Flatten(), Dense(3)), (1, 8, 8)).initialize(0)
    model.freeze("0")
    small.trainer(model=model, backend="numba").fit(X, Y, 1)
    assert model.predict(X[:2]).shape == (2, 3)


# ---- one set of weights for several sizes ----------------------------------------------------------------------------


def sliding():
    return Model(
        Sequential(Conv2d(4, 3, padding=1), BatchNorm(activation="relu"), GlobalAvgPool2d(), Dense(3)), (1, 8, 8)
    )


def test_models_of_several_sizes_share_their_weights():
    model = sliding().initialize(0)
    small_images = at_size(model, (1, 6, 5))
    assert small_images.initialized and small_images.output_shape == (3,)
    cut = np.ascontiguousarray(X[:, :, :6, :5])
    plain = Model(copy.deepcopy(model.layer), (1, 6, 5))
    plain.load_state_dict(model.state_dict())
    settings = {"backend": "numpy", "optimizer": SGD(0.1), "schedule": Constant(), "shift": 0}
    for one in (small_images, plain):
        small.trainer(model=one, **{**settings, "optimizer": SGD(0.1)}).fit(cut, Y, 1)
    assert model.weights_sha256() == small_images.weights_sha256() == plain.weights_sha256()
    assert model.backend is small_images.backend
    model.place(get_backend("numba"))
    small.trainer(model=model, **{**settings, "backend": "numba"}).fit(X, Y, 1)
    assert model.weights_sha256() == small_images.weights_sha256() != plain.weights_sha256()
    assert small_images.predict(cut[:2]).shape == model.predict(X[:2]).shape == (2, 3)
    alone = copy.deepcopy(small_images)
    small.trainer(model=alone, **settings).fit(cut, Y, 1)
    assert model.weights_sha256() == small_images.weights_sha256() != alone.weights_sha256()


def test_models_of_several_sizes_share_their_normalization():
    model = sliding()
    other = at_size(model, (1, 6, 5))
    small.trainer(model=model, normalize=True).fit(X, Y, 1)
    assert other.mean == model.mean == (pytest.approx(X.mean(), rel=1e-5),) and other.std == model.std
    cut = np.ascontiguousarray(X[:, :, :6, :5])
    plain = Model(copy.deepcopy(model.layer), (1, 6, 5))
    plain.load_state_dict(model.state_dict())
    by_hand = (cut - np.float32(model.mean[0])) * (np.float32(1) / np.float32(model.std[0]))
    np.testing.assert_allclose(other.predict(cut), plain.predict(by_hand), atol=1e-6)
    copy.deepcopy(other).mean = None
    assert other.mean == model.mean is not None


def test_ready_made_networks_keep_their_names(tmp_path):
    model = at_size(resnet20((3, 16, 16), 4).initialize(0), (3, 12, 20))
    gpucnn.save(model, tmp_path / "r.safetensors")
    assert gpucnn.load(tmp_path / "r.safetensors").input_shape == (3, 12, 20)
    with pytest.raises(ShapeError, match=r"5\.weight has shape \(120, 400\)"):
        at_size(lenet5(), (1, 20, 20))
    with pytest.raises(ShapeError, match="multiples of 4, not 101x119; pad or crop the images"):
        at_size(unet_small((1, 32, 32), 3), (1, 101, 119))
