"""Images that stay on the disk: what they give when they are read, and each way a .npy file is wrong."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucnn import Trainer
from gpucnn.data import Dataset, Mapped, load
from gpucnn.errors import DataError, DTypeError
from gpucnn.models import mlp

BYTES = np.random.default_rng(1).integers(0, 256, (11, 3, 4), dtype=np.uint8)
FLOATS = np.random.default_rng(2).standard_normal((6, 2, 5, 5)).astype(np.float32)
LABELS = np.arange(11) % 3
SCALED = BYTES[:, None].astype(np.float32) / np.float32(255)


def save(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_bytes_are_split_and_scaled_as_in_an_archive(tmp_path):
    train, test = load(save(tmp_path, images=BYTES, labels=LABELS))
    assert isinstance(train.images, Mapped) and isinstance(test.images, Mapped)
    assert train.images.shape == (9, 1, 3, 4) and train.images.dtype == np.float32
    np.savez(tmp_path / "same.npz", images=BYTES, labels=LABELS)
    for mapped, whole in zip((train, test), load(tmp_path / "same.npz"), strict=True):
        assert np.array_equal(np.asarray(mapped.images), whole.images)
        assert np.array_equal(mapped.labels, whole.labels) and mapped.classes == whole.classes


def test_floats_in_four_files_with_class_names(tmp_path):
    train, test = load(
        save(
            tmp_path, x_train=FLOATS, y_train=LABELS[:6], x_test=FLOATS[:2], y_test=LABELS[:2], classes=["a", "b", "c"]
        )
    )
    assert np.array_equal(np.asarray(train.images), FLOATS) and np.array_equal(np.asarray(test.images), FLOATS[:2])
    assert train.classes == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": BYTES}, "holds images.npy; expected x_train.npy, .*, or images.npy, labels.npy"),
        ({"images": BYTES.astype(int), "labels": LABELS}, "images.npy is int64; .* uint8 .* or float32"),
        ({"images": FLOATS.astype(">f4"), "labels": LABELS[:6]}, "images.npy is >f4"),
        ({"images": BYTES, "labels": LABELS / 2}, "labels.npy is float64 of shape"),
        ({"images": BYTES, "labels": LABELS[:10]}, "11 images, but 10 labels"),
        ({"images": BYTES, "labels": LABELS * 2}, "no image of class 1, 3;"),
        ({"images": BYTES[:, 0], "labels": LABELS}, r"has shape \(11, 4\)"),
        ({"images": np.zeros((11, 8, 8, 3), np.uint8), "labels": LABELS}, r"looks like \(N, H, W, C\)"),
        ({"images": BYTES[:0], "labels": LABELS[:0]}, "holds no image"),
        ({"images": np.array([None] * 11), "labels": LABELS}, "no plain array"),
        ({"images": BYTES, "labels": LABELS, "classes": ["a", "b"]}, "with 2 classes labels run from 0 to 1"),
    ],
)
def test_refused(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load(save(tmp_path, **arrays))


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_float_that_is_not_finite(tmp_path, value):
    floats = FLOATS.copy()
    floats[3, 1, 2, 2] = value
    with pytest.raises(DataError, match=r"training part\): image 3 holds NaN or infinity"):
        load(save(tmp_path, images=floats, labels=LABELS[:6]))


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data[:60], lambda data: b"", lambda data: data + b"x"]
)
@pytest.mark.parametrize("name", ["images", "labels"])
def test_sizes_that_disagree(tmp_path, name, change):
    save(tmp_path, images=BYTES, labels=LABELS)
    file = tmp_path / f"{name}.npy"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError, match=f"{name}.npy: (cut short|.* bytes, but its header announces)"):
        load(tmp_path)


def test_an_archive_under_the_wrong_ending(tmp_path):
    save(tmp_path, labels=LABELS)
    with (tmp_path / "images.npy").open("wb") as file:
        np.savez(file, images=BYTES)
    with pytest.raises(DataError, match="images.npy: cut short, or no plain array"):
        load(tmp_path)


keys = st.one_of(
    st.integers(-11, 10),
    st.slices(11),
    st.lists(st.integers(-11, 10), max_size=20).map(lambda numbers: np.array(numbers, np.int64)),
    st.lists(st.booleans(), min_size=11, max_size=11).map(np.array),
)


@given(keys, keys)
def test_it_reads_as_an_array_does(key, further):
    mapped = Mapped(BYTES[:, None], scale=True)
    assert np.array_equal(mapped[key], SCALED[key])
    if not isinstance(key, int):
        part, expected = mapped.select(key), SCALED[key]
        assert len(part) == len(expected) and part.shape == expected.shape
        if isinstance(further, slice):
            assert np.array_equal(part[further], expected[further])
            assert np.array_equal(np.asarray(part.select(further)), expected[further])


@pytest.mark.parametrize(
    "key",
    [
        ...,
        None,
        (),
        (..., slice(None, None, 2), slice(1, None)),
        (None, slice(2, 5)),
        (slice(2, 5), 0, ..., -1),
        (slice(2, 5), slice(None), [0, 2], [1, 3]),
        (3, 0, [0, 2], [1, 3]),
        (np.array(3), 0),
        (np.array([1, 4]), 0, [0, 2], [1, 3]),
        ([8, 1], slice(None), 1),
        (LABELS == 1, 0, slice(1, None)),
    ],
)
def test_several_indices_mean_what_they_mean_of_an_array(key):
    """`images[..., ::2, ::2]` gave every second channel and row, and two lists all pairs of theirs."""
    assert np.array_equal(Mapped(BYTES[:, None], scale=True)[key], SCALED[key])


def test_further_axes_and_parts(monkeypatch):
    import gpucnn.data.mapped as module

    mapped = Mapped(BYTES[:, None], scale=True)
    assert np.array_equal(mapped[2:5, 0, 1], SCALED[2:5, 0, 1]) and np.array_equal(mapped[3, 0], SCALED[3, 0])
    monkeypatch.setattr(module, "_PART", 3 * 4 * 4 * 5)  # room for five images: four is the power of two
    assert [(start, len(part)) for start, part in mapped.parts()] == [(0, 4), (4, 4), (8, 3)]
    digest, bad = mapped.survey()
    assert digest.hexdigest() == hashlib.sha256(SCALED).hexdigest() and bad is None
    floats = FLOATS.copy()
    floats[5, 0, 0, 0] = np.inf
    assert Mapped(floats).survey()[1] == 5


def test_types_that_do_not_fit_are_not_advised_to_be_read_as_a_whole(tmp_path):
    save(tmp_path, images=FLOATS.astype(np.float64))
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    words = "^images are float64; those that stay in a file must be float32 in it$"
    with pytest.raises(DTypeError, match=words):
        Trainer(mlp((2, 5, 5), 3, hidden=[2]), progress=False).fit(images, LABELS[:6], 1)


def test_a_dataset_keeps_it_mapped():
    mapped = Mapped(BYTES[:, None], scale=True)
    dataset = Dataset(mapped, LABELS, ["a", "b", "c"], "mine")
    assert dataset.images is mapped
    with pytest.raises(DataError, match="images are uint8; expected float32"):
        Dataset(Mapped(BYTES[:, None]), LABELS, ["a", "b", "c"], "mine")
