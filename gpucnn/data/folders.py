"""Folders of images, one folder a class."""

import os
from pathlib import Path

import numpy as np

from gpucnn.data.dataset import Dataset, every_fifth, some
from gpucnn.data.images import ENDINGS, KINDS, image_files, is_grey, open_image, pixels
from gpucnn.errors import DataError


def load(folder: Path) -> tuple[Dataset, Dataset]:
    """(train, test) from `train/<class>/*.png` and `test/<class>/*.png`, or from `<class>/*.png`.

    Without train and test folders the images are counted through, class by class in the order of their names, and
    every fifth is a test image. PNG, JPEG, WebP, BMP, TIFF and GIF; every image must have the same size. If all are
    grey, (N, 1, H, W), else all become RGB, (N, 3, H, W); values / 255. Classes in alphabetical order. Raises
    DataError.
    """
    if (folder / "train").is_dir() or (folder / "test").is_dir():
        _require_classes(folder / "train", folder / "test")
        train, test = (_classes(folder / part) for part in ("train", "test"))
        for here, there, where in ((train, test, "train/ but not in test/"), (test, train, "test/ but not in train/")):
            missing = sorted(here.keys() - there.keys())
            if missing:
                raise DataError(f"{folder}: class {some(missing)} is in {where}; both need the same classes")
        listed = [_list(part, folder) for part in (train, test)]
        images = _read([file for files, _ in listed for file in files])
        cut = len(listed[0][0])
        names = list(train)
        return (
            Dataset(images[:cut], listed[0][1], names, f"{folder}/train"),
            Dataset(images[cut:], listed[1][1], names, f"{folder}/test"),
        )
    classes = _classes(folder)
    files, labels = _list(classes, folder)
    return every_fifth(_read(files), labels, list(classes), str(folder))


def _require_classes(train: Path, test: Path) -> None:
    """Raise DataError where one of the two is missing or holds images only, most often those without labels."""
    instead = f"give {train}, of which every fifth image is for testing, or the same classes in both"
    for part, words in ((train, "put the classes to train on there"), (test, instead)):
        if not (part.is_dir() and _folders(part)):
            lack = "holds no folder of images for each class" if part.is_dir() else "is missing"
            raise DataError(f"{part} {lack}; {words}")


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Each class's name and image files, in alphabetical order."""
    found: dict[str, list[Path]] = {}
    for inside in _folders(folder):
        files = image_files(inside)
        for deeper in _folders(inside):
            if image_files(deeper):
                raise DataError(
                    f"{deeper} holds images that would be left out: {inside} is read as a class, whose images lie in "
                    "it and in no folder within; move them (classes may also lie in train/ and test/, in small letters)"
                )
        if not files:
            raise DataError(f"{inside}: holds no {KINDS} image; every class needs some")
        if (name := _name(inside)) in found:
            raise DataError(f"{folder}: two folders stand for a class {name!r}, one by bytes that are no UTF-8")
        found[name] = files
    if found and (loose := [file for file in image_files(folder) if file.suffix.lower() in ENDINGS]):
        raise DataError(
            f"{loose[0]} would be left out, as all images that lie beside the folders of classes: move them into one, "
            "or elsewhere"
        )
    return found


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, without hidden ones, in the order of their names; also without what macOS adds to its
    zip archives, which unpacked elsewhere holds hidden files.
    """
    with os.scandir(folder) as entries:
        return sorted(
            Path(entry) for entry in entries if entry.is_dir() and entry.name[0] != "." and entry.name != "__MACOSX"
        )


def _name(folder: Path) -> str:
    """A folder's name for a class: as UTF-8 whatever the locale, so that a model knows its classes in another one, and
    with bytes that are not written out, so that any file and terminal can hold it.
    """
    return os.fsencode(folder.name).decode("utf-8", "backslashreplace")


def _list(classes: dict[str, list[Path]], folder: Path) -> tuple[list[Path], np.ndarray]:
    """All image files and their labels."""
    if len(classes) < 2:
        raise DataError(
            f"{folder}: {len(classes)} folders inside; expected MNIST's, CIFAR's or .npy files, or a folder of "
            "images for each of at least 2 classes"
        )
    files = [file for found in classes.values() for file in found]
    labels = [label for label, found in enumerate(classes.values()) for _ in found]
    return files, np.array(labels, np.int64)


def _read(files: list[Path]) -> np.ndarray:
    """(N, C, H, W) float32 from files that must have one size."""
    opened = [open_image(file) for file in files]
    size = opened[0].size
    for file, image in zip(files, opened, strict=True):
        if image.size != size:
            raise DataError(
                f"{file} is {image.size[0]}x{image.size[1]} pixels, {files[0]} is {size[0]}x{size[1]}; "
                "training images must have one size, to which docs/recipes.md shows how to bring them"
            )
    channels = 1 if all(is_grey(image) for image in opened) else 3
    images = np.empty((len(files), channels, size[1], size[0]), np.float32)
    for place, image in zip(images, opened, strict=True):
        place[...] = pixels(image, channels)
    return images
