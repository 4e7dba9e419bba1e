"""Files that announce, or unpack to, absurd sizes are refused before they fill the memory."""

import gzip
import io
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from gpucnn.data import load, load_images, npz
from gpucnn.errors import DataError
from tests.data.png import png

HUGE = 1 << 28  # what would be unpacked; tests must not come near it


@pytest.fixture(autouse=True)
def little_memory():
    """No test here may hold a tenth of what a bomb would unpack to."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < HUGE / 10


def zeros(count: int, start: bytes = b"") -> bytes:
    """The bytes `start` and then so many zeros, packed by deflate, a MiB at a time."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(start), *(packer.compress(bytes(1 << 20)) for _ in range(count >> 20))]
    return b"".join([*parts, packer.flush()])


def test_a_gzip_bomb_in_mnists_form(tmp_path):
    side = 1 << 10
    header = struct.pack(">BBBBIII", 0, 0, 8, 3, HUGE // side**2, side, side)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(zeros(HUGE, header))
    for name in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="train-images.*refused as a decompression bomb"):
        load(tmp_path)


def test_a_zip_bomb(tmp_path):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (HUGE >> 10, 32, 32)})
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("images.npy", "w") as member,
    ):
        member.write(head.getvalue())
        for _ in range(HUGE >> 20):
            member.write(bytes(1 << 20))
    with pytest.raises(DataError, match="a.npz: images.npy.*refused as a decompression bomb"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", [(HUGE, 4, 4), (2**40, 2**10), (3, 4, 4)])
def test_an_array_that_announces_other_sizes_than_it_holds(tmp_path, shape):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", head.getvalue() + bytes(100))
    with pytest.raises(DataError, match=r"a.npz: images.npy announces \(.* but holds 228"):
        load(tmp_path / "a.npz")


def test_an_archive_larger_than_the_memory(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", images=np.zeros((10, 4, 4), np.uint8), labels=np.zeros(10, int))
    monkeypatch.setattr(npz, "host_memory", lambda: 400)
    with pytest.raises(DataError, match="more than this machine's memory .* save them as .npy files in a folder"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize("sizes", [(10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_an_image_of_absurd_sizes(tmp_path, sizes):
    (tmp_path / "a.png").write_bytes(png(*sizes, zlib.compress(bytes(1000))))
    with pytest.raises(DataError, match=r"a.png"):
        load_images(tmp_path / "a.png", (1, 8, 8))


def test_an_image_of_the_size_it_announces_is_read(tmp_path):
    (tmp_path / "a.png").write_bytes(png(8, 8, zlib.compress(bytes(72))))
    assert load_images(tmp_path / "a.png", (1, 8, 8))[0].shape == (1, 1, 8, 8)


def test_gzip_of_images_that_pack_well_is_no_bomb(tmp_path):
    from gpucnn.data import idx

    header = struct.pack(">BBBBIII", 0, 0, 8, 3, 1000, 50, 50)
    (tmp_path / "a").write_bytes(gzip.compress(header + bytes(2_500_000)))  # a thousandth
    assert idx.read(tmp_path / "a", 3).shape == (1000, 50, 50)
