"""Filters as small images."""

import matplotlib
import numpy as np
import pytest

from gpucnn import show
from gpucnn.errors import ConfigurationError, DataError, ShapeError
from gpucnn.layers import ConvTranspose2d, Dense, Flatten, Sequential
from gpucnn.models import Model, lenet5, resnet20


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def colors(picture):
    return [tuple(map(int, color)) for color in np.unique(np.asarray(picture).reshape(-1, 3), axis=0)]


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 3, 3),
        (6, 1, 5, 5),
        (512, 1, 3, 3),
        (20, 1, 1, 1),
        (6, 1, 1, 7),
        (4, 1, 9, 2),
        (16, 3, 3, 3),
        (64, 3, 7, 7),
        (1, 3, 5, 5),
        (200, 3, 3, 3),
        (16, 6, 5, 5),
        (6, 16, 5, 5),
        (32, 64, 1, 1),
        (300, 512, 3, 3),
        (2, 512, 3, 3),
        (8, 2, 5),
        (4, 2, 3, 3, 3),
        (4, 1, 3, 3, 3),
        (3, 3, 2, 9),
        # Larger than what else is left out: a picture of none, or a division by zero.
        (16, 4, 128),
        (4, 2, 300),
        (3, 2, 5, 300),
        (2, 2, 261, 261),
        (4, 2, 2, 200, 200),
    ],
    ids=str,
)
def test_every_shape_of_filter_is_readable(drawn, tmp_path, shape):
    weights = random(*shape)
    assert (show.filters(weights, tmp_path / "f.png") == weights).all()
    picture = drawn.check(tmp_path / "f.png")
    assert max(picture.size) < 1600


def test_filters_of_zeros_have_a_scale_too(drawn, tmp_path):
    show.filters(np.zeros((2, 1, 3, 3), np.float32), tmp_path / "f.png")
    drawn.check(tmp_path / "f.png")


def test_one_scale_for_all_symmetric_about_zero(drawn, tmp_path):
    """The largest magnitude, here negative, is at the scale's end, zero in the middle, half of it between."""
    weights = np.array([-2.0, 0.0, 1.0, 2.0], np.float32).reshape(4, 1, 1, 1)
    show.filters(weights, tmp_path / "f.png")
    picture = drawn.check(tmp_path / "f.png")
    seen = colors(picture)
    for share in (0.0, 0.5, 0.75, 1.0):
        red, green, blue = (round(255 * c) for c in matplotlib.colormaps["RdBu_r"](share)[:3])
        assert any(max(abs(r - red), abs(g - green), abs(b - blue)) <= 2 for r, g, b in seen), share


def test_color_filters_are_drawn_around_mid_gray(drawn, tmp_path):
    weights = np.zeros((1, 3, 1, 1), np.float32)
    weights[0, :, 0, 0] = 4, 0, -4
    show.filters(weights, tmp_path / "f.png")
    seen = colors(drawn.check(tmp_path / "f.png"))
    assert any(r >= 254 and 126 <= g <= 129 and b <= 1 for r, g, b in seen)  # red full, green zero, blue none


def test_the_title_says_what_is_left_out(drawn, tmp_path):
    show.filters(random(300, 512, 3, 3), tmp_path / "f.png")
    assert "first 65 of 300 filters and the first 65 of 512 input channels" in drawn.figure.get_suptitle()
    show.filters(random(200, 3, 3, 3), tmp_path / "f.png")
    assert drawn.figure.get_suptitle() == "200 filters of 3 channels, 3x3; the first 128"


def test_a_models_layers_by_name(tmp_path):
    model = lenet5().initialize(0)
    state = model.state_dict()
    assert (show.filters(model) == state["0.weight"]).all()
    assert (show.filters(model, layer="2") == state["2.weight"]).all()
    inner = resnet20().initialize(0)
    assert (show.filters(inner, layer="5.shortcut.0") == inner.state_dict()["5.shortcut.0.weight"]).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_filters_of_a_transposed_convolution_are_its_outputs(groups):
    """Output o reads the channels of its group: the weight from channel c to o is w[c, o within the group]."""
    model = Model(ConvTranspose2d(6, (2, 3), groups=groups), (4, 3, 3)).initialize(0)
    stored = next(iter(model.state_dict().values()))  # (C, O/groups, *K)
    weights = show.filters(model)
    assert weights.shape == (6, 4 // groups, 2, 3)
    for o in range(6):
        group, place = divmod(o, 6 // groups)
        for c in range(4 // groups):
            assert (weights[o, c] == stored[group * (4 // groups) + c, place]).all()


def test_filters_by_hand_are_whole_numbers(tmp_path):
    sobel, both = [[[[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]]], [[[[1, 2]], [[3, 4]]]]
    for numbers in (sobel, both):
        assert show.filters(numbers, tmp_path / "whole.png").tolist() == numbers
        show.filters(np.array(numbers, np.float32), tmp_path / "same.png")
        assert (tmp_path / "whole.png").read_bytes() == (tmp_path / "same.png").read_bytes()


def test_wrong_names_and_models_without_filters():
    model = lenet5().initialize(0)
    with pytest.raises(ConfigurationError, match="no convolution called '1'; it has 0, 2"):
        show.filters(model, layer="1")
    with pytest.raises(ConfigurationError, match="layer is 2 of type int; give its name, which is text"):
        show.filters(model, layer=2)
    with pytest.raises(ConfigurationError, match="has no convolution"):
        show.filters(Model(Sequential(Flatten(), Dense(3)), (1, 4, 4)))


def test_bad_arrays_and_paths(tmp_path):
    weights = random(2, 1, 3, 3)
    weights[1, 0, 0, 2] = np.nan
    with pytest.raises(
        DataError, match=r"the filters hold 1 values that are NaN or infinite, the first at \(1, 0, 0, 2\)"
    ):
        show.filters(weights, tmp_path / "f.png")
    for wrong in (random(3, 3), random(0, 1, 3, 3), np.ones((2, 1, 3, 3), bool)):
        with pytest.raises(ShapeError, match="expected numbers"):
            show.filters(wrong, tmp_path / "f.png")
    with pytest.raises(ConfigurationError, match="must end in .png"):
        show.filters(random(2, 1, 3, 3), tmp_path / "f.pdf")
    assert not list(tmp_path.iterdir())
