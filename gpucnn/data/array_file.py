"""NumPy's .npy format: its header, of which nothing is evaluated, and arrays that stay in their file.

Format (numpy.lib.format): "\\x93NUMPY", two bytes for the version, the length of the header in two bytes (version 1) or
four, the header, a Python dictionary as text with descr, fortran_order and shape, then the values.
"""

import math
import os
import re
import threading
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np

from gpucnn.errors import DataError
from gpucnn.storage import open_regular

_LIMIT = 1 << 16  # bytes of a header; NumPy's own have 118
_PAIR = r"""\s*+['"](\w+)['"]\s*+:\s*+(True|False|'[^']*+'|"[^"]*+"|\([\d\s,]*+\))\s*+"""
_HEADER = re.compile(rf"\{{{_PAIR},{_PAIR},{_PAIR},?+\s*+\}}\s*+")
_PLAIN = re.compile(r"[<>|=]?[biufUS]\d{1,9}|[<>|=]?\?")


@dataclass(frozen=True)
class Header:
    """What a .npy file says of its array, whose values begin at byte `offset`."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def end(self) -> int:
        """How many bytes the file must have."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    def arrange(self, values: bytes | bytearray) -> np.ndarray:
        """The array whose values these are."""
        flat = np.frombuffer(values, self.dtype)
        return flat.reshape(self.shape[::-1]).T if self.fortran else flat.reshape(self.shape)


def read_header(stream, name) -> Header:
    """The header at the start of a stream; raises DataError where it is none of a plain array."""

    def refuse(reason: str) -> DataError:
        return DataError(f"{name}: cut short, or no plain array in NumPy's .npy format ({reason})")

    start = stream.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8:
        raise refuse("it does not begin as such a file does")
    if start[6] not in (1, 2, 3):
        raise refuse(f"version {start[6]} of it is unknown")
    size = stream.read(2 if start[6] == 1 else 4)
    length = int.from_bytes(size, "little")
    if length > _LIMIT:
        raise refuse(f"a header of {length:,} bytes")
    text = stream.read(length)
    if len(text) != length:
        raise refuse("it ends within its header")
    found = _HEADER.fullmatch(text.decode("latin1"))
    entries = dict(zip(found.groups()[::2], found.groups()[1::2])) if found else {}
    try:
        descr, order, shape = entries["descr"].strip("'\""), entries["fortran_order"], entries["shape"]
        sizes = tuple(int(size) for size in re.findall(r"\d+", shape))
    except (KeyError, ValueError):
        objects = "; Python objects would need allow_pickle, and nothing is unpickled"
        raise refuse(f"its header is {text[:80].decode('latin1').strip()!r}" + objects * (b"O" in text)) from None
    if (
        not shape.startswith("(")
        or order not in ("True", "False")
        or max(sizes, default=0) >= 1 << 63
        or len(sizes) > 32
    ):
        raise refuse(f"its shape is {shape[:80]}")
    if not _PLAIN.fullmatch(descr):
        objects = "; Python objects would need allow_pickle, and nothing is unpickled"
        raise refuse(f"its values are {descr[:40]!r}" + objects * ("O" in descr))
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError) as error:
        raise refuse(f"its values are {descr!r}: {error}") from None
    return Header(sizes, dtype, order == "True", 8 + len(size) + length)


def open_array(file: Path) -> tuple[BufferedReader, Header]:
    """The open .npy file and its header; raises DataError where its size is another than it announces, or OSError."""
    stream = open_regular(file, DataError)
    try:
        header, size = read_header(stream, file), os.fstat(stream.fileno()).st_size
        if header.end != size:
            raise DataError(f"{file}: {size:,} bytes, but its header announces {header.end:,}")
    except BaseException:
        stream.close()
        raise
    return stream, header


class FileArray:
    """The array (N, ...) of a .npy file, which stays there; indexing by an array of numbers reads.

    Unlike a mapping of the file it cannot kill the process: a file that is cut short or written to while it is in use
    is a DataError.
    """

    def __init__(self, file: Path):
        stream, header = open_array(file)
        if header.fortran and len(header.shape) > 1:
            stream.close()
            raise DataError(f"{file}: in Fortran's order no image lies in one piece; save np.ascontiguousarray of it")
        self._file, self._stream, self._offset = file, stream, header.offset
        self._lock, self._found = threading.Lock(), self._stamp()
        self.shape, self.dtype, self.ndim = header.shape, header.dtype, len(header.shape)
        self.size = math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """The parts of these numbers, 0 to N - 1."""
        values = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        piece = values[:1].nbytes
        into = values.reshape(-1).view(np.uint8).data
        together = len(numbers) > 1 and bool((np.diff(numbers) == 1).all())
        runs = [(0, len(numbers))] if together else [(i, i + 1) for i in range(len(numbers))]
        for first, last in runs:
            self._read(into[first * piece : last * piece], self._offset + int(numbers[first]) * piece)
        if self._stamp() != self._found:
            raise DataError(
                f"{self._file} was written to while it was in use; what was read of it is not to be trusted"
            )
        return values

    def _read(self, into: memoryview, place: int) -> None:
        try:
            while into:
                count = self._read_some(into, place)
                if not count:
                    raise DataError(f"{self._file} was cut short while it was in use")
                into, place = into[count:], place + count
        except OSError as error:
            raise DataError(f"cannot read {self._file}: {error.strerror or error}") from error

    def _read_some(self, into: memoryview, place: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._stream.fileno(), [into], place)
        with self._lock:  # a file has one position, and a reader of its own runs beside training
            self._stream.seek(place)
            return self._stream.readinto(into)

    def _stamp(self) -> tuple[int, int]:
        found = os.fstat(self._stream.fileno())
        return found.st_size, found.st_mtime_ns
