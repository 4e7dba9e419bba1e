"""Group norm and softmax in plans, for every way in which channels, bands and positions can lie."""

import numpy as np
import pytest

from gpucnn import layers as L
from gpucnn.backends import get_backend
from gpucnn.models import Model
from tests.inference.kinds import settle
from tests.inference.test_plans import expected, images, is_planned, same

# Channels, groups, positions: bands in a channel, across two and more, from one block of channels to the next.
LINES = [
    *[(16, 4, (8, 8)), (32, 8, (32, 32)), (48, 1, (16, 16)), (20, 5, (10, 10)), (64, 8, (7, 7)), (24, 3, (28, 28))],
    *[(12, 3, (5, 13)), (33, 11, (130,)), (40, 2, (3, 4, 5)), (18, 1, (4, 4)), (5, 5, (9, 11)), (1, 1, (1, 100))],
    *[(96, 6, (1, 1)), (130, 1, ()), (36, 3, (1,)), (130, 1, (2, 3)), (36, 3, (15,)), (36, 3, (17,)), (17, 17, (64,))],
]


def check(layers: list[L.Layer], shape: tuple[int, ...], *counts: int, scale: float = 1, cancel: int = 0) -> None:
    """`cancel` groups have two values each that leave nothing but what the order of a sum decides."""
    model = settle(Model(L.Sequential(*layers), shape, head="regressor"), 1)
    x = images(model, max(counts)) * np.float32(scale)
    if cancel:
        lines = x.reshape(len(x), cancel, -1)
        lines[:, :, 0], lines[:, :, -1] = 1e12, -1e12
    reference = expected(model, x)
    model.place(get_backend("numba", threads=2))
    for count in counts:
        assert same(model.predict(x[:count]), reference[:count]), count
    assert is_planned(model)


@pytest.mark.parametrize(("channels", "groups", "size"), LINES)
def test_group_norm(channels, groups, size):
    check([L.GroupNorm(groups)], (channels, *size), 1, 5, 16, 17)
    check([L.GroupNorm(groups, affine=False)], (channels, *size), 1, 17, cancel=groups)


@pytest.mark.parametrize(("channels", "groups", "size"), LINES[:8])
def test_group_norm_between_maps_with_borders(channels, groups, size):
    conv = [L.Conv1d, L.Conv2d][len(size) - 1]
    layers = [conv(channels, 1), L.GroupNorm(groups, activation="relu"), conv(3, 3, padding=1)]
    check(layers, (2, *size), 1, 3)


@pytest.mark.parametrize("channels", [1, 2, 3, 10, 16, 17, 33])
@pytest.mark.parametrize("size", [(1, 1), (4, 5), (3, 16), (2, 17), (5, 40)])
def test_softmax(channels, size):
    check([L.Softmax()], (channels, *size), 1, 3, 15, 16, 17, 33, scale=8)


@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("size", [(4, 5), (3, 18)])
def test_softmax_between_maps_with_borders(channels, size):
    check([L.Conv2d(channels, 1), L.Softmax(), L.Conv2d(2, 3, padding=1)], (2, *size), 1, 16, scale=8)


@pytest.mark.parametrize("count", [16, 40, 48])
def test_softmax_among_layers_that_take_images_together(count):
    check([L.Conv2d(5, 3), L.GlobalAvgPool2d(), L.Softmax(), L.Dense(4), L.Softmax()], (2, 5, 5), count)


@pytest.mark.parametrize("parts", [(3, 1, 17), (16, 12, 12, 12), (5, 40, 2), (33,)])
def test_concat_of_channels_anywhere_in_their_blocks(parts):
    branches = [L.Sequential(L.Conv2d(count, 1)) for count in parts]
    check([L.Concat(*branches, L.Sequential()), L.Conv2d(4, 3, padding=1)], (3, 6, 7), 1, 4)
