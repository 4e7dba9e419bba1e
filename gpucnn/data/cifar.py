"""CIFAR-10 and CIFAR-100 in the binary version, from a folder or from the published .tar.gz; nothing is unpickled.

Format (A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009, and the data set's page): records
without anything between them. CIFAR-10: a byte for the class, then 3,072 bytes of pixels: red, green, blue, each 32x32,
row-major. CIFAR-100: a byte for the superclass, one for the class, then the pixels.
"""

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpucnn.data.dataset import Dataset
from gpucnn.data.unpacking import Unpacked
from gpucnn.errors import DataError
from gpucnn.storage import decoding, reading

_PIXELS = 3 * 32 * 32
_TEXT_LIMIT = 1 << 16  # bytes of class names
_DATA_LIMIT = 1 << 30  # bytes of a data file; CIFAR's largest has 154 million


@dataclass(frozen=True)
class _Kind:
    """The files of one of the two: training, test, class names; `labels` is the number of label bytes a record."""

    name: str
    train: tuple[str, ...]
    test: str
    names: tuple[str, ...]
    classes: tuple[int, ...]

    @property
    def labels(self) -> int:
        return len(self.names)

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, *self.names)


_KINDS = (
    _Kind(
        "CIFAR-10", tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", ("batches.meta.txt",), (10,)
    ),
    _Kind("CIFAR-100", ("train.bin",), "test.bin", ("coarse_label_names.txt", "fine_label_names.txt"), (20, 100)),
)
_FOLDERS = ("cifar-10-batches-bin", "cifar-100-binary")  # as the archives unpack
_ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-100-binary.tar.gz")


def recognises(path: Path) -> bool:
    """Whether the path is a .tar.gz, or a folder with CIFAR's files, its archive, or the folder in that."""
    if path.is_dir():
        return _source(path) is not None
    return path.name.lower().endswith((".tar.gz", ".tgz"))


def load(path: Path, coarse: bool = False) -> tuple[Dataset, Dataset]:
    """(train, test) from a folder or an archive; images (N, 3, 32, 32), values / 255; the classes' own names.

    Of CIFAR-100 the 100 classes, or with `coarse` the 20 superclasses. Raises DataError.
    """
    with decoding(path, DataError, "data of CIFAR"):
        files = _from_folder(path) if path.is_dir() else _from_archive(path)
    kind = next((kind for kind in _KINDS if kind.test in files), None)
    if kind is None:
        raise DataError(
            f"{path}: holds none of CIFAR's binary files ({_KINDS[0].test}, {_KINDS[1].test}); fetch the binary "
            "version, not the Python or Matlab one"
        )
    missing = [name for name in kind.files if name not in files]
    if missing:
        raise DataError(f"{path}: {', '.join(missing)} of {kind.name} is missing")
    which = 0 if coarse else kind.labels - 1
    names = [
        _names(files[name], f"{path}: {name}", count) for name, count in zip(kind.names, kind.classes, strict=True)
    ]
    parts = []
    for part, members in (("train", kind.train), ("test", (kind.test,))):
        records = [_records(files[name], f"{path}: {name}", kind) for name in members]
        labels = np.concatenate([labels[:, which] for labels, _ in records]).astype(np.int64)
        pixels = np.concatenate([pixels for _, pixels in records])
        images = np.empty((len(pixels), 3, 32, 32), np.float32)
        np.divide(pixels.reshape(images.shape), np.float32(255), out=images)
        parts.append(Dataset(images, labels, names[which], f"{path} ({part})"))
    train, test = parts
    return train, test


def _records(data: bytes, name: str, kind: _Kind) -> tuple[np.ndarray, np.ndarray]:
    """(labels (N, labels a record), pixels (N, 3072)) of one file's bytes."""
    size = kind.labels + _PIXELS
    if not data or len(data) % size:
        raise DataError(
            f"{name}: {len(data):,} bytes; a {kind.name} record has {size:,}, so it is cut short or of another format; "
            "fetch it again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    labels = records[:, : kind.labels]
    for column, count in enumerate(kind.classes):
        wrong = np.flatnonzero(labels[:, column] >= count)
        if wrong.size:
            raise DataError(
                f"{name}: label {column + 1} of record {wrong[0]} is {labels[wrong[0], column]}; {kind.name}'s run "
                f"from 0 to {count - 1}, so the file is damaged or of another format"
            )
    return labels, records[:, kind.labels :]


def _names(data: bytes, name: str, count: int) -> list[str]:
    """The class names, one a line; empty lines at the end do not count."""
    try:
        names = [line.strip() for line in data.decode("ascii").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{name}: is no plain text with a class name a line") from None
    if len(names) != count or len(set(names)) != count:
        raise DataError(f"{name}: {len(set(names))} different names in {len(names)} lines; expected {count}")
    return names


def _source(folder: Path) -> Path | None:
    """The folder itself, the folder inside or the archive inside that holds the data."""
    for kind in _KINDS:
        if any((folder / name).is_file() for name in (*kind.train, kind.test)):
            return folder
    inside = [folder / name for name in _FOLDERS if (folder / name).is_dir()]
    inside += [folder / name for name in _ARCHIVES if (folder / name).is_file()]
    return inside[0] if inside else None


def _from_folder(folder: Path) -> dict[str, bytes]:
    source = _source(folder) or folder
    if source.is_file():
        return _from_archive(source)
    wanted = {name for kind in _KINDS for name in kind.files}
    files = {}
    for file in source.iterdir():
        if file.name in wanted:
            with reading(file, DataError, "file of CIFAR") as raw:
                _refuse_too_large(file, file.name, os.fstat(raw.fileno()).st_size)
                files[file.name] = raw.read()
    return files


def _from_archive(file: Path) -> dict[str, bytes]:
    """The archive's members by name, without their folders. Only those that are CIFAR's are kept, none is written."""
    wanted = {name for kind in _KINDS for name in kind.files}
    files = {}
    with (
        reading(file, DataError, "whole .tar.gz archive") as raw,
        tarfile.open(  # type: ignore[call-overload]  # a stream is only read: Unpacked needs no seek and no write
            fileobj=Unpacked(file, raw), mode="r|", bufsize=1 << 16
        ) as archive,
    ):
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name not in wanted or not member.isreg():
                continue
            if name in files:
                raise DataError(f"{file}: holds {name} twice")
            if member.issparse():  # holes are zeros that no byte of the archive stands for
                raise DataError(f"{file}: {name} has holes; fetch it again")
            _refuse_too_large(file, name, member.size)
            data = archive.extractfile(member).read()
            if len(data) != member.size:
                raise DataError(f"{file}: is cut short within {name}; fetch it again")
            files[name] = data
    return files


def _refuse_too_large(file: Path, name: str, size: int) -> None:
    if size > (_TEXT_LIMIT if name.endswith(".txt") else _DATA_LIMIT):
        raise DataError(f"{file}: {name} has {size:,} bytes, far more than CIFAR's; it is refused")
