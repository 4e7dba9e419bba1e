"""CSV and Parquet tables with a label column, against arrays that are written out here."""

import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpucnn.data import load
from gpucnn.errors import DataError
from tests.processes import finish, start

LABELS = np.arange(20) % 3
BYTES = np.random.default_rng(0).integers(0, 256, (20, 4, 4), np.uint8)
TEST = np.arange(20) % 5 == 4


def csv(pixels, labels=LABELS, column: int = 0, header: bool = True, name: str = "label") -> bytes:
    rows = [list(map(str, row)) for row in np.reshape(pixels, (len(pixels), -1)).tolist()]
    for row, label in zip(rows, labels, strict=True):
        row.insert(column, str(label))
    names = [f"pixel{i}" for i in range(len(rows[0]) - 1)]
    names.insert(column, name)
    return "\n".join(",".join(row) for row in ([names] if header else []) + rows).encode()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("settings", [{}, {"column": 16, "name": '"class"'}, {"header": False}, {"name": "Label"}])
def test_a_csv_is_read(tmp_path, settings, zipped):
    file = tmp_path / ("a.csv.gz" if zipped else "a.csv")
    file.write_bytes(gzip.compress(csv(BYTES, **settings)) if zipped else csv(BYTES, **settings))
    train, test = load(file)
    expected = BYTES[:, None] / np.float32(255)
    np.testing.assert_array_equal(train.images, expected[~TEST])
    np.testing.assert_array_equal(test.images, expected[TEST])
    np.testing.assert_array_equal(train.labels, LABELS[~TEST])
    assert train.classes == ["0", "1", "2"]


def test_colour_and_numbers_that_are_no_bytes(tmp_path):
    values = np.random.default_rng(1).normal(size=(20, 3, 2, 2)).astype(np.float32)
    (tmp_path / "a.csv").write_bytes(csv(values))
    train, _ = load(tmp_path / "a.csv")
    np.testing.assert_array_equal(train.images, values[~TEST])


def saved(delimiter: str, **settings) -> bytes:
    """As np.savetxt writes it: in scientific notation."""
    np.savetxt(
        stream := io.BytesIO(), np.column_stack([LABELS, BYTES.reshape(20, -1)]), delimiter=delimiter, **settings
    )
    return stream.getvalue()


NAMES = ["label", *(f"p{i}" for i in range(16))]


@pytest.mark.parametrize(
    "content",
    [
        saved(","),
        saved(" "),
        saved("\t", fmt="%d"),
        saved(";", fmt="%+d"),
        saved(",", header=",".join(NAMES)),
        saved(",", header="Some digits\n" + ",".join(map(str, range(17)))),
        saved(",", fmt="%d", comments="", header=",".join(map(str, range(17)))),  # pandas, of an array
        saved(";", fmt="%d", comments="", header=";".join(NAMES)),
        b"\xef\xbb\xbf" + saved(",", fmt="%d"),
        b"\r\n" + saved(",", fmt='"%d"', newline="\r\n"),
        saved(";", fmt="%d", comments="", header=";".join(NAMES), newline="\r"),
    ],
)
def test_csv_files_as_programs_write_them(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    train, _ = load(tmp_path / "a.csv")
    np.testing.assert_array_equal(train.images, (BYTES[:, None] / np.float32(255))[~TEST])
    np.testing.assert_array_equal(train.labels, LABELS[~TEST])


def test_whole_numbers_that_are_no_bytes(tmp_path):
    """One below 0, so they are taken as they are."""
    values = BYTES.astype(int)
    values[0, 0, 0] = -1
    (tmp_path / "a.csv").write_bytes(csv(values))
    np.testing.assert_array_equal(load(tmp_path / "a.csv")[0].images, values[~TEST][:, None].astype(np.float32))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n", "0 of its columns are called label, labels, class, target or y"),
        (b"label,class,c\n1,2,3\n", "2 of its columns are called"),
        (b"label,b\n1,x\n", "could not convert string 'x'"),
        (b"file,label\ncats/1.JPG,1\n", "not a file's name: put the images of each class into a folder of its own"),
        ("label,b\n1,2\n".encode("utf-16"), "it is UTF-16, as spreadsheets save Unicode text; save it as CSV in UTF-8"),
        (b"label,b\n1,2\n1\n", "number of columns changed"),
        (b"label,b\n1,2,3\n", "the first line has 2 columns and the rows 3"),
        (b"label,b,c\n1,2,3\n", "a row has 2 pixels, which is no square image"),
        (b"label\n1\n", "a row has 0 pixels"),
        (b"label,b\n", "it has no rows"),
        (b"", "it has no rows"),
        (
            b"1;0,5\n",
            "could not convert string '0,5' to float32 at row 0, column 2; a row is a label and its pixels, all "
            "numbers: write decimal points for commas",
        ),
        (b"id,label,b,c,d\n0,1,2,3,4\n", "its column id numbers the rows and would be taken for a pixel; leave it out"),
        (b"label,b,__index_level_0__\n0,1,2\n", "its column __index_level_0__ numbers the rows and would be taken for"),
        (b"id,label\ncats/1.JPG,1\n", "not a file's name"),
        (b",label,b\n0,1,2\n", "its first column has no name, as pandas numbers rows; save it with index=False"),
        (b"label,b\n0.5,2\n", "a label is 0.5"),
        (b"label,b\nnan,2\n", "a label is nan"),
        (b"label,b\ninf,2\n", "a label is inf; labels are whole numbers from 0"),
        (b"label,b\n1e20,2\n", "a label is 1e+20"),
        (b"label,b\n-1,2\n", "its label column runs from -1 to -1; labels count classes from 0"),
        (csv(BYTES[:3] * 1.0, LABELS[:3]), "at least 5 are needed"),
        (csv(np.where(BYTES[0, 0, 0] == BYTES, np.nan, BYTES)), "NaN"),
    ],
)
def test_what_is_no_table_of_images_is_refused(tmp_path, content, words):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match="a.csv") as caught:
        load(tmp_path / "a.csv")
    assert words in str(caught.value)


