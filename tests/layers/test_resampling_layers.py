"""Layers of one to three axes, of every padding, and those that resample: shapes, errors, summaries, training."""

import functools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpucnn import functional, layers
from gpucnn.backends import get_backend
from gpucnn.emulation import get_emulated_backend, why_not
from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.layers import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool3d,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    Dense,
    Flatten,
    GlobalAvgPool1d,
    GlobalAvgPool3d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    GlobalMaxPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    Pad,
    Sequential,
    Upsample,
)
from gpucnn.models import Model
from gpucnn.summary import summary
from gpucnn.training import Trainer
from tests.resampled import network

FAST = get_backend("numpy", "fast")


def made(layer, shape, backend=FAST):
    return Model(layer, shape).initialize(0).place(backend)


@pytest.mark.parametrize(
    ("layer", "shape", "output", "parameters"),
    [
        (Conv1d(4, 5, stride=2, padding=2), (3, 20), (4, 10), 64),
        (Conv3d(4, (1, 3, 3), padding="same"), (2, 4, 5, 6), (4, 4, 5, 6), 76),
        (Conv2d(6, 3, groups=3, padding=1, padding_mode="reflect"), (3, 8, 8), (6, 8, 8), 60),
        (MaxPool1d(3, stride=2, ceil_mode=True), (2, 8), (2, 4), 0),
        (MaxPool3d(2), (2, 4, 5, 6), (2, 2, 2, 3), 0),
        (AvgPool1d(4), (2, 9), (2, 2), 0),
        (AvgPool3d(2, strict=True), (2, 4, 2, 6), (2, 2, 1, 3), 0),
        (GlobalAvgPool1d(), (5, 9), (5,), 0),
        (GlobalAvgPool3d(), (5, 2, 3, 4), (5,), 0),
        (GlobalMaxPool1d(), (5, 9), (5,), 0),
        (GlobalMaxPool3d(), (5, 2, 3, 4), (5,), 0),
        (AdaptiveAvgPool2d(7), (3, 5, 9), (3, 7, 7), 0),
        (AdaptiveMaxPool1d(2), (3, 5), (3, 2), 0),
        (AdaptiveMaxPool3d((1, 2, 3)), (3, 5, 9, 4), (3, 1, 2, 3), 0),
        (Pad(((1, 2), (0, 3)), "replicate"), (3, 4, 4), (3, 7, 7), 0),
        (Pad(2), (3, 4), (3, 8), 0),
        (Upsample(2), (3, 4, 5), (3, 8, 10), 0),
        (Upsample((1, 2, 3), mode="linear"), (3, 2, 2, 2), (3, 2, 4, 6), 0),
        (Upsample(size=7), (3, 4), (3, 7), 0),
    ],
)
def test_shapes_parameters_and_gradients_shapes(layer, shape, output, parameters):
    model = made(layer, shape)
    assert model.output_shape == output and model.parameter_count == parameters and model.recordable
    x = np.ones((3, *shape), np.float32)
    y, backward = model(x)
    assert y.shape == (3, *output)
    assert backward(y).shape == x.shape


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (Conv1d(2, 3), (1, 8, 8), ["layer 0 (Conv1d)", "(C, W)", "(1, 8, 8)"]),
        (Conv3d(2, 3), (1, 8, 8), ["layer 0 (Conv3d)", "(C, D, H, W)"]),
        (MaxPool1d(2), (1, 8, 8), ["layer 0 (MaxPool1d)", "(C, W)"]),
        (GlobalMaxPool2d(), (9,), ["layer 0 (GlobalMaxPool2d)", "(C, H, W)"]),
        (AdaptiveMaxPool3d(2), (9,), ["layer 0 (AdaptiveMaxPool3d)", "(C, D, H, W)"]),
        (Upsample(2), (9,), ["layer 0 (Upsample)", "(C, W), (C, H, W), (C, D, H, W)"]),
        (Upsample((2, 2)), (9, 4), ["layer 0 (Upsample)", "2 entries for 1"]),
        (Pad((1, 2, 3)), (9, 4, 4), ["layer 0 (Pad)", "3 entries for 2"]),
        (Pad(4, "reflect"), (1, 4, 9), ["layer 0 (Pad)", "spatial axis 0", "at most 3"]),
        (Conv2d(2, 9, padding=5, padding_mode="circular"), (1, 4, 9), ["layer 0 (Conv2d)", "circular", "at most 4"]),
        (Conv2d(2, 3, stride=2, strict=True), (1, 8, 8), ["layer 0 (Conv2d)", "stride 2 does not divide"]),
        (MaxPool2d(2, strict=True), (1, 7, 8), ["layer 0 (MaxPool2d)", "stride 2 does not divide"]),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(layer, shape, words):
    with pytest.raises(ShapeError) as caught:
        Model(Sequential(layer), shape)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Conv2d(2, 3, padding_mode="edge"), "replicate"),
        (lambda: Conv2d(2, 3, padding_mode="reflect", padding_value=1.0), 'mode "constant"'),
        (lambda: Conv1d(2, 3, strict="yes"), "strict is 'yes'"),
        (lambda: Pad(1, "constant", float("inf")), "finite"),
        (lambda: MaxPool2d(2, ceil_mode=1), "ceil_mode is 1"),
        (Upsample, "give one of them"),
        (lambda: Upsample(2, mode="bicubic"), "nearest, linear"),
        (lambda: Model(AdaptiveAvgPool2d(0), (1, 4, 4)), "output_size is 0"),
        (lambda: Model(MaxPool2d(2, ceil_mode=True, strict=True), (1, 4, 4)), "exclude each other"),
    ],
)
def test_settings_that_are_none_are_refused(make, word):
    with pytest.raises(ConfigurationError, match=word):
        make()


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_a_convolution_pads_as_the_function_does_with_and_without_a_pool(mode):
    x = np.random.default_rng(0).standard_normal((5, 2, 6, 7)).astype(np.float32)
    modes = {"padding_mode": mode, "padding_value": 0.5 if mode == "constant" else 0.0}
    for name in ("numpy", "numba"):
        backend = get_backend(name, "exact")
        layer = Conv2d(3, 3, padding=(1, 2), activation="relu", **modes)
        model = made(Sequential(layer, MaxPool2d(2, ceil_mode=True)), (2, 6, 7), backend)
        y, backward = model(x)
        w, bias = (backend.host(value) for value in (layer.weight.value, layer.bias.value))
        chosen = {"backend": name, "math": "exact"}
        z = functional.relu(functional.conv(x, w, bias, padding=(1, 2), **modes, **chosen), **chosen)
        assert np.array_equal(y.numpy(), functional.max_pool(z, 2, ceil_mode=True, **chosen))
        dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
        dz = functional.max_pool_backward(dy, z, 2, ceil_mode=True, **chosen) * (z > 0)
        dx, dw, db = functional.conv_backward(dz, x, w, padding=(1, 2), **modes, **chosen)
        assert np.array_equal(backward(backend.pack(dy)).numpy(), dx)
        assert np.array_equal(backend.host(layer.weight.grad), dw) and np.array_equal(backend.host(layer.bias.grad), db)


