"""Dense layers as convolutions and convolutions as dense layers, and classifiers that slide."""

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.geometry import conv_parameters, dense_parameters
from gpucnn.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    GroupNorm,
    Layer,
    LayerNorm,
    LeakyReLU,
    MaxPool2d,
    MaxPool3d,
    Pad,
    ReLU,
    Residual,
    Sequential,
    Softmax,
    Upsample,
)
from gpucnn.models import (
    Model,
    conv_to_dense,
    dense_to_conv,
    fully_convolutional,
    lenet5,
    resnet20,
    sliding_window,
    vgg_small,
)

EXACT = [("numpy", "exact"), ("numba", "exact")]
on_exact_backends = pytest.mark.parametrize(
    "backend", [get_backend(*names) for names in EXACT], ids=[n for n, _ in EXACT]
)


def images(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same_bits(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype == np.float32
    assert np.array_equal(a.view(np.uint32), b.view(np.uint32))


def settled(model, seed=3):
    """The model with initial weights, and biases and statistics that are not zero or one."""
    model.initialize(seed)
    rng = np.random.default_rng(seed)
    state = {
        name: value if name.endswith("weight") else rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model


# ---- one layer -------------------------------------------------------------------------------------------------------


@on_exact_backends
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_layer_is_a_convolution_with_one_position(backend, activation, bias):
    dense = settled(Model(Sequential(Flatten(), Dense(7, activation=activation, bias=bias)), (3, 4, 5))).place(backend)
    conv = dense_to_conv(dense.layer.layers[1], (3, 4, 5))
    assert isinstance(conv.layer, Conv2d) and conv.layer.weight.shape == (7, 3, 4, 5)
    x = images(18, 3, 4, 5)
    y = conv.place(backend)(x)[0].numpy()
    assert y.shape == (18, 7, 1, 1)
    same_bits(y[:, :, 0, 0], dense(x)[0].numpy())


@on_exact_backends
@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((1, 3, 3), {"kernel_size": 3, "padding": 1}),
        ((2, 5, 4), {"kernel_size": (3, 2), "stride": (2, 1), "activation": "relu"}),
        ((4, 6, 5), {"kernel_size": 2, "padding": ((1, 0), (0, 2)), "dilation": 2, "groups": 2, "bias": False}),
        ((3, 4, 4), {"kernel_size": 3, "padding": "same", "groups": 3, "activation": "tanh"}),
        ((2, 1, 1), {"kernel_size": 1}),
    ],
)
def test_a_convolution_of_one_size_of_image_is_a_dense_layer(backend, shape, settings):
    filters = 6 if settings.get("groups", 1) > 1 else 5
    conv = settled(Model(Sequential(Conv2d(filters, **settings)), shape)).place(backend)
    dense = conv_to_dense(conv.layer.layers[0])
    assert [type(layer) for layer in dense.layer.layers] == [Flatten, Dense]
    x = images(17, *shape)
    same_bits(dense.place(backend)(x)[0].numpy(), conv(x)[0].numpy().reshape(17, -1))


@on_exact_backends
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(lambda: Conv1d(3, 4, stride=2, padding=1), (2, 9)), (lambda: Conv3d(2, 2, padding=1), (2, 2, 3, 2))],
)
def test_one_and_three_axes(backend, layer, shape):
    conv = settled(Model(Sequential(layer()), shape)).place(backend)
    x = images(17, *shape)
    dense = conv_to_dense(conv.layer.layers[0]).place(backend)
    same_bits(dense(x)[0].numpy(), conv(x)[0].numpy().reshape(17, -1))
    again = dense_to_conv(dense.layer.layers[1], shape).place(backend)
    same_bits(again(x)[0].numpy().reshape(17, -1), conv(x)[0].numpy().reshape(17, -1))


