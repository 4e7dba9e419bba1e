"""Tables with a label column: CSV, as Kaggle's MNIST comes, gzipped or not, and Parquet, as Hugging Face's come."""

import gzip
import io
import math
import os
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn.data.dataset import Dataset, every_fifth
from gpucnn.data.images import ENDINGS, InMemory, is_grey, open_image, pixels
from gpucnn.data.layout import label_numbers
from gpucnn.data.unpacking import Unpacked, refuse_bomb
from gpucnn.errors import DataError
from gpucnn.extras import install
from gpucnn.storage import reading

_LABELS = ("label", "labels", "class", "target", "y")
_NUMBERS = ("id", "index", "imageid", "image_id", "__index_level_0__")  # the last as pandas calls its own in Parquet
_GZIP_MAGIC = b"\x1f\x8b"
_PART = 1 << 24  # bytes read at once
_ENDINGS = (".csv", ".csv.gz", ".parquet")


def recognises(file: Path) -> bool:
    """Whether a file's name ends as a table's."""
    return file.name.lower().endswith(_ENDINGS)


def load(file: Path) -> tuple[Dataset, Dataset]:
    """(train, test) from a table with an image a row, of which every fifth is a test image.

    One column, called label, labels, class, target or y, holds the number of its class; all others are its pixels, row
    by row, of a square image with one channel, or with three, one after the other. A CSV has commas, semicolons, tabs
    or spaces between its cells; without names, or with names that are 0, 1, 2 and so on, it has the label first. Whole
    numbers from 0 to 255 become value / 255, others are taken as they are. In Parquet a column `image` may hold image
    files instead. Raises DataError.
    """
    images, labels = _parquet(file) if file.suffix.lower() == ".parquet" else _csv(file)
    classes = [str(label) for label in range(int(labels.max(initial=0)) + 1)]
    return every_fifth(images, labels, classes, str(file))


def _csv(file: Path) -> tuple[np.ndarray, np.ndarray]:
    with reading(file, DataError, "CSV file") as raw:
        zipped = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        try:
            stream = Unpacked(file, raw) if zipped else raw
            content = b"".join(iter(lambda: stream.read(_PART), b""))
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{file}: the gzip data is damaged or cut short ({error}); fetch the file again") from None
    content = content.removeprefix(b"\xef\xbb\xbf")  # what Windows programs put before UTF-8
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{file}: it is UTF-16, as spreadsheets save Unicode text; save it as CSV in UTF-8")
    if b"\n" not in content:  # as spreadsheets save it for old Macintoshes
        content = content.replace(b"\r", b"\n")
    names, delimiter, skipped = _head(content, file)
    column = _label_column(names, file) if names else 0
    try:
        rows = io.BytesIO(content)
        values = np.loadtxt(rows, np.float32, delimiter=delimiter, skiprows=skipped, ndmin=2, quotechar='"')
    except (ValueError, UnicodeDecodeError) as error:
        expected = "a row is a label and its pixels, all numbers"
        if any(f"{ending}'" in str(error).lower() for ending in ENDINGS):
            expected += ", not a file's name: put the images of each class into a folder of its own"
        elif delimiter == ";" and re.search(r"'[^']*\d,\d+'", str(error)):
            expected += ": write decimal points for commas"
        raise DataError(f"{file}: {' '.join(str(error).split()).rstrip('.')}; {expected}") from None
    if names and values.shape[1] != len(names):
        raise DataError(f"{file}: the first line has {len(names)} columns and the rows {values.shape[1]}")
    return _split(values, names, column, file)


def _head(content: bytes, file: Path) -> tuple[list[str], str | None, int]:
    """(the columns' names, none where they have none; the sign between cells, None for spaces; lines before the rows).

    Names are the first line, or a comment before it, as NumPy writes them. Numbers that count the columns, which
    pandas writes for an array, are a first line but no names.
    """
    comment, found = "", list[tuple[int, str]]()
    for number, line in enumerate(io.BytesIO(content), 1):
        text = line.decode("utf-8", "replace").strip(" \r\n")
        if text[:1] == "#" and not found:
            comment = text.lstrip("# ")
        elif text and text[0] != "#":
            found.append((number, text))
        if len(found) == 2:
            break
    first = found[0][1] if found else ""
    most = ";" if ";" in first else max(",\t", key=first.count)
    delimiter = most if most in first else None
    cells, noted = ([cell.strip().strip('"').lower() for cell in text.split(delimiter)] for text in (first, comment))
    counted = cells == [str(i) for i in range(len(cells))]
    header = counted or cells[0] == "" or any(map(_is_name, cells))
    if len(found) < 1 + header:
        raise DataError(f"{file}: it has no rows; a row is a label and its pixels, all numbers")
    if header:
        return [] if counted else cells, delimiter, found[0][0]
    return noted if len(noted) == len(cells) and set(noted) & set(_LABELS) else [], delimiter, 0