def test_settings_print_and_inner_workings_do_not():
    model = made(
        Sequential(Conv2d(2, 3, padding=1, padding_mode="reflect"), AdaptiveAvgPool2d(3), Upsample(2)), (1, 5, 5)
    )
    text = repr(model.layer)
    assert "padding_mode='reflect'" in text and "AdaptiveAvgPool2d(output_size=3)" in text and "scale=2" in text
    assert "AxisTaps" not in text and "reach" not in text


def test_every_layer_of_the_family_is_offered():
    for axes in (1, 2, 3):
        for kind in (
            "Conv",
            "MaxPool",
            "AvgPool",
            "GlobalMaxPool",
            "GlobalAvgPool",
            "AdaptiveMaxPool",
            "AdaptiveAvgPool",
        ):
            assert f"{kind}{axes}d" in layers.__all__ and getattr(layers, f"{kind}{axes}d").axes == axes


# ---- the summary -----------------------------------------------------------------------------------------------------


def test_the_summary_of_one_and_three_axes():
    first, second, third = summary(Model(Sequential(Conv1d(4, 5), MaxPool1d(2), Conv1d(2, 3)), (3, 30))).rows
    assert (first.parameters, first.multiply_adds, first.field) == (64, 3 * 5 * 4 * 26, (5,))
    assert first.dense_weights == 3 * 30 * 4 * 26
    assert second.field == (6,) and third.field == (6 + 2 * 2,)
    (row,) = summary(Model(Conv3d(2, (1, 2, 3), padding=1, padding_mode="replicate"), (3, 4, 5, 6))).rows
    assert row.output == (2, 6, 6, 6) and row.multiply_adds == 3 * 6 * 2 * 6**3 and row.field == (1, 2, 3)


