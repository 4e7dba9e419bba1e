"""Worked examples with known answers, from textbooks and papers, each to the last digit."""

import numpy as np
import pytest

from gpucnn import functional, show
from gpucnn.errors import ShapeError
from gpucnn.geometry import (
    conv_multiply_adds,
    conv_parameters,
    dense_multiply_adds,
    dense_parameters,
    pixel_use,
    window,
)
from gpucnn.layers import Conv2d, Dense, Flatten, Sequential
from gpucnn.models import Model, lenet5

BACKENDS = [("numpy", "exact"), ("numpy", "fast"), ("numba", "exact")]
on_every_backend = pytest.mark.parametrize(("backend", "math"), BACKENDS, ids=["-".join(b) for b in BACKENDS])

DIAGONAL = [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]


@on_every_backend
@pytest.mark.parametrize(
    ("image", "mean"),
    [
        ([[-1, -1, -1], [-1, 1, -1], [-1, -1, 1]], 7 / 9),
        ([[-1, -1, -1], [1, -1, -1], [-1, 1, 1]], 1 / 9),  # printed as -0.11 in one source: its sign is wrong
    ],
)
def test_mean_of_products_of_a_diagonal_filter(backend, math, image, mean):
    image, filters = (np.array(a, np.float32)[None, None] for a in (image, DIAGONAL))
    y = functional.conv(image, filters, backend=backend, math=math)
    assert y.shape == (1, 1, 1, 1)
    assert y.item() / 9 == mean
    best = show.match(image[0, 0], DIAGONAL, backend=backend, math=math)  # what `gpucnn show match` draws
    assert best.scores.tolist() == [[mean]] and best.place == (0, 0)


def test_a_filter_of_3_on_an_input_of_7():
    assert window((7,), 3).output == (5,)
    assert window((7,), 3, stride=2).output == (3,)
    with pytest.raises(ShapeError, match="stride 3 does not divide"):
        window((7,), 3, stride=3, strict=True)


def test_padding_2_keeps_32_pixels_under_a_filter_of_5():
    assert window((32, 32), 5, padding=2).output == (32, 32)


def test_ten_filters_of_5_by_5_on_a_color_image():
    assert conv_parameters(3, 10, (5, 5)) == 760
    assert conv_parameters(3, 1, (5, 5)) == 76 == 5 * 5 * 3 + 1
    assert Model(Conv2d(10, 5), (3, 32, 32)).parameter_count == 760


def test_a_filter_needs_9_weights_where_a_dense_layer_needs_81():
    assert dense_parameters(3 * 3, 3 * 3, bias=False) == dense_multiply_adds(9, 9) == 81
    assert conv_parameters(1, 1, (3, 3), bias=False) == 9
    layers = Sequential(Flatten(), Dense(9, bias=False)), Conv2d(1, 3, padding=1, bias=False)
    assert [Model(layer, (1, 3, 3)).parameter_count for layer in layers] == [81, 9]


def test_how_often_each_pixel_is_used():
    assert pixel_use(window((3, 3), 2)).tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    assert show.pixel_use(window((3, 3), 2)).tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]


@on_every_backend
def test_how_often_each_pixel_is_used_is_the_gradient_of_a_sum(backend, math):
    ones = np.ones((1, 1, 2, 2), np.float32)
    dx, _, _ = functional.conv_backward(ones, np.ones((1, 1, 3, 3), np.float32), ones, backend=backend, math=math)
    assert dx[0, 0].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]


@on_every_backend
def test_pooling_a_map_of_four_blocks(backend, math):
    blocks = np.array([[32, 10, 4, 14], [11, 17, 9, 19], [20, 4, 8, 12], [14, 16, 27, 7]], np.float32)
    image = blocks.reshape(2, 2, 2, 2).swapaxes(1, 2).reshape(1, 1, 4, 4)  # two rows of two blocks of 2x2
    assert functional.max_pool(image, 2, backend=backend, math=math).ravel().tolist() == [32, 19, 20, 27]
    assert functional.avg_pool(image, 2, backend=backend, math=math).ravel().tolist() == [15, 14, 11, 16]


@on_every_backend
def test_filters_of_1_by_1_change_only_the_channels(backend, math):
    fit = window((56, 56), 1)
    assert fit.output == (56, 56)
    assert conv_multiply_adds(64, 32, fit) / (56 * 56 * 32) == 64
    x, w = np.ones((1, 64, 56, 56), np.float32), np.ones((32, 64, 1, 1), np.float32)
    y = functional.conv(x, w, backend=backend, math=math)
    assert y.shape == (1, 32, 56, 56) and (y == 64).all()


def test_lenet5_has_61_706_parameters():
    assert lenet5().parameter_count == 61_706
    padded = lenet5(input_shape=(1, 28, 28))
    assert padded.parameter_count == 61_706
    assert padded.layer.layers[0].padding == 2 and padded.layer.layers[0].output_shape == (6, 28, 28)
