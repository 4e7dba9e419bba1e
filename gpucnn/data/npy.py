"""Folders of NumPy's `.npy` files, whose images are mapped: they may be larger than the memory."""

from pathlib import Path

import numpy as np

from gpucnn.data.dataset import Dataset, every_fifth
from gpucnn.data.layout import WHOLE, check_layout, class_names, label_numbers, names_of
from gpucnn.data.mapped import Mapped
from gpucnn.errors import DataError


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
    array = _read(file, mapped=True)
    if array.dtype not in (np.uint8, np.float32):
        raise DataError(
            f"{file} is {array.dtype}; images that are mapped are uint8 (0 to 255) or float32: save them again in one "
            "of these"
        )
    if array.size == 0:
        raise DataError(f"{file} has shape {array.shape}: it holds no image")
    return Mapped(check_layout(array, str(file)), scale=array.dtype == np.uint8)


def _read(file: Path, mapped: bool = False) -> np.ndarray:
    try:
        size = file.stat().st_size
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if array.offset + array.nbytes != size:
            raise DataError(f"{file}: {size:,} bytes, but its header announces {array.offset + array.nbytes:,}")
        return array if mapped else np.array(array)
    except (ValueError, EOFError, AttributeError) as error:  # AttributeError: an archive under the wrong ending
        if isinstance(error, DataError):
            raise
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{file}: cut short, or no plain array in NumPy's .npy format ({reason})") from error
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
