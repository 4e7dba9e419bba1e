"""The feature maps of an image: the layers' values computed one by one with gpucnn.functional."""

import numpy as np
import pytest

import gpucnn
from gpucnn import functional, show
from gpucnn.errors import ConfigurationError, DataError, ShapeError
from gpucnn.layers import Conv1d, Conv2d, Conv3d, Dense, Flatten, MaxPool1d, Sequential
from gpucnn.models import Model, lenet5, resnet20, vgg_small


def image(*shape):
    return np.random.default_rng(3).random(shape).astype(np.float32)


@pytest.mark.parametrize(("backend", "math"), [("numpy", "exact"), ("numba", "exact")])
def test_lenet5_layer_by_layer(backend, math):
    model, x = lenet5((1, 16, 16), 4).initialize(1), image(1, 16, 16)
    model.mode.training = True
    steps, probabilities = show.maps(model, x, backend=backend, math=math)
    assert model.mode.training, "as it was"
    w, how = model.state_dict(), {"backend": "numpy", "math": "exact"}
    a = functional.relu(functional.conv(x[None], w["0.weight"], w["0.bias"], **how), **how)
    b = functional.max_pool(a, 2, **how)
    c = functional.relu(functional.conv(b, w["2.weight"], w["2.bias"], **how), **how)
    d = functional.max_pool(c, 2, **how)
    e = functional.relu(functional.dense(d.reshape(1, -1), w["5.weight"], w["5.bias"], **how), **how)
    f = functional.relu(functional.dense(e, w["6.weight"], w["6.bias"], **how), **how)
    g = functional.dense(f, w["7.weight"], w["7.bias"], **how)
    expected = {"": x[None], "0": a, "1": b, "2": c, "3": d, "5": e, "6": f, "7": g}
    assert [step.name for step in steps] == list(expected)  # Flatten, layer 4, changes no value
    for step in steps:
        assert step.values.tobytes() == expected[step.name][0].tobytes(), step.name
    softmax = np.exp(g[0].astype(float)) / np.exp(g[0].astype(float)).sum()
    assert probabilities == pytest.approx(softmax, abs=1e-6)
    trainer = gpucnn.Trainer(model, backend=backend, math=math, progress=False)
    assert probabilities.tobytes() == trainer.predict(x[None])[0].tobytes()


@pytest.mark.parametrize(
    ("model", "classes"),
    [
        (lenet5((1, 32, 32), 10), None),
        (lenet5((1, 20, 40), 2), ["cat", "dog"]),
        (vgg_small((3, 32, 32), 100), None),
        (resnet20((3, 16, 16), 12), [f"a long class name {i}" for i in range(12)]),
        (lenet5((2, 16, 16), 3), None),
    ],
    ids=["lenet5", "wide", "vgg_small", "resnet20", "two channels"],
)
def test_pictures_are_readable(drawn, tmp_path, model, classes):
    model.initialize(0).class_names = classes
    steps, probabilities = show.maps(
        model,
        image(*model.input_shape),
        tmp_path / "m.png",
        backend="numpy",
        name="a test image: its class " + 30 * "x",
    )
    drawn.check(tmp_path / "m.png")
    for text in drawn.figure.texts[2:]:  # below the title's lines: none reaches into the pictures
        assert text.get_window_extent().x1 < min(axes.get_window_extent().x0 for axes in drawn.figure.axes)
    words = [text.get_text().replace("\n", " ") for text in drawn.figure.texts]
    for step in steps[1:]:
        assert f"layer {step.name}: {step.kind}" in words
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_the_residual_blocks_of_resnet_are_one_row_each():
    steps, _ = show.maps(resnet20((3, 16, 16), 3).initialize(0), image(3, 16, 16), backend="numpy")
    assert [step.kind for step in steps[3:6]] == ["Residual + ReLU"] * 3
    assert len(steps) == 1 + 2 + 9 + 2


def test_a_regressors_values_and_no_probabilities(drawn, tmp_path):
    model, x = lenet5((1, 16, 16), outputs=3).initialize(1), image(1, 16, 16)
    steps, values = show.maps(model, x, tmp_path / "m.png", backend="numpy")
    drawn.check(tmp_path / "m.png")
    assert values.tolist() == steps[-1].values.tolist() == model.predict(x[None])[0].tolist()
    assert "class probabilities" not in [text.get_text() for text in drawn.figure.texts]