def test_81_weights_where_a_filter_has_9():
    conv = settled(Model(Conv2d(1, 3, padding=1, bias=False), (1, 3, 3)))
    dense = conv_to_dense(conv.layer)
    assert conv.parameter_count == conv_parameters(1, 1, (3, 3), bias=False) == 9
    assert dense.parameter_count == dense_parameters(9, 9, bias=False) == 81
    matrix = dense.state_dict()["1.weight"]
    assert np.unique(matrix[matrix != 0]).size == 9 and np.count_nonzero(matrix) == 4 * 4 + 4 * 6 + 9
    middle = conv.state_dict()["weight"].reshape(9)
    assert np.array_equal(matrix[4], middle)  # the middle output sees the whole image


def test_back_and_forth_gives_the_same_weights():
    conv = settled(Model(Conv2d(5, (3, 4)), (2, 3, 4)))  # one position: both are the same matrix
    dense = conv_to_dense(conv.layer)
    again = dense_to_conv(dense.layer.layers[1], (2, 3, 4))
    for name, value in conv.state_dict().items():
        same_bits(again.state_dict()[name], value)


def test_what_cannot_be_converted_is_refused():
    model = settled(Model(Sequential(Conv2d(2, 3), Flatten(), Dense(4)), (1, 5, 5)))
    conv, _, dense = model.layer.layers
    with pytest.raises(ShapeError, match=r"18 inputs, but a map of \(2, 3, 4\) has 24"):
        dense_to_conv(dense, (2, 3, 4))
    with pytest.raises(ShapeError, match="no convolution; expected 1 to 3"):
        dense_to_conv(dense, (18,))
    with pytest.raises(ConfigurationError, match="takes a Dense layer"):
        dense_to_conv(conv, (2, 3, 3))
    with pytest.raises(ConfigurationError, match="takes a convolution"):
        conv_to_dense(dense)
    mirrored = settled(Model(Conv2d(2, 3, padding=1, padding_mode="reflect"), (1, 5, 5)))
    with pytest.raises(ConfigurationError, match="padded with zeros"):
        conv_to_dense(mirrored.layer)
    for fresh in (lambda: dense_to_conv(Dense(3), (3,)), lambda: conv_to_dense(Conv2d(3, 3))):
        with pytest.raises(ConfigurationError, match="make a Model of it"):
            fresh()


# ---- whole classifiers -----------------------------------------------------------------------------------------------


def crops(x, window):
    """The map's positions, each with its crops (N, C, *I), without those that reach past x."""
    for place in np.ndindex(window.output):
        first = [p * s for p, s in zip(place, window.stride)]
        crop = x[(slice(None), slice(None), *(slice(a, a + k) for a, k in zip(first, window.kernel)))]
        if crop.shape[2:] == window.kernel:
            yield place, np.ascontiguousarray(crop)


def slides_exactly(model, page, backend):
    """The number of positions compared."""
    slid = fully_convolutional(model.place(backend), page)
    window = sliding_window(model, page)
    assert slid.backend is backend and slid.output_shape == (*model.output_shape, *window.output)
    x, compared = images(3, *page), 0
    scores = slid(x)[0].numpy()
    for place, crop in crops(x, window):
        same_bits(np.ascontiguousarray(scores[(..., *place)]), model(crop)[0].numpy())
        compared += 1
    return compared


@pytest.mark.slow
@on_exact_backends
def test_lenet5_slides_over_a_page(backend):
    model = settled(lenet5((1, 32, 32), 10))
    assert sliding_window(model, (1, 44, 37)).stride == (4, 4)
    assert slides_exactly(model, (1, 44, 37), backend) == 4 * 2


