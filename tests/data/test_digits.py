"""The built-in digits are what the README promises: real, enlarged without change, split by i % 5."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gpucnn.data import load
from gpucnn.errors import DataError


def test_digits():
    train, test = load("digits")
    assert train.images.shape == (1438, 1, 32, 32)
    assert test.images.shape == (359, 1, 32, 32)
    assert train.classes == test.classes == list("0123456789")
    source = load_digits()
    for image in (0, 3, 4, 5, 9, 1794, 1796):
        part, position = (test, image // 5) if image % 5 == 4 else (train, image - image // 5)
        enlarged = np.empty((32, 32), np.float32)
        for row in range(32):
            for column in range(32):
                enlarged[row, column] = source.images[image][row // 4, column // 4] / 16
        assert np.array_equal(part.images[position, 0], enlarged)
        assert part.labels[position] == source.target[image]


def test_unknown_name_lists_what_there_is():
    with pytest.raises(DataError, match="mnits is neither a built-in data set nor a path that exists; give 'digits'"):
        load("mnits")


def test_file_of_another_kind(tmp_path):
    (tmp_path / "data.tsv").write_text("1,2")
    with pytest.raises(DataError, match="data.tsv is not a data set that gpucnn can read"):
        load(tmp_path / "data.tsv")
