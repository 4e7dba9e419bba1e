"""The ready-made networks' options: LeNet-5 as of 1998, the perceptron, regression heads, the smallest images,
predict.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpucnn
from gpucnn.backends import get_backend
from gpucnn.errors import ConfigurationError, DTypeError, ShapeError
from gpucnn.layers import Dense, Flatten, Sequential
from gpucnn.models import Model, build_model, lenet5, mlp, resnet20, vgg_small
from tests.models.nets import OF_IMAGES

FAST = get_backend("numpy", "fast")
DOUBLE = get_backend("numpy", "fast", dtype=np.float64)


@pytest.mark.parametrize("variant", ["modern", "1998"])
@pytest.mark.parametrize("size", [32, 28])
def test_lenet5_has_61706_parameters(variant, size):
    assert lenet5((1, size, size), 10, variant=variant).parameter_count == 61706


def _lenet5_of_1998(x, state):
    """Written in NumPy alone, for images of 32x32."""

    def conv(x, w, b):
        windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
        return np.tanh(np.einsum("nchwij,ocij->nohw", windows, w) + b[:, None, None])

    def pool(x):
        return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4

    s = {name: value.astype(np.float64) for name, value in state.items()}
    x = pool(conv(x, s["0.weight"], s["0.bias"]))
    x = pool(conv(x, s["2.weight"], s["2.bias"])).reshape(len(x), -1)
    x = np.tanh(x @ s["5.weight"].T + s["5.bias"])
    x = np.tanh(x @ s["6.weight"].T + s["6.bias"])
    return x @ s["7.weight"].T + s["7.bias"]


def test_lenet5_of_1998_is_tanh_and_average_pooling():
    model = lenet5(variant="1998").initialize(0).place(DOUBLE)
    x = np.random.default_rng(0).random((3, 1, 32, 32))
    assert np.allclose(model(x)[0].numpy(), _lenet5_of_1998(x, model.state_dict()), rtol=1e-12, atol=1e-12)
    weights = model.state_dict()["5.weight"]
    assert np.abs(weights).max() <= np.float32(np.sqrt(3 / 400))  # LeCun's
    assert repr(lenet5().layer) != repr(model.layer)


@pytest.mark.parametrize("hidden", [(), (7,), (300, 100), [4, 3, 2]])
def test_mlp_is_dense_layers_with_relu(hidden):
    model = mlp((2, 3, 3), 4, hidden=hidden).initialize(1).place(DOUBLE)
    sizes = [18, *hidden, 4]
    assert model.parameter_count == sum((i + 1) * o for i, o in itertools.pairwise(sizes))
    x = np.random.default_rng(0).standard_normal((5, 2, 3, 3))
    values, state = x.reshape(5, -1), model.state_dict()
    for number in range(1, len(sizes)):
        values = values @ state[f"{number}.weight"].T.astype(np.float64) + state[f"{number}.bias"]
        values = values if number == len(sizes) - 1 else np.maximum(values, 0)
    assert np.allclose(model(x)[0].numpy(), values, rtol=1e-12, atol=1e-12)


def test_mlp_takes_any_rank_and_lecuns_sizes():
    assert mlp((1, 28, 28)).parameter_count == 785 * 300 + 301 * 100 + 101 * 10
    for shape in ((6,), (1, 9), (2, 3, 4, 5)):
        x = np.zeros((2, *shape), np.float32)
        assert mlp(shape, 3, hidden=(4,)).initialize(0).place(FAST)(x)[0].shape == (2, 3)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_a_regressor_gives_values(name, tmp_path):
    model = build_model(name, (3, 17, 16), outputs=2).initialize(3).place(FAST)
    assert model.head == "regressor" and model.output_shape == (2,)
    same = build_model(name, (3, 17, 16), 2).initialize(3).place(FAST)
    assert same.head == "classifier" and same.weights_sha256() == model.weights_sha256()
    x = np.random.default_rng(0).random((5, 3, 17, 16)).astype(np.float32)
    assert np.array_equal(model.predict(x), model(x)[0].numpy())
    assert np.allclose(same.predict(x).sum(axis=1), 1)
    gpucnn.save(model, tmp_path / "m.safetensors")
    back = gpucnn.load(tmp_path / "m.safetensors")
    assert back.head == "regressor" and back.arguments == model.arguments


@pytest.mark.parametrize("options", [{}, {"variant": "1998"}])
def test_options_survive_a_file(options, tmp_path):
    for model in (lenet5((1, 20, 20), 3, **options), mlp((1, 5, 5), 3, hidden=(6, 5))):
        gpucnn.save(model.initialize(0), tmp_path / "m.safetensors")
        back = gpucnn.load(tmp_path / "m.safetensors")
        assert back.structure == model.structure and back.weights_sha256() == model.weights_sha256()


@pytest.mark.parametrize(
    ("make", "least"),
    [(lenet5, 16), (lambda *a: lenet5(*a, variant="1998"), 16), (vgg_small, 8), (resnet20, 1), (mlp, 1)],
)
def test_the_smallest_images(make, least):
    model = make((1, least, least), 3).initialize(0).place(FAST)
    assert model.predict(np.zeros((2, 1, least, least), np.float32)).shape == (2, 3)
    if least > 1:
        for shape in ((1, least - 1, least), (1, least, least - 1)):
            with pytest.raises(ShapeError, match=f"{least}x{least} pixels at least"):
                make(shape, 3)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(OF_IMAGES),
    st.integers(1, 4),
    st.integers(16, 37),
    st.integers(16, 37),
    st.integers(1, 12),
    st.sampled_from([1, 31, 33]),
)
def test_any_size_channels_and_classes(name, channels, height, width, classes, images):
    model = build_model(name, (channels, height, width), classes).initialize(0).place(FAST)
    assert model.predict(np.zeros((images, channels, height, width), np.float32)).shape == (images, classes)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: lenet5((32, 32)), ShapeError, r"\(C, H, W\)"),
        (lambda: lenet5((0, 32, 32)), ConfigurationError, "channels is 0"),
        (lambda: lenet5(variant="2020"), ConfigurationError, "modern, 1998"),
        (lambda: lenet5(classes=3, outputs=3), ConfigurationError, "exclude"),
        (lambda: lenet5(outputs=0), ConfigurationError, "outputs is 0"),
        (lambda: mlp(hidden=(3, 0)), ConfigurationError, "hidden is 0"),
        (lambda: mlp(hidden="300"), ConfigurationError, "such as"),
        (lambda: mlp(()), ShapeError, "shape of one image"),
        (lambda: build_model("vgg_small", (3, 32, 32), variant="1998"), ConfigurationError, "lenet5 has it"),
        (lambda: build_model("mlp", (3, 32, 32), depth=3), ConfigurationError, "no option 'depth'"),
        (lambda: Model(Dense(2), (3,), head="both"), ConfigurationError, "classifier"),
    ],
)
def test_what_does_not_fit_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_predict_does_not_depend_on_the_batch_size():
    model = Model(Sequential(Flatten(), Dense(3)), (1, 4, 4)).initialize(0).place(get_backend("numpy", "exact"))
    x = np.random.default_rng(0).random((33, 1, 4, 4)).astype(np.float32)
    whole = model.predict(x)
    for size in (1, 7, 32, 33, 1000):
        assert np.array_equal(model.predict(x, size), whole)
    model.mode.training = True
    model.predict(x)
    assert model.mode.training
    with pytest.raises(ConfigurationError, match="batch_size"):
        model.predict(x, 0)
    with pytest.raises(DTypeError):
        model.predict(x.astype(np.float64))
