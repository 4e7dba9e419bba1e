"""MNIST's files: written here byte by byte, read back, and refused when damaged."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from gpucnn.data import load
from gpucnn.errors import DataError

NAMES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("t10k", "images"): "t10k-images-idx3-ubyte",
    ("t10k", "labels"): "t10k-labels-idx1-ubyte",
}


def encode(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def arrays() -> dict:
    random = np.random.default_rng(0)
    return {
        ("train", "images"): random.integers(0, 256, (7, 5, 4)),
        ("train", "labels"): np.array([0, 1, 2, 0, 1, 2, 2]),
        ("t10k", "images"): random.integers(0, 256, (3, 5, 4)),
        ("t10k", "labels"): np.array([2, 2, 0]),
    }


@pytest.fixture
def mnist(tmp_path):
    for key, array in arrays().items():
        (tmp_path / NAMES[key]).write_bytes(encode(array))
    return tmp_path


def check(folder):
    train, test = load(folder)
    for dataset, part in ((train, "train"), (test, "t10k")):
        expected = (arrays()[part, "images"].astype(np.float32) / np.float32(255))[:, None]
        assert np.array_equal(dataset.images, expected)
        assert dataset.labels.tolist() == arrays()[part, "labels"].tolist()
        assert dataset.classes == ["0", "1", "2"]


def test_plain(mnist):
    check(mnist)


def test_gzip(mnist):
    for name in NAMES.values():
        (mnist / f"{name}.gz").write_bytes(gzip.compress((mnist / name).read_bytes()))
        (mnist / name).unlink()
    check(mnist)


def test_other_spelling_and_packed_under_a_plain_name(mnist):
    (mnist / NAMES["train", "images"]).rename(mnist / "train-images.idx3-ubyte")
    labels = mnist / NAMES["train", "labels"]
    labels.write_bytes(gzip.compress(labels.read_bytes()))
    check(mnist)


def test_missing_file_is_named(mnist):
    (mnist / NAMES["t10k", "labels"]).unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is missing"):
        load(mnist)


def damaged(data: bytes):
    header = struct.pack(">BBBBIII", 0, 0, 8, 3, 7, 5, 4)
    yield "empty", b"", "starts with nothing"
    yield "labels' magic", b"\0\0\x08\x01" + data[4:], "starts with 00 00 08 01; .* 3 axes starts with 00 00 08 03"
    yield "floats", b"\0\0\x0d\x03" + data[4:], "starts with 00 00 0d 03"
    yield "short header", data[:9], "cut short within its header"
    yield "short data", data[:-1], r"announces \(7, 5, 4\) = 140 values, but the file is cut short"
    yield "long data", data + b"\0", "announces .* 140 values, but the file holds more"
    yield "huge sizes", header[:4] + b"\xff" * 12 + data[16:], "but the file is cut short"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", range(7))
def test_damaged_images(mnist, case, packed):
    file = mnist / NAMES["train", "images"]
    _, content, message = list(damaged(file.read_bytes()))[case]
    file.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=message) as error:
        load(mnist)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("cut", [3, 12, 40, -1, -8])
def test_gzip_cut_short(mnist, cut):
    file = mnist / NAMES["train", "images"]
    file.write_bytes(gzip.compress(file.read_bytes())[:cut])
    with pytest.raises(DataError, match="damaged or cut short"):
        load(mnist)


def test_gzip_with_a_flipped_bit(mnist):
    file = mnist / NAMES["train", "images"]
    content = bytearray(gzip.compress(file.read_bytes()))
    content[len(content) // 2] ^= 8
    file.write_bytes(content)
    with pytest.raises(DataError, match="train-images"):
        load(mnist)


def test_counts_that_disagree(mnist):
    (mnist / NAMES["train", "labels"]).write_bytes(encode(np.array([0, 1, 2])))
    with pytest.raises(DataError, match=r"7 images, but labels of shape \(3,\)"):
        load(mnist)


def test_image_sizes_that_disagree(mnist):
    (mnist / NAMES["t10k", "images"]).write_bytes(encode(np.zeros((3, 5, 5))))
    with pytest.raises(DataError, match=r"training images are \(1, 5, 4\), test images \(1, 5, 5\)"):
        load(mnist)


def test_test_label_that_training_never_saw(mnist):
    (mnist / NAMES["t10k", "labels"]).write_bytes(encode(np.array([2, 3, 0])))
    with pytest.raises(DataError, match="label of image 1 is 3; with 3 classes labels run from 0 to 2"):
        load(mnist)


def test_missing_class(mnist):
    (mnist / NAMES["train", "labels"]).write_bytes(encode(np.array([0, 2, 2, 0, 0, 2, 2])))
    with pytest.raises(DataError, match="no image of class 1"):
        load(mnist)


def test_a_path_is_no_name(mnist, monkeypatch):
    """Path("./mnist") is Path("mnist"), which loaded the known set in place of the folder."""
    monkeypatch.chdir(mnist)
    for folder in ("mnist", "digits", "shapes"):
        (mnist / folder).mkdir()
        for file in mnist.glob("*ubyte*"):
            (mnist / folder / file.name).write_bytes(file.read_bytes())
        for name, count in ((folder, 1), (f"{folder}+parts", 4)):
            train, _ = load(Path(".") / name)
            assert train.name.startswith(f"{folder} (train)")
            assert len(train.images) == count * len(load(mnist)[0].images)
