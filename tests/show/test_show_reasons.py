"""The pictures of saliency, occlusion, Grad-CAM and doubtful labels: the numbers of gpucnn.explain, readable."""

import numpy as np
import pytest

from gpucnn import explain, show
from gpucnn.errors import ConfigurationError, DataError, ShapeError
from gpucnn.layers import Dense
from gpucnn.models import Model, lenet5
from gpucnn.training import Doubt

RNG = np.random.default_rng(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "classes"),
    [
        (lenet5((1, 16, 16), 4), None),
        (lenet5((1, 120, 16), 3), None),
        (lenet5((1, 16, 40), 2), ["a class with a long name", "another"]),
        (lenet5((3, 20, 20), 3), None),
        (lenet5((2, 24, 16), outputs=2), None),
    ],
    ids=["lenet5", "tall", "wide", "colours", "regressor"],
)
@pytest.mark.parametrize("kind", ["saliency", "occlusion", "gradcam"])
def test_pictures_are_readable(drawn, tmp_path, model, classes, kind):
    model.initialize(0).class_names = classes
    image = RNG.random(model.input_shape, dtype=np.float32)
    values = getattr(show, kind)(model, image, tmp_path / "r.png", 1, backend="numpy", name="an image")
    drawn.check(tmp_path / "r.png")
    expected = {
        "saliency": lambda: explain.saliency(model, image[None], 1)[0],
        "occlusion": lambda: explain.occlusion(model, image, 1),
        "gradcam": lambda: explain.grad_cam(model, image[None], 1)[0],
    }[kind]()
    assert values.tobytes() == expected.tobytes()
    shown = drawn.figure.axes[1].images[1].get_array()
    assert np.array_equal(shown, values)


@pytest.mark.parametrize("kind", ["occlusion", "gradcam"])
def test_narrow_images_without_a_reason_are_readable(drawn, tmp_path, kind):
    """The scale's numbers are wider then, which leaves the title less room."""
    model = lenet5((1, 120, 16), 2).initialize(0)
    values = getattr(show, kind)(model, np.zeros((1, 120, 16), np.float32), tmp_path / "r.png", backend="numpy")
    drawn.check(tmp_path / "r.png")
    assert not values.any()


def test_larger_images_are_shown_as_the_model_crops_them(drawn, tmp_path):
    model = lenet5((1, 16, 16), 4).initialize(0)
    model.image_shape = (1, 20, 18)
    image = RNG.random((1, 20, 18), dtype=np.float32)
    assert show.saliency(model, image, tmp_path / "r.png", backend="numpy").shape == (16, 16)
    assert np.array_equal(drawn.figure.axes[1].images[0].get_array(), image[0, 2:18, 1:17])


def test_squares_are_drawn_where_they_were(drawn, tmp_path):
    """One that leaves a part of the image alone is not drawn over it; in a crop they stay with their pixels."""
    model = lenet5((1, 16, 16), 4).initialize(0)
    model.image_shape = (1, 20, 18)
    image = RNG.random((1, 20, 18), dtype=np.float32)
    assert show.occlusion(model, image, tmp_path / "r.png", side=6, stride=6, backend="numpy").shape == (3, 3)
    axes = drawn.figure.axes[1]
    assert axes.images[1].get_extent() == [-1, 17, 16, -2]  # columns 0 to 18 and rows 0 to 18 of the image
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 16), (16, 0))
    assert show.occlusion(model, image, tmp_path / "r.png", side=4, stride=2, backend="numpy").shape == (9, 8)
    assert drawn.figure.axes[1].images[1].get_extent() == [0, 16, 17, -1]  # the middle 2 pixels of each


def test_what_does_not_fit_is_refused(tmp_path):
    flat = Model(Dense(2), (3,))
    with pytest.raises(ShapeError, match="needs images"):
        show.saliency(flat, np.ones(3, np.float32))
    with pytest.raises(ConfigurationError, match=r"must end in \.png"):
        show.gradcam(lenet5(), np.ones((1, 32, 32), np.float32), tmp_path / "a.jpg")


@pytest.mark.parametrize("count", [0, 1, 7])
def test_doubts(drawn, tmp_path, count):
    images = RNG.random((9, 1, 8, 8), dtype=np.float32)
    found = [Doubt(i, i % 2, 1 - i % 2, 0.01 * i, 0.9 - 0.01 * i) for i in range(count)]
    show.doubts(images, found, ["cat", "dog"], tmp_path / "d.png", most=5)
    drawn.check(tmp_path / "d.png")
    titles = [axes.get_title() for axes in drawn.figure.axes if axes.get_title()]
    assert len(titles) == min(count, 5)
    assert count == 0 or titles[0] == "says dog: 90.0%\nlabelled cat: <0.1%"


@pytest.mark.parametrize("kind", ["maps", "saliency", "occlusion", "gradcam"])
def test_a_network_that_gives_nan_has_no_picture(tmp_path, kind):
    """Its weights are finite, and too large: the likeliest of NaN is no class."""
    model = lenet5((1, 32, 32), 3).initialize(0)
    state = model.state_dict()
    model.load_state_dict({**state, "7.weight": np.full_like(state["7.weight"], 3e38)})
    image = np.random.default_rng(0).random((1, 32, 32), np.float32)
    with pytest.raises(DataError, match="NaN or infinite"):
        getattr(show, kind)(model, image, tmp_path / "x.png", backend="numba")
    assert not (tmp_path / "x.png").exists()
