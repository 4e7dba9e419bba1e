"""Where a pattern scores highest: against plain loops in exact fractions, on every backend that runs here."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucnn import show
from gpucnn.errors import BackendError, ConfigurationError, DataError, DTypeError, ShapeError

BACKENDS = [("numpy", "exact"), ("numpy", "fast"), ("numba", "exact")]
DIAGONAL = [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]


def mean_of_products(image, pattern, stride, padding):
    """By definition, for whole numbers (C, H, W), in fractions."""
    channels, height, width = image.shape
    _, r, s = pattern.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), int)
    padded[:, padding : padding + height, padding : padding + width] = image
    rows = range(0, padded.shape[1] - r + 1, stride)
    columns = range(0, padded.shape[2] - s + 1, stride)
    return [
        [Fraction(int((padded[:, y : y + r, x : x + s] * pattern).sum()), pattern.size) for x in columns] for y in rows
    ]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_scores_place_and_box_against_plain_loops(data):
    sizes = [data.draw(st.integers(1, n)) for n in (3, 7, 7)]
    stride, padding = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 2))
    kernel = [data.draw(st.integers(1, size + 2 * padding)) for size in sizes[1:]]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    image, pattern = rng.integers(-4, 5, sizes), rng.integers(-4, 5, (sizes[0], *kernel))
    expected = mean_of_products(image, pattern, stride, padding)
    best = show.match(image, pattern, stride=stride, padding=padding, backend="numpy")
    assert best.scores.tolist() == [[float(score) for score in row] for row in expected]
    highest = max(max(row) for row in expected)
    place = next((y, row.index(highest)) for y, row in enumerate(expected) if highest in row)
    assert best.place == place and best.score == float(highest)
    assert best.box == (place[0] * stride - padding, place[1] * stride - padding, *kernel)


@pytest.mark.parametrize(("backend", "math"), BACKENDS)
def test_the_same_on_every_backend(backend, math):
    rng = np.random.default_rng(0)
    image, pattern = rng.integers(-3, 4, (2, 9, 11)), rng.integers(-3, 4, (2, 3, 2))
    best = show.match(image, pattern, backend=backend, math=math)
    assert best.scores.tolist() == [[float(s) for s in row] for row in mean_of_products(image, pattern, 1, 0)]


def test_the_first_of_several_best_places_and_how_many_more(drawn, tmp_path):
    cross = -np.ones((9, 9))
    for i in range(1, 8):
        cross[i, i] = cross[i, 8 - i] = 1
    best = show.match(cross, DIAGONAL, tmp_path / "m.png", backend="numpy")
    assert (best.place, best.score) == ((1, 1), 1)
    drawn.check(tmp_path / "m.png")
    assert drawn.figure.get_suptitle() == (
        "The pattern scores highest, 1.00, at row 1, column 1, and equally high at 3 other places"
    )


@pytest.mark.parametrize(
    ("image", "pattern", "settings"),
    [
        ((3, 3), (3, 3), {}),
        ((1, 1), (1, 1), {}),
        ((32, 32), (5, 5), {}),
        ((12, 60), (4, 4), {"stride": 2}),
        ((60, 12), (4, 4), {}),
        ((3, 20, 30), (3, 5, 5), {"padding": 2}),
        ((4, 8, 8), (4, 3, 3), {}),
        ((8, 8), (8, 1), {}),
        ((5, 5), (3, 3), {"padding": 2}),
    ],
    ids=str,
)
def test_pictures_are_readable(drawn, tmp_path, image, pattern, settings):
    rng = np.random.default_rng(1)
    best = show.match(rng.random(image), rng.normal(size=pattern), tmp_path / "m.png", backend="numpy", **settings)
    drawn.check(tmp_path / "m.png")
    top, left, height, width = best.box
    panel = drawn.figure.axes[0]
    (x0, x1), (y1, y0) = panel.get_xlim(), panel.get_ylim()
    assert x0 <= left - 0.5 and left + width - 0.5 <= x1 and y0 <= top - 0.5 and top + height - 0.5 <= y1


def test_what_does_not_fit(tmp_path):
    image = np.zeros((5, 5))
    with pytest.raises(ShapeError, match="kernel of 6 is larger"):
        show.match(image, np.zeros((6, 1)))
    with pytest.raises(ShapeError, match="the pattern has 3 channels and the image 1"):
        show.match(image, np.zeros((3, 2, 2)))
    with pytest.raises(ShapeError, match=r"expected \(H, W\) or \(C, H, W\)"):
        show.match(np.zeros(5), np.zeros((1, 1)))
    with pytest.raises(DTypeError, match="give numbers"):
        show.match([["a"]], [[1]])
    with pytest.raises(BackendError, match="no backend 'abacus'"):
        show.match(image, [[1]], backend="abacus")
    with pytest.raises(ConfigurationError, match="no folder"):
        show.match(image, [[1]], tmp_path / "no" / "m.png")
    for wrong in (np.nan, np.inf, -np.inf):
        bad = image.copy()
        bad[2, 3] = wrong
        with pytest.raises(DataError, match=r"the values of the image hold 1 .* the first at \(0, 2, 3\)"):
            show.match(bad, [[1]])
        with pytest.raises(DataError, match="the values of the pattern"):
            show.match(image, [[wrong]])
    with pytest.raises(DataError, match="NaN or infinite"):
        show.match(np.full((2, 2), 1e300), [[1]])  # too large for float32
    with pytest.raises(DataError, match="the scores hold 4 .* infinite"):
        show.match(np.full((2, 2), 1e30), [[1e30]], tmp_path / "m.png")
    assert not list(tmp_path.iterdir())


def test_colours_below_0_are_seen(drawn, tmp_path):
    """Images from -1 to 1, or normalized: from their smallest value, not black below 0."""
    image = np.array([[[-1, 1, 0]], [[1, -1, 0]], [[-1, -1, 0]]], np.float32)
    show.match(image, np.ones((3, 1, 1), np.float32), tmp_path / "m.png")
    shown = drawn.figure.axes[0].images[0].get_array()
    assert shown.tolist() == [[[0, 1, 0], [1, 0, 0], [0.5, 0.5, 0.5]]]
