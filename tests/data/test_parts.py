"""Windows of pages: whole images near the middle have their class, all else is "nothing"."""

import numpy as np
import pytest

from gpucnn.data import Dataset, load, with_parts
from gpucnn.errors import DataError


def marked(count: int = 90) -> Dataset:
    """Images 16x16 of one bright pixel in the middle, whose place in a window tells how far off that window is."""
    images = np.zeros((count, 1, 16, 16), np.float32)
    images[:, 0, 8, 8] = 1 + np.arange(count) % 3
    return Dataset(images, np.arange(count) % 3, ["a", "b", "c"], "marked")


def test_where_each_window_lies():
    windows = with_parts(marked())
    assert windows.classes == ["a", "b", "c", "nothing"]
    assert np.bincount(windows.labels).tolist() == [60, 60, 60, 180]
    for image, label in zip(windows.images[:, 0], windows.labels):
        off = np.abs(np.argwhere(image) - 8).max(axis=1)
        if label == 3:
            assert (off >= 4).all()
        else:
            near = image[6:11, 6:11]
            assert near.max() == label + 1
            assert off.min() <= 2


def test_it_is_the_same_each_time_and_another_with_another_seed():
    first, again, other = with_parts(marked()), with_parts(marked()), with_parts(marked(), 1)
    np.testing.assert_array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)


def test_by_name():
    train, test = load("digits+parts")
    whole, _ = load("digits")
    expected = with_parts(whole)
    np.testing.assert_array_equal(train.images, expected.images)
    assert train.classes == test.classes == [*"0123456789", "nothing"]
    assert len(test.images) == 4 * 359


def test_a_set_that_has_the_class_is_refused():
    with pytest.raises(DataError, match="has a class 'nothing' already"):
        with_parts(with_parts(marked()))
    with pytest.raises(DataError, match="none"):
        load("none+parts")


@pytest.mark.parametrize("shape", [(1, 8), (8, 1), (1, 1)])
def test_images_of_one_pixel_a_side_are_refused(tmp_path, shape):
    np.savez(tmp_path / "lines.npz", images=np.zeros((20, *shape), np.uint8), labels=np.arange(20) % 2)
    with pytest.raises(DataError, match=r"windows need 2 pixels a side or more"):
        load(f"{tmp_path}/lines.npz+parts")
    thin = Dataset(np.ones((6, 1, 2, 3), np.float32), np.arange(6) % 2, ["a", "b"], "thin")
    assert with_parts(thin).images.shape == (24, 1, 2, 3)
