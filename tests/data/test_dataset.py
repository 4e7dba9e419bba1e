"""Dataset refuses what cannot be trained on, and says why."""

import numpy as np
import pytest

from gpucnn.data import Dataset
from gpucnn.data.dataset import every_fifth, require_every_class
from gpucnn.errors import DataError

IMAGES = np.zeros((4, 1, 2, 3), np.float32)
LABELS = np.array([0, 1, 1, 0])


def test_keeps_values_and_makes_labels_int64():
    images = np.arange(24, dtype=np.float32).reshape(4, 1, 2, 3)
    dataset = Dataset(images[:, :, ::-1], LABELS.astype(np.uint8), ["a", "b"], "mine")
    assert dataset.images.flags.c_contiguous
    assert np.array_equal(dataset.images, images[:, :, ::-1])
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[:, 0], LABELS, r"mine: images have shape \(4, 2, 3\); expected \(N, C, H, W\)"),
        (IMAGES[:0], LABELS[:0], r"expected \(N, C, H, W\), none of them 0"),
        (IMAGES.astype(np.float64), LABELS, "images are float64; expected float32"),
        (IMAGES, LABELS[:3], r"4 images, but labels of shape \(3,\)"),
        (IMAGES, LABELS[:, None], r"4 images, but labels of shape \(4, 1\)"),
        (IMAGES, LABELS.astype(float), "labels are float64; expected integers"),
        (IMAGES, np.array([0, 1, 2, 0]), "the label of image 2 is 2; with 2 classes labels run from 0 to 1"),
        (IMAGES, np.array([0, 1, 1, -1]), "the label of image 3 is -1"),
    ],
)
def test_refuses(images, labels, message):
    with pytest.raises(DataError, match=message):
        Dataset(images, labels, ["a", "b"], "mine")


@pytest.mark.parametrize(
    ("classes", "wrong"), [(["b", "a", "a"], "'a', more than once"), (["b", " "], "' ', which shows nothing")]
)
def test_classes_that_cannot_be_told_apart_by_name_are_refused(classes, wrong):
    with pytest.raises(DataError, match=f"mine: classes hold {wrong}; give each class a name of its own"):
        Dataset(IMAGES, LABELS, classes, "mine")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_non_finite_images_and_names_the_first(value):
    images = IMAGES.copy()
    images[2, 0, 1, 1] = images[3, 0, 0, 0] = value
    with pytest.raises(DataError, match="2 of 4 images hold NaN.*the first is image 2"):
        Dataset(images, LABELS, ["a", "b"], "mine")


def test_a_set_is_shown_in_one_line():
    assert repr(Dataset(IMAGES, LABELS, ["a", "b"], "mine")) == "<Dataset mine: 4 images of 1x2x3, 2 classes>"


def test_missing_classes_are_named():
    dataset = Dataset(IMAGES, LABELS, ["ant", "bee", "cat", "dog"], "insects")
    with pytest.raises(DataError, match="insects: no image of class cat, dog;"):
        require_every_class(dataset)


def test_one_class_is_none_to_tell_apart():
    dataset = Dataset(IMAGES, np.zeros(len(IMAGES), int), ["ant"], "insects")
    with pytest.raises(DataError, match="insects: each image is of class ant; at least 2 classes are needed"):
        require_every_class(dataset)


def test_every_fifth_image_is_for_testing():
    images = np.arange(13, dtype=np.float32).reshape(13, 1, 1, 1)
    train, test = every_fifth(images, np.zeros(13, int), ["a"], "mine")
    assert test.images.ravel().tolist() == [4, 9]
    assert train.images.ravel().tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12]


def test_every_fifth_of_each_class_where_one_would_have_no_training_image():
    labels = np.append(np.arange(10) % 5, [5, 2, 4, 0])
    images = np.arange(14, dtype=np.float32).reshape(14, 1, 1, 1)
    train, test = every_fifth(images, labels, list("abcdef"), "mine")
    assert test.images.ravel().tolist() == [4, 9]  # class 4 has another image
    labels[12] = 0
    train, test = every_fifth(images, labels, list("abcdef"), "mine")
    assert test.images.ravel().tolist() == [1, 3]  # 0 5 12 13 (1) 6 2 7 11 (3) 8 4 9
    require_every_class(train)


def test_too_few_images_for_a_test_set():
    with pytest.raises(DataError, match="4 images; at least 5 are needed"):
        every_fifth(IMAGES, LABELS, ["a", "b"], "mine")