@on_exact_backends
@pytest.mark.parametrize(
    ("layers", "shape", "page", "places"),
    [
        (lambda: [Conv2d(3, 3, stride=2), BatchNorm(activation="relu"), Flatten(), Dense(4)], (2, 7, 9), (2, 11, 9), 3),
        (
            lambda: [
                Sequential(Conv2d(4, 2), ReLU(), MaxPool2d(3, stride=2)),
                Sequential(Flatten(), Dropout(), Dense(5), BatchNorm(), ReLU(), Dense(3)),
            ],
            (1, 8, 8),
            (1, 12, 10),
            6,
        ),
        (lambda: [AvgPool2d(2), Residual(Conv2d(2, 1)), Flatten(), Dense(3, bias=False)], (2, 4, 4), (2, 8, 6), 6),
        (lambda: [Flatten(), Dense(6, activation="tanh"), Dense(2)], (1, 3, 3), (1, 4, 5), 6),
        (
            lambda: [
                Concat(Conv2d(2, 1), Sequential(), Sequential(Conv2d(3, 1), ReLU())),
                MaxPool2d(2),
                Flatten(),
                Dense(3),
            ],
            (2, 4, 6),
            (2, 8, 6),
            3,
        ),
        (lambda: [Conv2d(2, 3), LeakyReLU(0.1), Flatten(), Dense(4), Softmax()], (1, 5, 5), (1, 6, 7), 6),
        (lambda: [Conv2d(4, 3), GlobalMaxPool2d(), Dense(3)], (1, 5, 5), (1, 6, 7), 6),
        (lambda: [Conv1d(3, 3, stride=2, activation="relu"), Flatten(), Dense(2)], (2, 9), (2, 14), 3),
        (lambda: [Conv3d(2, 2), MaxPool3d(2), Flatten(), Dense(3)], (1, 5, 3, 3), (1, 7, 5, 4), 4),
        # Of 7 pixels the classifier sees 6: the lower two crops reach past the page by the row that is not seen.
        (lambda: [MaxPool2d(2, stride=2), Conv2d(2, 2), Flatten(), Dense(2)], (1, 7, 7), (1, 8, 9), 2),
    ],
)
def test_other_classifiers_slide_exactly_too(backend, layers, shape, page, places):
    assert slides_exactly(settled(Model(Sequential(*layers()), shape)), page, backend) == places


def test_a_page_of_the_classifiers_own_size_has_one_score():
    model = settled(lenet5((1, 28, 28), 10))  # padding and all
    slid = fully_convolutional(model, (1, 28, 28))
    x, backend = images(2, 1, 28, 28), get_backend("numba")
    same_bits(slid.place(backend)(x)[0].numpy().reshape(2, 10), model.place(backend)(x)[0].numpy())


def test_padding_within_the_net_is_not_exact_away_from_the_crop():
    model = settled(Model(Sequential(Conv2d(2, 3, padding=1), Flatten(), Dense(2)), (1, 4, 4)))
    slid, x = fully_convolutional(model, (1, 6, 6)), images(1, 1, 6, 6)
    backend = get_backend("numpy", "exact")
    score = slid.place(backend)(x)[0].numpy()[:, :, 1, 1]
    assert not np.array_equal(score, model.place(backend)(np.ascontiguousarray(x[:, :, 1:5, 1:5]))[0].numpy())


def test_a_layer_that_pads_slides_too():
    model = settled(Model(Sequential(Pad(1, "reflect"), Conv2d(2, 3), MaxPool2d(2), Flatten(), Dense(2)), (1, 4, 4)))
    assert fully_convolutional(model, (1, 8, 6)).output_shape == (2, 3, 2)
    assert sliding_window(model, (1, 8, 6)).stride == (2, 2)


def test_the_networks_with_padding_slide_too():
    for model in (vgg_small((3, 16, 16), 4), resnet20((3, 16, 16), 4)):
        model = settled(model)
        assert fully_convolutional(model, (3, 32, 24)).output_shape == (4, 3, 2) if model.name == "vgg_small" else True
        window = sliding_window(model, (3, 32, 24))
        assert window.output == fully_convolutional(model, (3, 32, 24)).output_shape[1:]
        assert window.kernel == (16, 16)
    assert window.stride == (4, 4)  # two of resnet20's stages halve


@pytest.mark.parametrize("dense", [False, True])
def test_a_layer_in_several_places_slides(dense):
    """Of a Dense behind Flatten and elsewhere there is a kernel of each size."""
    twice = Dense(18, activation="relu") if dense else Conv2d(2, 1, activation="relu")
    behind = [Flatten(), twice, ReLU(), twice, twice] if dense else [twice, twice, Residual(twice), Flatten()]
    model = settled(Model(Sequential(Conv2d(2, 3), *behind, Dense(2)), (1, 5, 5)))
    assert slides_exactly(model, (1, 8, 7), get_backend("numpy", "exact")) == 12
    assert len(fully_convolutional(model, (1, 8, 7)).parameters) == len(model.parameters) + 2 * dense


