"""NumPy's `.npz` archives; nothing is unpickled."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from gpucnn.backends.memory import host_memory
from gpucnn.data.dataset import Dataset, every_fifth
from gpucnn.data.layout import SPLIT, WHOLE, check_layout, class_names, label_numbers, names_of
from gpucnn.data.unpacking import refuse_bomb
from gpucnn.errors import DataError


def load(file: Path) -> tuple[Dataset, Dataset]:
    """(train, test) from the arrays x_train, y_train, x_test, y_test; or images, labels with every fifth for testing.

    Images (N, H, W) or (N, C, H, W): bytes become value / 255, floats are taken as they are, in float32. Labels (N,)
    integers. An optional `classes` array of strings names the classes. Raises DataError.

    All of it is read into memory: what an archive holds is packed, or not aligned, and cannot be mapped. For more than
    the memory holds save .npy files (see `npy.load`).
    """
    arrays = _read(file)
    keys = names_of(arrays, file)
    images = [_images(arrays[key], f"{file}: {key}") for key in keys[::2]]
    labels = [label_numbers(arrays[key], f"{file}: {key}") for key in keys[1::2]]
    classes = class_names(arrays.get("classes"), labels[0])
    if keys == WHOLE:
        return every_fifth(images[0], labels[0], classes, str(file))
    train, test = (
        Dataset(x, y, classes, f"{file} ({part})")
        for x, y, part in zip(images, labels, ("training part", "test part"), strict=True)
    )
    return train, test


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        with file.open("rb") as raw:
            if raw.read(6) == b"\x93NUMPY":
                raise DataError(f"{file}: not a whole .npz archive but a single .npy array")
        with zipfile.ZipFile(file) as archive:
            _refuse_sizes(archive, file)
        with np.load(file, allow_pickle=False) as archive:
            wanted = (*SPLIT, *WHOLE, "classes")
            return {key: archive[key] if key in wanted else np.empty(0) for key in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: not a whole .npz archive of plain arrays ({_first_line(error)})") from error
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error


def _refuse_sizes(archive: zipfile.ZipFile, file: Path) -> None:
    """Raise DataError before anything is unpacked that is a bomb, does not fit, or is not what its header announces."""
    total = 0
    for member in archive.infolist():
        refuse_bomb(f"{file}: {member.filename}", member.compress_size, member.file_size)
        total += member.file_size
    if host_memory() and total > host_memory():
        raise DataError(
            f"{file}: its arrays take {total / 2**30:.1f} GiB, more than this machine's memory of "
            f"{host_memory() / 2**30:.1f} GiB; save them as .npy files in a folder, which are mapped"
        )
    for member in archive.infolist():
        if not member.filename.endswith(".npy"):
            continue
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            announced = stream.tell() + math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and announced != member.file_size:
            raise DataError(
                f"{file}: {member.filename} announces {shape} of {dtype}, {announced:,} bytes with its header, but "
                f"holds {member.file_size:,}"
            )


def _images(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        array = array / np.float32(255)
    elif array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, which Dataset refuses
            array = array.astype(np.float32)
    else:
        raise DataError(f"{name} is {array.dtype}; expected uint8 (0 to 255) or floats")
    return check_layout(array, name)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