def _is_name(cell: str) -> bool:
    """Whether a cell has a letter and is no number, as 1e-3 and nan are; a decimal comma makes no name."""
    try:
        float(cell)
    except ValueError:
        return any(map(str.isalpha, cell))
    return False


def _parquet(file: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        from pyarrow import ArrowException, Table, parquet
    except ImportError as error:
        raise DataError(
            f"{file}: pyarrow, which reads Parquet, cannot be imported ({error}): {install('parquet')}"
        ) from None
    with reading(file, DataError, "Parquet file") as raw:
        try:
            whole = parquet.ParquetFile(raw, pre_buffer=False)
            packed, count, parts = os.fstat(raw.fileno()).st_size, 0, []
            # Equal values are packed into nothing, equal image files into one.
            refuse_bomb(file, packed, 4 * whole.metadata.num_rows * whole.metadata.num_columns)
            # Without threads of pyarrow's own, which abort a process that ends soon after.
            for part in whole.iter_batches(batch_size=1024, use_threads=False):
                count += part.nbytes
                refuse_bomb(file, packed, count)
                parts.append(part)
            table = Table.from_batches(parts, whole.schema_arrow)
        except DataError:
            raise
        except (ArrowException, OSError, ValueError) as error:
            raise DataError(f"{file}: not a whole Parquet file ({' '.join(str(error).split())})") from None
    names = [name.lower() for name in table.column_names]
    column = _label_column(names, file)
    if "image" in names:
        cells = table.column(names.index("image")).to_pylist()
        files: list[Any] = [cell.get("bytes") if isinstance(cell, dict) else cell for cell in cells]
        if not all(isinstance(one, bytes) for one in files):
            raise DataError(f"{file}: the column image must hold image files")
        opened = [open_image(InMemory(one, f"{file}: image {number}")) for number, one in enumerate(files)]
        if len(sizes := {image.size for image in opened}) > 1:
            raise DataError(f"{file}: its images have {len(sizes)} sizes; training images must have one")
        channels = 1 if all(map(is_grey, opened)) else 3
        labels = label_numbers(table.column(column).to_numpy(), f"{file}: {names[column]}")
        return np.stack([pixels(image, channels) for image in opened]), labels
    try:
        columns = np.stack([np.asarray(one.to_numpy(), np.float32) for one in table.columns], axis=1)
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: its columns must be numbers, or a label and an image ({error})") from None
    return _split(columns, names, column, file)


def _label_column(names: list[str], file: Path) -> int:
    if names[0] in ("", "unnamed: 0"):
        raise DataError(f"{file}: its first column has no name, as pandas numbers rows; save it with index=False")
    found = [i for i, name in enumerate(names) if name in _LABELS]
    if len(found) != 1:
        raise DataError(
            f"{file}: {len(found)} of its columns are called {', '.join(_LABELS[:-1])} or {_LABELS[-1]}; one must be, "
            "and holds the label"
        )
    return found[0]


def _split(values: np.ndarray, names: list[str], column: int, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """(images (N, C, S, S), labels (N,)) from a table (N, 1 + C * S * S) with the label in `column`."""
    if number := next((name for name in names if name in _NUMBERS), None):
        raise DataError(f"{file}: its column {number} numbers the rows and would be taken for a pixel; leave it out")
    labels, values = values[:, column], np.delete(values, column, axis=1)
    whole = (labels == np.floor(labels)) & (np.abs(labels) <= 1 << 30)  # others become no integers
    if not whole.all():
        raise DataError(f"{file}: a label is {labels[~whole][0]:g}; labels are whole numbers from 0")
    count = values.shape[1]
    channels = next((c for c in (1, 3) if count % c == 0 and math.isqrt(count // c) ** 2 * c == count), None)
    if not count or channels is None:
        raise DataError(f"{file}: a row has {count} pixels, which is no square image of one or three channels")
    side = math.isqrt(count // channels)
    if values.size and values.max() > 1 and values.min() >= 0 and values.max() <= 255 and not (values % 1).any():
        values = values / np.float32(255)
    return values.reshape(-1, channels, side, side), label_numbers(labels.astype(np.int64), f"{file}: its label column")
