"""MNIST's IDX files.

Format (Y. LeCun, "The MNIST database of handwritten digits"): two zero bytes, a byte for the type (8: unsigned byte), a
byte for the number of axes, each axis's size as a big-endian uint32, then the values, row-major.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from gpucnn.data.dataset import Dataset
from gpucnn.data.unpacking import refuse_bomb
from gpucnn.errors import DataError
from gpucnn.storage import reading

_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_LIMIT = 1032  # deflate never shrinks further than this, so a larger announcement is a lie


def recognises(folder: Path) -> bool:
    """Whether the folder holds any of MNIST's file names."""
    return any(_find(folder, part, kind) for part in ("train", "t10k") for kind in ("images", "labels"))


def load(folder: Path) -> tuple[Dataset, Dataset]:
    """(train, test) from train-images-idx3-ubyte, train-labels-idx1-ubyte and the two t10k files, gzipped (.gz) or not.

    Values / 255, images (N, 1, H, W); classes "0" to the largest training label. Raises DataError.
    """
    parts = {}
    for part in ("train", "t10k"):
        files = {}
        for kind, axes in (("images", 3), ("labels", 1)):
            file = _find(folder, part, kind)
            if file is None:
                raise DataError(f"{folder}: {part}-{kind}-idx{axes}-ubyte is missing, with or without .gz")
            files[kind] = read(file, axes)
        parts[part] = files
    count = int(parts["train"]["labels"].max(initial=0)) + 1
    classes = [str(label) for label in range(count)]
    train, test = (
        Dataset(
            (files["images"] / np.float32(255))[:, None],  # (N, H, W) -> (N, 1, H, W)
            files["labels"],
            classes,
            f"{folder} ({part})",
        )
        for part, files in parts.items()
    )
    return train, test


def read(file: Path, axes: int) -> np.ndarray:
    """The uint8 array in an IDX file, gzipped or not; `axes` is the number of axes expected. Raises DataError."""
    with reading(file, DataError, "IDX file") as raw:
        zipped = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        try:
            with gzip.GzipFile(fileobj=raw) if zipped else raw as stream:
                return _parse(stream, file, axes, zipped)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{file}: the gzip data is damaged or cut short ({error}); fetch the file again") from error


def _parse(stream, file: Path, axes: int, zipped: bool) -> np.ndarray:
    header = stream.read(4 + 4 * axes)
    magic = bytes((0, 0, 8, axes))
    if header[:4] != magic:
        raise DataError(
            f"{file}: starts with {header[:4].hex(' ') or 'nothing'}; an IDX file of bytes with {axes} "
            f"{'axis' if axes == 1 else 'axes'} starts with {magic.hex(' ')}"
        )
    if len(header) < 4 + 4 * axes:
        raise DataError(f"{file}: cut short within its header; fetch the file again")
    shape = struct.unpack(f">{axes}I", header[4:])
    size = math.prod(shape)
    packed = file.stat().st_size
    room = packed * (_DEFLATE_LIMIT if zipped else 1)
    if zipped and size <= room:
        refuse_bomb(file, packed, size)
    values = stream.read(size + 1) if size <= room else b""
    if len(values) != size:
        found = "holds more" if len(values) > size else "is cut short"
        raise DataError(f"{file}: its header announces {shape} = {size} values, but the file {found}")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _find(folder: Path, part: str, kind: str) -> Path | None:
    axes = 3 if kind == "images" else 1
    for name in (f"{part}-{kind}-idx{axes}-ubyte", f"{part}-{kind}.idx{axes}-ubyte"):
        for ending in ("", ".gz"):
            if (folder / (name + ending)).is_file():
                return folder / (name + ending)
    return None
