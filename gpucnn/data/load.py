"""From a name or a path to training and test images."""

from pathlib import Path

import numpy as np

from gpucnn.data import folders, idx, npz
from gpucnn.data.dataset import Dataset, every_fifth, require_every_class
from gpucnn.errors import DataError


def load(name_or_path: str | Path) -> tuple[Dataset, Dataset]:
    """(train, test) of `"digits"`, an MNIST folder, an `.npz` file or a folder of images.

    - `"digits"`: scikit-learn's 1,797 handwritten digits, built in. Light ink on a dark ground, (1, 32, 32), 0 to 1;
      image i is a test image where i % 5 == 4.
    - a folder with MNIST's four IDX files, gzipped or not (Fashion-MNIST and others of that form too): see `idx.load`;
    - an `.npz` file: see `npz.load`;
    - a folder with a folder of PNG or JPEG images for each class: see `folders.load`.

    Every class must have a training image. Raises DataError with the file and the reason.
    """
    train, test = _load(name_or_path)
    require_every_class(train)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{name_or_path}: training images are {train.images.shape[1:]}, test images {test.images.shape[1:]} "
            "(C, H, W); they must agree"
        )
    return train, test


def _load(name_or_path: str | Path) -> tuple[Dataset, Dataset]:
    if name_or_path == "digits":
        return digits()
    path = Path(name_or_path)
    try:
        if path.is_dir():
            return idx.load(path) if idx.recognises(path) else folders.load(path)
        if path.is_file() and path.suffix.lower() == ".npz":
            return npz.load(path)
        exists = path.exists()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    what = "is not a data set that gpucnn can read"
    if not exists:
        what = "is neither a built-in data set nor a path that exists"
    raise DataError(
        f"{name_or_path!s} {what}; give 'digits', a folder with MNIST's files, an .npz file, "
        "or a folder with a folder of images for each class"
    )


def digits() -> tuple[Dataset, Dataset]:
    """scikit-learn's handwritten digits, each 8x8 pixel repeated 4x4 times to (1, 32, 32), values / 16."""
    from sklearn.datasets import load_digits  # takes a second to import

    source = load_digits()
    pixels = (source.images / 16).astype(np.float32)  # whole numbers 0 to 16: exact
    images = pixels.repeat(4, axis=1).repeat(4, axis=2)[:, None]  # (N, 8, 8) -> (N, 1, 32, 32)
    return every_fifth(images, source.target, [str(name) for name in source.target_names], "digits")
