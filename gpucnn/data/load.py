"""From a name or a path to training and test images."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from gpucnn.arguments import path as checked_path
from gpucnn.data import cifar, folders, idx, npy, npz, tables
from gpucnn.data.dataset import Dataset, every_fifth, require_every_class
from gpucnn.data.known import KNOWN, KnownSet, home, is_here
from gpucnn.data.parts import SUFFIX, with_parts
from gpucnn.data.shapes import shapes
from gpucnn.errors import DataError
from gpucnn.storage import as_path, decoding


def load(name_or_path: str | Path) -> tuple[Dataset, Dataset]:
    """(train, test) of a set by its name, or of files that are there.

    - `"digits"`: scikit-learn's 1,797 handwritten digits, built in. Light ink on a dark ground, (1, 32, 32), 0 to 1;
      image i is a test image where i % 5 == 4.
    - `"shapes"`: 1,000 generated images with a class for each pixel, built in: see `shapes.shapes`;
    - `"mnist"`, `"fashion-mnist"`, `"cifar-10"`, `"cifar-100"`: as `fetch` (`gpucnn data fetch NAME`) has brought them.
      A name always means the known set; a folder of that name is given as `"./mnist"` or as a Path;
    - a folder with MNIST's four IDX files, gzipped or not (Fashion-MNIST and others of that form too): see `idx.load`;
    - a folder with CIFAR's binary files, or the archive that holds them, .tar.gz: see `cifar.load`;
    - a folder with images.npy and labels.npy, which are mapped and may be larger than the memory: see `npy.load`;
    - an `.npz` file: see `npz.load`;
    - a `.csv`, `.csv.gz` or `.parquet` file with a label column: see `tables.load`;
    - any of these with "+parts" at its end, such as `"digits+parts"`: windows of pages of its images, with a class for
      what shows none of them as a whole, see `with_parts`;
    - a folder with a folder of images for each class: see `folders.load`.

    Every class must have a training image. Raises DataError with the file and the reason.
    """
    train, test = _load(checked_path("name_or_path", name_or_path))
    require_every_class(train)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{name_or_path}: training images are {train.images.shape[1:]}, test images {test.images.shape[1:]} "
            "(C, H, W); they must agree"
        )
    return train, test


def _load(name_or_path: str | Path) -> tuple[Dataset, Dataset]:
    if str(name_or_path).endswith(SUFFIX):
        whole = base(name_or_path)
        train, test = _load(whole if isinstance(name_or_path, str) else Path(whole))
        return with_parts(train), with_parts(test)
    path = as_path(name_or_path)
    if name_or_path == "digits":
        return digits()
    if name_or_path == "shapes":
        return shapes()
    if isinstance(name_or_path, str) and name_or_path in KNOWN:  # a Path has lost the ./ before it
        return _fetched(KNOWN[name_or_path])
    with decoding(path, DataError, "data set"):
        if path.is_dir():
            return next((kind for kind in (idx, cifar, npy) if kind.recognises(path)), folders).load(path)
        if path.is_file() and cifar.recognises(path):
            return cifar.load(path)
        if path.is_file() and path.suffix.lower() == ".npz":
            return npz.load(path)
        if path.is_file() and tables.recognises(path):
            return tables.load(path)
        exists = path.exists()
    what = "is not a data set that gpucnn can read"
    if not exists:
        what = "is neither a built-in data set nor a path that exists"
    raise DataError(
        f"{name_or_path!s} {what}; give 'digits', 'shapes', {', '.join(KNOWN)}, a folder with MNIST's, CIFAR's or .npy "
        "files, a .tar.gz of CIFAR, an .npz, .csv or .parquet file, or a folder with a folder of images for each class"
    )


def base(name_or_path: str | Path) -> str:
    """The set whose images `name_or_path` shows: the same without "+parts"."""
    return str(name_or_path).removesuffix(SUFFIX)


def path_of(name_or_path: str) -> str | None:
    """The path that it is, without "+parts"; None for a name."""
    return None if (found := base(name_or_path)) in ("digits", "shapes", *KNOWN) else found


def _fetched(known: KnownSet) -> tuple[Dataset, Dataset]:
    folder = home() / known.name
    if not is_here(known):
        raise DataError(
            f"{known.name} is not here yet: fetch it with `gpucnn data fetch {known.name}` ({known.size / 1e6:,.0f} MB "
            f"into {folder}); a folder of your own of that name is ./{known.name}"
        )
    train, test = _load(folder)
    if known.classes:
        train, test = (replace(part, classes=list(known.classes)) for part in (train, test))
    return train, test


def digits() -> tuple[Dataset, Dataset]:
    """scikit-learn's handwritten digits, each 8x8 pixel repeated 4x4 times to (1, 32, 32), values / 16."""
    from sklearn.datasets import load_digits  # takes a second to import

    source = load_digits()
    pixels = (source.images / 16).astype(np.float32)  # whole numbers 0 to 16: exact
    images = pixels.repeat(4, axis=1).repeat(4, axis=2)[:, None]  # (N, 8, 8) -> (N, 1, 32, 32)
    return every_fifth(images, source.target, [str(name) for name in source.target_names], "digits")