def test_images_come_in_as_the_model_prepares_them():
    """Larger ones are cropped to the middle and normalized; the first row is the input image."""
    model, x = lenet5((1, 16, 16), 4).initialize(1), image(1, 20, 18)
    model.image_shape, model.mean, model.std = (1, 20, 18), (0.25,), (0.5,)
    steps, probabilities = show.maps(model, x, backend="numpy")
    assert steps[0].values.tolist() == x.tolist()
    plain = lenet5((1, 16, 16), 4).initialize(1)
    prepared = ((x[:, 2:18, 1:17] - np.float32(0.25)) * np.float32(2)).astype(np.float32)
    other, expected = show.maps(plain, prepared, backend="numpy")
    assert steps[1].values == pytest.approx(other[1].values, abs=1e-5)
    assert probabilities == pytest.approx(expected, abs=1e-5)


def test_maps_of_a_signal_can_be_seen(drawn, tmp_path):
    """Each map is a strip across the picture, one below the other; sixteen side by side were lines a pixel high."""
    model = Model(Sequential(Conv1d(32, 3), Flatten(), Dense(3)), (1, 256)).initialize(0)
    show.maps(model, image(1, 256), tmp_path / "maps.png")
    row = next(axes for axes in drawn.figure.axes if axes.images and axes.images[0].get_array().shape == (32, 254))
    box = row.get_window_extent()
    assert box.height >= 3 * 32 and box.width >= 3 * 254


def test_strips_and_volumes(drawn, tmp_path):
    strips = Model(Sequential(Conv1d(4, 3), MaxPool1d(2), Flatten(), Dense(3)), (2, 20)).initialize(0)
    volumes = Model(Sequential(Conv3d(4, 3, activation="relu"), Flatten(), Dense(3)), (1, 6, 8, 9)).initialize(0)
    for model in (strips, volumes):
        steps, _ = show.maps(model, image(*model.input_shape), tmp_path / "m.png", backend="numpy")
        drawn.check(tmp_path / "m.png")
        assert steps[1].values.shape == model.layer.layers[0].output_shape
        show.filters(model, tmp_path / "f.png")
        drawn.check(tmp_path / "f.png")


def test_slices_that_are_left_out_are_told(drawn, tmp_path):
    layers = Conv3d(8, 3), Conv3d(40, 3), Conv3d(2, 3), Flatten(), Dense(3)
    model = Model(Sequential(*layers), (1, 40, 9, 9)).initialize(0)
    show.maps(model, image(1, 40, 9, 9), tmp_path / "m.png", backend="numpy")
    drawn.check(tmp_path / "m.png")
    told = [lines[0] for text in drawn.figure.texts if "(first 32 slices)" in (lines := text.get_text().split("\n"))]
    assert told == ["1x40x9x9", "8 maps of 38x7x7", "40 maps of 36x5x5", "2 maps of 34x3x3"]


def test_refusals(tmp_path):
    model = lenet5((1, 16, 16), 4).initialize(0)
    with pytest.raises(ShapeError, match=r"takes \(N, 1, 16, 16\)"):
        show.maps(model, image(1, 8, 8), tmp_path / "m.png")
    bad = image(1, 16, 16)
    bad[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        show.maps(model, bad, tmp_path / "m.png")
    with pytest.raises(ConfigurationError, match="one prediction per position"):
        show.maps(Model(Sequential(Conv2d(2, 3)), (1, 5, 5)).initialize(0), image(1, 5, 5))
    with pytest.raises(ConfigurationError, match="must end in"):
        show.maps(model, image(1, 16, 16), tmp_path / "m.gif")
    assert not list(tmp_path.iterdir())


def test_a_model_goes_to_the_backend_asked_for_and_stays_usable():
    model = Model(Sequential(Conv2d(2, 3), Flatten()), (1, 4, 4)).initialize(0)
    show.maps(model, image(1, 4, 4), backend="numpy")
    assert model.backend.name == "numpy"
    show.maps(model, image(1, 4, 4))  # where it is
    assert model.backend.name == "numpy"