def test_damaged_gzip_and_bombs_are_refused(tmp_path):
    whole = gzip.compress(csv(BYTES))
    (tmp_path / "a.csv.gz").write_bytes(whole[:-20])
    with pytest.raises(DataError, match="damaged or cut short"):
        load(tmp_path / "a.csv.gz")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"0" * (1 << 27)))
    with pytest.raises(DataError, match="decompression bomb"):
        load(tmp_path / "a.csv.gz")


def test_parquet_of_pixels_and_of_image_files(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {f"pixel{i}": BYTES.reshape(20, -1)[:, i] for i in range(16)}
    parquet.write_table(pyarrow.table({"label": LABELS, **columns}), tmp_path / "pixels.parquet")
    files = []
    for image in BYTES:
        Image.fromarray(image).save(stream := io.BytesIO(), "PNG")
        files.append({"bytes": stream.getvalue(), "path": None})
    parquet.write_table(pyarrow.table({"image": files, "label": LABELS}), tmp_path / "files.parquet")
    for name in ("pixels", "files"):
        train, _ = load(tmp_path / f"{name}.parquet")
        np.testing.assert_array_equal(train.images, (BYTES[:, None] / np.float32(255))[~TEST])
        np.testing.assert_array_equal(train.labels, LABELS[~TEST])
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "files.parquet").read_bytes()[:-30])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        load(tmp_path / "cut.parquet")
    files[3]["bytes"] = files[3]["bytes"][:-30]
    parquet.write_table(pyarrow.table({"image": files, "label": LABELS}), tmp_path / "files.parquet")
    with pytest.raises(DataError, match=r"files.parquet: image 3 cannot be read: cut short"):
        load(tmp_path / "files.parquet")


def test_a_parquet_bomb_is_refused(tmp_path):
    """Equal values of many rows: of 2 MB became 10 GB."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    zeros = pyarrow.array(np.zeros(1 << 21, np.uint8))
    table = pyarrow.table({"label": zeros, **{f"pixel{i}": zeros for i in range(9)}})
    with parquet.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for _ in range(4):
            writer.write_table(table)
    with pytest.raises(DataError, match="decompression bomb"):
        load(tmp_path / "a.parquet")
    same = pyarrow.array([bytes(range(256)) * 64]).dictionary_encode()  # one file of 16 KB, in all rows
    files = pyarrow.DictionaryArray.from_arrays(np.zeros(1 << 13, np.int32), same.dictionary).dictionary_decode()
    parquet.write_table(pyarrow.table({"image": files, "label": np.zeros(1 << 13, np.int64)}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="decompression bomb"):
        load(tmp_path / "b.parquet")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in Linux's /proc")
def test_parquet_leaves_no_threads_behind(tmp_path):
    """With those of pyarrow a process that ended soon after was aborted, every few times."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {f"pixel{i}": BYTES.reshape(20, -1)[:, i] for i in range(16)}
    parquet.write_table(pyarrow.table({"label": LABELS, **columns}), tmp_path / "a.parquet")
    program = (
        "import os, gpucnn.data, pyarrow.parquet; before = len(os.listdir('/proc/self/task'));"
        f"gpucnn.data.load({str(tmp_path / 'a.parquet')!r}); print(len(os.listdir('/proc/self/task')) - before)"
    )
    assert finish(start(program)) == 0


def test_parquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"cannot be imported .*: pip install pyarrow$"):
        load(tmp_path / "a.parquet")
