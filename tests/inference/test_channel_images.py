"""How plans read images and write results: any shape, prepared or not, and no NaN unseen."""

import numpy as np
import pytest

from gpucnn import layers as L
from gpucnn.backends import get_backend
from gpucnn.errors import DataError
from gpucnn.models import Model
from tests.inference.kinds import settle
from tests.inference.test_plans import expected, images, is_planned, same

# Narrow and wide maps, channels that fill blocks and do not, several rows to a vector and several vectors to a row.
SHAPES = [
    *[(1,), (5,), (16,), (33,), (200,), (1, 1), (3, 1, 1), (20, 1, 1), (3, 17), (40, 5), (16, 16), (1, 3, 3)],
    *[(3, 5, 7), (17, 7, 7), (32, 4, 4), (2, 16, 16), (3, 9, 33), (20, 3, 18), (2, 2, 3, 5), (18, 3, 1, 17)],
]


def _conv(filters: int, axes: int, **settings) -> L.Layer:
    return (L.Conv1d, L.Conv2d, L.Conv3d)[axes - 1](filters, 3, padding=1, **settings)


# What reads the images: planes with a border, blocks of channels without one and with one.
FIRST = {
    "planes": lambda channels, axes: _conv(19, axes),
    "blocks": lambda channels, axes: L.BatchNorm(),
    "blocks with a border": lambda channels, axes: L.Concat(
        L.Sequential(), L.Sequential(_conv(channels, axes, groups=channels))
    ),
}
CASES = [(first, shape) for first in FIRST for shape in SHAPES if first == "blocks" or len(shape) > 1]


def network(first: str, shape: tuple[int, ...]) -> Model:
    return settle(Model(L.Sequential(FIRST[first](shape[0], len(shape) - 1)), shape, head="regressor"), 3)


@pytest.mark.parametrize(("first", "shape"), CASES, ids=str)
def test_images_and_results_of_every_shape(first, shape):
    model = network(first, shape)
    x = images(model, 33)
    reference = expected(model, x)
    model.place(get_backend("numba", threads=2))
    for count in (1, 2, 16, 33):
        assert same(model.predict(x[:count]), reference[:count]), count
    assert is_planned(model)


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("shape", [(3, 5, 7), (20, 4, 6), (2, 3, 33), (3, 1, 1), (20, 1), (17, 2, 1, 3)], ids=str)
def test_prepared_images(first, shape):
    model = network(first, shape)
    model.image_shape = (shape[0], *(size + room for size, room in zip(shape[1:], (3, 2, 1))))
    model.mean = tuple(0.1 * c - 0.4 for c in range(shape[0]))
    model.std = tuple(0.5 + 0.25 * c for c in range(shape[0]))
    x = images(model, 3)
    assert same(model.place(get_backend("numba")).predict(x), expected(model, x))
    assert is_planned(model)


@pytest.mark.parametrize(("first", "shape"), CASES[5:21:2] + CASES[30:60:4], ids=str)
def test_a_value_that_is_not_finite_is_seen_wherever_it_is(first, shape):
    model = network(first, shape).place(get_backend("numba", threads=2))
    x = images(model, 2)
    model.predict(x)
    for place in range(x.size):
        wrong = x.copy()
        wrong.reshape(-1)[place] = (np.nan, np.inf, -np.inf)[place % 3]
        with pytest.raises(DataError, match="NaN or an infinity"):
            model.predict(wrong)
    assert is_planned(model)


def test_results_keep_to_their_own_memory():
    """Those of few images come from a plan for more, and none is written past the last."""
    model = network("blocks", (17, 3, 5)).place(get_backend("numba", threads=2))
    x = images(model, 5)
    model.predict(x)
    (plan,) = (plan for plans in model._plans._free.values() for plan in plans)
    for start in range(16):
        memory = np.full(2 * 64 + x.size, 7, np.float32)
        plan.run(x, memory[64 + start : 64 + start + x.size], False)
        assert same(memory[64 + start : 64 + start + x.size].reshape(x.shape), expected(model, x))
        assert (memory[: 64 + start] == 7).all() and (memory[64 + start + x.size :] == 7).all()
