"""Images that stay where they are, on the disk or in the host's memory, and are read a batch at a time."""

import hashlib
import math
import mmap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpucnn.errors import DataError

_PART = 1 << 25  # bytes that are looked at together


class Mapped:
    """`array` (M, C, *spatial), in a file or a np.memmap, of bytes or floats; as images (N, C, *spatial).

    With `scale` bytes become value / 255, as everywhere in gpucnn.data. `rows` (N,), if given, are the images that
    belong to it, in that order. Indexing reads, and gives plain arrays; np.asarray reads everything. Training takes it
    as it is, reads ahead while the device computes, and gives the bits that it would give with all images in memory.
    """

    def __init__(self, array: Any, *, scale: bool = False, rows: np.ndarray | None = None):
        self._array, self._scale, self._rows = array, scale, rows
        self._check = _mapping_check(array)
        self._surveys: dict[np.dtype, tuple[Any, int | None]] = {}
        self.shape = (len(array) if rows is None else len(rows), *array.shape[1:])
        self.ndim = array.ndim
        self.dtype = np.dtype(np.float32) if scale else array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        """As of an array. Only images that the first index names are read: a number, a slice, an array (k,) of numbers
        or of truth values; for `...` and None all are.
        """
        first, *more = key if isinstance(key, tuple) and key else (key,)
        if first is None or first is ...:
            return np.asarray(self)[key]
        numbers = np.arange(len(self))[first]
        values = self.take(np.atleast_1d(numbers))
        if np.ndim(numbers) and not more:
            return values
        here = slice(None) if isinstance(first, slice) else np.arange(len(values)) if np.ndim(numbers) else 0
        return values[(here, *more)]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        values = self.take(np.arange(len(self)))
        return values if dtype is None else values.astype(dtype, copy=False)

    def select(self, rows) -> "Mapped":
        """Some of the images, by number, slice or truth value; nothing is read."""
        rows = np.arange(len(self))[rows]
        return Mapped(self._array, scale=self._scale, rows=rows if self._rows is None else self._rows[rows])

    def take(self, numbers: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Read the images of these numbers, into `out` (len(numbers), C, *spatial) if given."""
        self._check()
        raw = np.asarray(self._array[numbers if self._rows is None else self._rows[numbers]])
        if out is None:
            out = np.empty(raw.shape, self.dtype)
        if self._scale:
            np.divide(raw, np.float32(255), out=out, dtype=np.float32)
        else:
            out[...] = raw
        return out

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """(number of the first, images) of all images in order, a power of two at a time."""
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        step = 1 << max(_PART // max(size, 1), 1).bit_length() - 1
        for start in range(0, len(self), step):
            yield start, self.take(np.arange(start, min(start + step, len(self))))

    def first_not_finite(self) -> int | None:
        """The number of the first image that holds a NaN or an infinity; of bytes none does, and nothing is read."""
        return None if self._array.dtype.kind in "iu" else self.survey(self.dtype)[1]

    def survey(self, dtype=np.float32) -> tuple[Any, int | None]:
        """(hashlib.sha256 of all images as `dtype`, number of the first that is not finite or None).

        Everything is read once, at the first call.
        """
        dtype = np.dtype(dtype)
        if dtype not in self._surveys:
            digest, bad = hashlib.sha256(), None
            for start, part in self.parts():
                if bad is None and part.dtype.kind == "f":
                    finite = np.isfinite(part).reshape(len(part), -1).all(axis=1)
                    bad = None if finite.all() else start + int(np.argmin(finite))
                digest.update(np.ascontiguousarray(part, dtype).data)
            self._surveys[dtype] = digest, bad
        digest, bad = self._surveys[dtype]
        return digest.copy(), bad


def _mapping_check(array) -> Callable[[], None]:
    """Raises DataError once the file behind a np.memmap is too short: reading what it has lost kills the process."""
    mapping = getattr(array, "_mmap", None)
    if not isinstance(mapping, mmap.mmap) or not array.size:
        return lambda: None
    begin = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    start = np.frombuffer(mapping, np.uint8).ctypes.data
    end = begin + np.lib.array_utils.byte_bounds(array)[1] - start

    def check() -> None:
        if mapping.size() < end:
            raise DataError(f"{array.filename} was cut short while it was in use")

    return check