def test_receptive_fields_behind_padding_upsampling_and_adaptive_pooling():
    layer = Sequential(
        Pad(1, "reflect"),  # sees the same pixel
        Conv2d(2, 3),
        Upsample(2),  # each value sees one, half a pixel apart
        Conv2d(2, 3),  # 3 + 2 * 1/2
        Upsample(2, mode="linear"),  # two values each, 1/4 apart
        Conv2d(2, 3),  # 4 + 1/2, and 2 * 1/4
        AdaptiveAvgPool2d((9, 36)),  # 34 to 9: windows of 5, 4 more steps of 1/4; to 36: of 2, one more
        GlobalMaxPool2d(),
    )
    table = summary(Model(layer, (1, 10, 10)))
    rows = table.rows
    assert [row.field for row in rows] == [(1, 1), (3, 3), (3, 3), (4, 4), (5, 5), (5, 5), (6, 6), (10, 10)]
    assert [row.output[1:] for row in rows] == [(12, 12), (10, 10), (20, 20), (18, 18), (36, 36), (34, 34), (9, 36), ()]
    assert "Upsample" in str(table)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.data())
def test_a_receptive_field_is_no_smaller_than_what_a_value_depends_on(data):
    """The largest span of pixels that reach one value, in networks that sum pixels, by an image for each pixel."""
    layers = [
        data.draw(
            st.one_of(
                st.builds(AvgPool1d, st.integers(1, 4), stride=st.integers(1, 3)),
                st.builds(Upsample, st.integers(2, 3), mode=st.sampled_from(["nearest", "linear"])),
                st.builds(ConvTranspose1d, st.just(1), st.integers(1, 4), stride=st.integers(1, 3)),
            )
        )
        for _ in range(data.draw(st.integers(1, 5)))
    ]
    try:
        model = Model(Sequential(*layers), (1, 30), head="regressor").initialize(0)
    except ShapeError:
        assume(False)  # too small for the next layer
    for parameter in model.parameters:
        parameter.value = np.full(parameter.shape, parameter.name.endswith("weight"), np.float32)
    model.place(get_backend("numpy", "fast"))
    reached = model.predict(np.eye(30, dtype=np.float32)[:, None])[:, 0] != 0  # (pixel, value)
    spans = [np.ptp(np.flatnonzero(column)) + 1 for column in reached.T if column.any()]
    (field,) = summary(model).total.field
    assert max(spans) <= field <= 30
    if not any(isinstance(layer, Upsample | ConvTranspose1d) for layer in layers):
        assert field == max(spans)


def test_a_receptive_field_over_the_border_of_two_repeated_pixels():
    """Two neighbors of an upsampled map may be means of four pixels, although they are one pixel apart on average."""
    layers = AvgPool1d(2), Upsample(2), ConvTranspose1d(1, 3, stride=2)
    assert [row.field for row in summary(Model(Sequential(*layers), (1, 12))).rows] == [(2,), (2,), (4,)]


# ---- training --------------------------------------------------------------------------------------------------------


@functools.cache
def trained(name, seed=3):
    """The weights after seven steps, the last of each epoch short: on numba and the emulation recorded and repeated."""
    backend = get_emulated_backend("reversed") if name == "cupy" else get_backend(name, "exact")
    random = np.random.default_rng(seed)
    images, labels = random.standard_normal((75, 1, 9, 8)).astype(np.float32), random.integers(0, 3, 75)
    model = network()
    before = model.initialize(2).place(backend).weights_sha256()
    Trainer(model, backend=backend, seed=2, batch_size=20, progress=False).fit(images, labels, 2)
    assert model.weights_sha256() != before
    return model.weights_sha256()


@pytest.mark.slow
def test_training_on_numba_gives_the_specified_weights():
    assert trained("numba") == trained("numpy")


@pytest.mark.skipif(why_not() is not None, reason=f"emulation: {why_not()}")
def test_training_on_the_emulated_gpu_gives_the_specified_weights():
    assert trained("cupy") == trained("numpy")


def test_the_network_trains():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 64)
    images = random.standard_normal((64, 1, 12, 12)).astype(np.float32)
    images[labels == 1, :, 3:9, 3:9] += 3
    layer = Sequential(
        Conv2d(4, 3, padding=1, padding_mode="reflect", activation="relu"),
        AdaptiveMaxPool2d(5),
        Upsample(2, mode="linear"),
        AdaptiveAvgPool2d(2),
        Flatten(),
        Dense(2),
    )
    trainer = Trainer(Model(layer, (1, 12, 12)), backend="numba", seed=1, batch_size=16, progress=False)
    history = trainer.fit(images, labels, 20)
    assert history["loss"][-1] < 0.3 * history["loss"][0]
