"""How far a packed file may unpack: a few kilobytes must not fill the memory."""

import gzip
from pathlib import Path

from gpucnn.errors import DataError

# Images pack to a fifth or a tenth; even labels in order, to a hundredth. What unpacks to no more than _HARMLESS bytes
# may pack as well as it likes.
_RATIO, _HARMLESS = 200, 1 << 26


def refuse_bomb(name: str | Path, packed: int, unpacked: int) -> None:
    """Raise DataError if `packed` bytes claim to hold far more than images could."""
    if unpacked > max(_RATIO * packed, _HARMLESS):
        raise DataError(
            f"{name}: {packed:,} bytes would unpack to {unpacked:,} or more, over {_RATIO} times as much; no images "
            "pack that well, so it is refused as a decompression bomb"
        )


class Unpacked:
    """The bytes of a gzip file, read from start to end; refused once they are too many for the size of the file."""

    def __init__(self, file: Path, raw):
        self._file, self._packed, self._count, self._asked_beyond = file, file.stat().st_size, 0, 0
        self._stream = gzip.GzipFile(fileobj=raw)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes."""
        data = self._stream.read(size)
        self._asked_beyond += not data
        if self._asked_beyond > 100:  # tarfile walks to the end of a member, however long that claims to be
            raise EOFError("it claims to hold more than it does")
        self._count += len(data)
        refuse_bomb(self._file, self._packed, self._count)
        return data
