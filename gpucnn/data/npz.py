"""NumPy's `.npz` archives; nothing is unpickled."""

import zipfile
from pathlib import Path

import numpy as np

from gpucnn.backends.memory import host_memory
from gpucnn.data.array_file import Header, read_header
from gpucnn.data.dataset import Dataset, every_fifth
from gpucnn.data.layout import SPLIT, WHOLE, class_names, label_numbers, layout, names_of
from gpucnn.data.unpacking import refuse_bomb
from gpucnn.errors import DataError
from gpucnn.storage import reading


def load(file: Path) -> tuple[Dataset, Dataset]:
    """(train, test) from the arrays x_train, y_train, x_test, y_test; or images, labels with every fifth for testing.

    Images (N, H, W) or (N, C, H, W): bytes become value / 255, floats are taken as they are, in float32. Labels (N,)
    integers. An optional `classes` array of strings names the classes. Raises DataError.

    All of it is read into memory. For more than
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
    """The arrays in an archive by their names, empty ones for those that nobody looks at."""
    with reading(file, DataError, ".npz archive of plain arrays") as raw:
        if raw.read(6) == b"\x93NUMPY":
            raise DataError(f"{file}: not a whole .npz archive but a single .npy array")
        with zipfile.ZipFile(raw) as archive:
            members = {}
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in members:
                    raise DataError(f"{file}: holds {name} twice")
                members[name] = member
            found = [member for name, member in members.items() if name in (*SPLIT, *WHOLE, "classes")]
            _refuse_sizes(found, file)
            headers = {member.filename: _header(archive, member, file) for member in found}
            return {
                name: _array(archive, member, headers[member.filename]) if member in found else np.empty(0)
                for name, member in members.items()
            }


def _refuse_sizes(members: list[zipfile.ZipInfo], file: Path) -> None:
    """Raise DataError before anything is unpacked that is a bomb or does not fit into the memory."""
    total = packed = 0
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{file}: {member.filename} is packed in a way that np.savez does not use")
        refuse_bomb(f"{file}: {member.filename}", member.compress_size, member.file_size)
        total, packed = total + member.file_size, packed + member.compress_size
    if packed > file.stat().st_size:
        raise DataError(f"{file}: its members claim more bytes than the file has")
    if host_memory() and total > host_memory():
        raise DataError(
            f"{file}: its arrays take {total / 2**30:.1f} GiB, more than this machine's memory of "
            f"{host_memory() / 2**30:.1f} GiB; save them as .npy files in a folder, which are read bit by bit"
        )


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> Header:
    with archive.open(member) as stream:
        header = read_header(stream, f"{file}: {member.filename}")
    if header.end != member.file_size:
        raise DataError(
            f"{file}: {member.filename} announces {header.shape} of {header.dtype}, {header.end:,} bytes with its "
            f"header, but holds {member.file_size:,}"
        )
    return header


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, header: Header) -> np.ndarray:
    with archive.open(member) as stream:
        stream.seek(header.offset)
        return header.arrange(stream.read())


def _images(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        array = array / np.float32(255)
    elif array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, which Dataset refuses
            array = array.astype(np.float32)
    else:
        raise DataError(f"{name} is {array.dtype}; expected uint8 (0 to 255) or floats")
    return array.reshape(layout(array.shape, name))
