"""`.npz` archives: the accepted layouts, and each way to be wrong."""

import numpy as np
import pytest

from gpucnn.data import load
from gpucnn.errors import DataError

BYTES = np.random.default_rng(1).integers(0, 256, (11, 3, 4), dtype=np.uint8)
LABELS = np.arange(11) % 3


def save(folder, **arrays):
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


def test_one_part_is_split(tmp_path):
    train, test = load(save(tmp_path, images=BYTES, labels=LABELS))
    assert np.array_equal(test.images, BYTES[4:10:5, None].astype(np.float32) / np.float32(255))
    assert test.labels.tolist() == [1, 0]
    assert len(train.images) == 9
    assert train.classes == ["0", "1", "2"]


def test_four_arrays_floats_and_class_names(tmp_path):
    x = np.random.default_rng(2).standard_normal((6, 3, 5, 5))
    train, test = load(
        save(tmp_path, x_train=x, y_train=LABELS[:6], x_test=x[:2], y_test=LABELS[:2], classes=["ant", "bee", "cat"])
    )
    assert np.array_equal(train.images, x.astype(np.float32))
    assert np.array_equal(test.images, x[:2].astype(np.float32))
    assert test.classes == ["ant", "bee", "cat"]


def test_class_names_in_bytes_are_text(tmp_path):
    classes = ["ant", "büne", "cat"]
    train, _ = load(save(tmp_path, images=BYTES, labels=LABELS, classes=np.char.encode(classes, "utf-8")))
    assert train.classes == classes


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": BYTES}, "holds x; expected x_train, y_train, x_test, y_test, or images, labels"),
        ({"images": BYTES.astype(int), "labels": LABELS}, "images is int64; expected uint8"),
        ({"images": BYTES, "labels": LABELS / 2}, "labels is float64 of shape"),
        ({"images": BYTES, "labels": LABELS.astype(str)}, r"those of classes, numbers = numpy\.unique\(labels,"),
        ({"images": BYTES, "labels": (BYTES > 9) * np.uint8(255)}, "labels is 0 and 255 alone.*save labels // 255"),
        (
            {"images": BYTES, "labels": np.where(BYTES > 99, BYTES % 2, 255)},
            "no image of class 2, 3, .*numpy.unique.* numbers those that occur. If 255 are pixels that do not count",
        ),
        ({"images": BYTES, "labels": BYTES % 2, "classes": ["a", "b", "c"]}, "no image of class c; .* image each$"),
        ({"images": BYTES, "labels": LABELS - 1}, "labels runs from -1 to 1; labels count classes from 0"),
        ({"images": BYTES, "labels": LABELS[:10]}, "set.npz"),
        ({"images": BYTES, "labels": LABELS * 2}, "no image of class 1, 3;"),
        ({"images": BYTES[:, 0], "labels": LABELS}, r"has shape \(11, 4\); expected \(N, H, W\)"),
        ({"images": np.zeros((11, 1, 4, 4, 4), np.uint8), "labels": LABELS}, "volumes are trained from Python, with"),
        ({"images": np.zeros((11, 8, 8, 3), np.uint8), "labels": LABELS}, r"looks like \(N, H, W, C\).*transpose"),
        ({"images": np.full((11, 2, 2), np.nan), "labels": LABELS}, "hold NaN"),
        ({"images": np.full((11, 2, 2), 1e39), "labels": LABELS}, "values beyond float32"),
        ({"images": np.array([None] * 11), "labels": LABELS}, "allow_pickle"),
        ({"images": BYTES, "labels": LABELS, "classes": ["a", "b"]}, "with 2 classes labels run from 0 to 1"),
    ],
)
def test_refused(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load(save(tmp_path, **arrays))


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_cut_short(tmp_path, keep):
    file = save(tmp_path, images=BYTES, labels=LABELS)
    content = file.read_bytes()
    file.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(DataError, match="set.npz"):
        load(file)


def test_single_array_under_the_wrong_ending(tmp_path):
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, BYTES)
    with pytest.raises(DataError, match="one.npz: not a whole .npz archive"):
        load(tmp_path / "one.npz")