def test_a_global_average_slides_up_to_rounding():
    model = settled(Model(Sequential(Conv2d(3, 3), GlobalAvgPool2d(), Dense(2)), (1, 6, 6)))
    backend = get_backend("numpy", "fast", dtype=np.float64)
    x = np.random.default_rng(0).standard_normal((2, 1, 8, 7))
    scores = fully_convolutional(model.place(backend), (1, 8, 7))(x)[0].numpy()
    for place, crop in crops(x, sliding_window(model, (1, 8, 7))):
        assert np.allclose(scores[(..., *place)], model(crop)[0].numpy(), rtol=0, atol=1e-14)


def test_a_normalized_regressor_slides_as_one():
    model = settled(lenet5((1, 32, 32), outputs=2)).place(get_backend("numpy", "exact"))
    model.mean, model.std = (0.5,), (0.25,)
    slid, x = fully_convolutional(model, (1, 36, 32)), images(1, 1, 36, 32)
    assert slid.head == "regressor"
    same_bits(slid.predict(x)[:, :, 1, 0], model.predict(np.ascontiguousarray(x[:, :, 4:])))


def test_the_model_stays_unchanged():
    model = settled(lenet5((1, 32, 32), 10))
    model.class_names = list("0123456789")
    before, structure = model.weights_sha256(), repr(model.layer)
    slid = fully_convolutional(model, (1, 40, 40))
    slid.values[...] = 0
    assert model.weights_sha256() == before and repr(model.layer) == structure
    assert model.layer.layers[0].output_shape == (6, 28, 28)
    assert slid.class_names == model.class_names


class Own(Layer):
    """A user-defined layer that does not declare whether it is local."""

    def __call__(self, x):
        return x, lambda dy: dy


class Middle(Layer):
    """A user-defined layer whose output depends on the map's size."""

    def build(self, shape):
        return shape[:1]


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (lambda: [Flatten(), BatchNorm(), Dense(2)], "layer 1 .BatchNorm. on .50,. cannot slide"),
        (lambda: [Middle(), Dense(2)], "layer 0 .Middle."),
        (lambda: [GroupNorm(1, affine=False), Flatten(), Dense(2)], "layer 0 .GroupNorm."),
        (lambda: [LayerNorm(), Flatten(), Dense(2)], "layer 0 .LayerNorm."),
        (lambda: [Flatten(), Softmax(), Dense(2)], "layer 1 .Softmax."),
        (lambda: [Own(), Flatten(), Dense(2)], "layer 0 .Own."),
        (lambda: [Concat(Conv2d(2, 1), Own()), Flatten(), Dense(2)], "layer 0 .Concat."),
        (lambda: [ConvTranspose2d(2, 2), Flatten(), Dense(2)], "layer 0 .ConvTranspose2d."),
        (lambda: [Upsample(2), Flatten(), Dense(2)], "layer 0 .Upsample."),
        (lambda: [AdaptiveAvgPool2d(2), Flatten(), Dense(2)], "layer 0 .AdaptiveAvgPool2d."),
        (lambda: [Residual(Sequential(Flatten(), Middle()), Sequential(Flatten(), Middle()))], "layer 0 .Residual."),
    ],
)
def test_layers_that_cannot_slide_are_refused(layers, words):
    model = Model(Sequential(*layers()), (2, 5, 5))
    with pytest.raises(ConfigurationError, match=words):
        fully_convolutional(model, (2, 7, 7))


@pytest.mark.parametrize("page", [(1, 31, 40), (3, 40, 40), (1, 40), (1, 32, 32, 32)])
def test_pages_that_do_not_fit_are_refused(page):
    with pytest.raises(ShapeError, match="at least 32 x 32 pixels"):
        fully_convolutional(lenet5((1, 32, 32), 10), page)
    with pytest.raises(ShapeError, match="cannot slide over"):
        sliding_window(lenet5((1, 32, 32), 10), page)
