"""Folders of NumPy's `.npy` files, whose images stay there: they may be larger than the memory."""

from pathlib import Path

import numpy as np

from gpucnn.data.array_file import FileArray, open_array
from gpucnn.data.dataset import Dataset, every_fifth
from gpucnn.data.layout import WHOLE, class_names, label_numbers, layout, names_of
from gpucnn.data.mapped import Mapped
from gpucnn.errors import DataError
from gpucnn.storage import decoding


def recognises(folder: Path) -> bool:
    """Whether the folder holds images in a .npy file."""
    return any((folder / name).is_file() for name in ("images.npy", "x_train.npy"))


def load(folder: Path) -> tuple[Dataset, Dataset]:
    """(train, test) from x_train.npy, y_train.npy, x_test.npy, y_test.npy; or images.npy, labels.npy.

    Arrays as in an `.npz` file (see `npz.load`), images in uint8 or float32; classes.npy may name the classes. Images
    stay on the disk and are read batch by batch. Raises DataError.
    """
    keys = names_of([file.stem for file in folder.glob("*.npy")], folder, ".npy")
    images = [_images(folder / f"{key}.npy") for key in keys[::2]]
    labels = [label_numbers(_read(folder / f"{key}.npy"), f"{folder / key}.npy") for key in keys[1::2]]
    named = folder / "classes.npy"
    classes = class_names(_read(named) if named.is_file() else None, labels[0])
    if keys == WHOLE:
        return every_fifth(images[0], labels[0], classes, str(folder))
    train, test = (
        Dataset(x, y, classes, f"{folder} ({part})")
        for x, y, part in zip(images, labels, ("training part", "test part"), strict=True)
    )
    return train, test


def _images(file: Path) -> Mapped:
    with decoding(file, DataError, ".npy file"):
        array = FileArray(file)
    if array.dtype not in (np.uint8, np.float32):
        raise DataError(
            f"{file} is {array.dtype}; images that stay in their file are uint8 (0 to 255) or float32: save them again "
            "in one of these"
        )
    if array.size == 0:
        raise DataError(f"{file} has shape {array.shape}: it holds no image")
    array.shape = layout(array.shape, str(file))
    array.ndim = len(array.shape)
    return Mapped(array, scale=array.dtype == np.uint8)


def _read(file: Path) -> np.ndarray:
    with decoding(file, DataError, ".npy file"):
        stream, header = open_array(file)
        with stream:
            return header.arrange(stream.read())
