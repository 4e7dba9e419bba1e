"""A classifier that slides over a page: each score equals its prediction for the crop there."""

import numpy as np
import pytest

import gpucnn
from gpucnn import show
from gpucnn.data.mapped import Mapped
from gpucnn.errors import ConfigurationError, DataError, ShapeError
from gpucnn.models import lenet5


def small(classes=4):
    return lenet5((1, 16, 16), classes).initialize(2)


def random_page(height=30, width=45):
    return np.random.default_rng(5).random((1, height, width)).astype(np.float32) * 3


@pytest.mark.parametrize(("backend", "math"), [("numpy", "exact"), ("numpy", "fast"), ("numba", "exact")])
def test_each_score_is_the_crops(backend, math):
    model, page = small(), random_page()
    result = show.scores(model, page, backend=backend, math=math)
    (p, q), (s, t) = result.window.output, result.window.stride
    assert (s, t) == (4, 4) and result.probabilities.shape == (4, p, q)
    crops = [page[:, i * s : i * s + 16, j * t : j * t + 16] for i in range(p) for j in range(q)]
    expected = gpucnn.Trainer(model, backend=backend, math=math, progress=False).predict(np.stack(crops))
    assert np.abs(result.probabilities.reshape(4, -1).T - expected).max() < 1e-6


def test_found_places_are_the_likeliest_that_do_not_overlap():
    model, page = small(), random_page(60, 60)
    result = show.scores(model, page, threshold=0.3, backend="numpy")
    best, kind = result.probabilities.max(axis=0), result.probabilities.argmax(axis=0)
    taken, expected = np.zeros((60, 60), bool), []
    for i, j in sorted(np.ndindex(best.shape), key=lambda at: -best[at]):
        area = taken[4 * i : 4 * i + 16, 4 * j : 4 * j + 16]
        if best[i, j] >= 0.3 and not area.any():
            area[...] = True
            expected.append((str(kind[i, j]), best[i, j], (4 * i, 4 * j, 16, 16)))
    assert [(sighting.label, sighting.probability, sighting.box) for sighting in result.found] == expected
    assert len(expected) > 3
    assert show.scores(model, page, threshold=1.0, backend="numpy").found == []


@pytest.mark.parametrize("classes", [2, 10, 12, 100])
@pytest.mark.parametrize("size", [(16, 16), (40, 150), (150, 40)], ids=str)
def test_pictures(drawn, tmp_path, classes, size):
    model = small(classes)
    model.class_names = [f"a long class name {i}" if classes == 12 else str(i) for i in range(classes)]
    show.scores(model, random_page(*size), tmp_path / "s.png", threshold=0.9, backend="numpy")
    drawn.check(tmp_path / "s.png", words=classes != 12)  # boxes side by side may have long names that overlap


def test_color_pages(drawn, tmp_path):
    page = np.random.default_rng(0).random((3, 20, 40)).astype(np.float32)
    show.scores(lenet5((3, 16, 16), 3).initialize(0), page, tmp_path / "s.png", threshold=0.0, backend="numpy")
    drawn.check(tmp_path / "s.png", words=False)


def test_the_page_is_laid_out_as_documented():
    images = np.random.default_rng(1).random((6, 1, 32, 32)).astype(np.float32)
    page, places = show.digit_page(images, 2, 3)
    assert page.shape == (1, 16 + 2 * 48, 16 + 3 * 48)
    rest = page.copy()
    for i, (top, left) in enumerate(places):
        row, column = divmod(i, 3)
        assert (top, left) == (8 + 48 * row + 5 * i % 9, 8 + 48 * column + 7 * i % 11)
        assert (page[:, top : top + 32, left : left + 32] == images[i]).all()
        rest[:, top : top + 32, left : left + 32] = 0
    assert not rest.any()
    with pytest.raises(ShapeError, match="at least 40"):
        show.digit_page(images)
    with pytest.raises(ConfigurationError, match="rows is -2; give a positive integer"):
        show.digit_page(images, -2, 3)


def test_the_page_is_normalized_like_the_images():
    model, page = small(), random_page()
    model.mean, model.std = (0.5,), (0.25,)
    probabilities = show.scores(model, page, backend="numpy", math="exact").probabilities
    crops = np.stack([page[:, 0:16, 0:16], page[:, 4:20, 8:24]])
    expected = model.predict(crops)
    assert pytest.approx(expected, abs=1e-6) == probabilities[:, [0, 1], [0, 2]].T


def test_mapped_images_give_the_same_page():
    images = np.random.default_rng(1).random((9, 1, 32, 32)).astype(np.float32)
    page, places = show.digit_page(Mapped(images), 2, 3)
    assert (page == show.digit_page(images, 2, 3)[0]).all() and len(places) == 6


def test_refusals(tmp_path):
    model = small()
    with pytest.raises(ConfigurationError, match="is a regressor"):
        show.scores(lenet5((1, 16, 16), outputs=2).initialize(0), random_page())
    with pytest.raises(ShapeError, match="cannot slide over"):
        show.scores(model, random_page(15, 40))
    with pytest.raises(ShapeError, match=r"expected \(1, H, W\)"):
        show.scores(model, np.zeros((3, 40, 40), np.float32))
    with pytest.raises(DataError, match="NaN"):
        show.scores(model, np.full((1, 20, 20), np.nan, np.float32))
    with pytest.raises(DataError, match="cut it into parts"):
        show.scores(model, np.zeros((1, 2000, 2000), np.float32))
    large = small()
    large.values[:] = 1e37
    with pytest.raises(DataError, match="the network's answers hold .* NaN or infinite"), np.errstate(all="ignore"):
        show.scores(large, random_page(), backend="numba")
    for threshold in (-0.1, 1.1, float("nan"), True, "0.5", None):
        with pytest.raises(ConfigurationError, match="threshold"):
            show.scores(model, random_page(), threshold=threshold)
    with pytest.raises(ConfigurationError, match="must end in"):
        show.scores(model, random_page(), tmp_path / "s.bmp")
    assert not list(tmp_path.iterdir())
