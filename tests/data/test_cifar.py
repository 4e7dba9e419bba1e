"""CIFAR's binary files, written here byte by byte: from a folder, from an archive, and each way to be wrong."""

import gzip
import io
import tarfile

import numpy as np
import pytest

from gpucnn.data import cifar, load, unpacking
from gpucnn.errors import DataError

NAMES10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FINE, COARSE = [f"fine{i}" for i in range(100)], [f"coarse{i}" for i in range(20)]


def pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def records(labels, images) -> bytes:
    return b"".join(bytes(np.atleast_1d(label).tolist()) + image.tobytes() for label, image in zip(labels, images))


def cifar10() -> dict[str, bytes]:
    files = {f"data_batch_{i}.bin": records([(2 * i - 2) % 10, (2 * i - 1) % 10], pixels(2, i)) for i in range(1, 6)}
    names = "\n".join(NAMES10) + "\n\n"  # as published, with an empty line at the end
    return {**files, "test_batch.bin": records([3, 9, 0], pixels(3, 6)), "batches.meta.txt": names.encode()}


def cifar100() -> dict[str, bytes]:
    return {
        "train.bin": records([(i % 20, i) for i in range(100)], pixels(100, 1)),
        "test.bin": records([(4, 7)], pixels(1, 2)),
        "fine_label_names.txt": "\n".join(FINE).encode(),
        "coarse_label_names.txt": "\n".join(COARSE).encode(),
    }


def written(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def packed(file, files, inside="cifar-10-batches-bin/", extra=()):
    with tarfile.open(file, "w:gz") as archive:
        for name, content in [*files.items(), *extra]:
            member = tarfile.TarInfo(inside + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def check10(parts):
    train, test = parts
    assert train.classes == test.classes == NAMES10
    assert train.labels.tolist() == list(range(10)) and test.labels.tolist() == [3, 9, 0]
    expected = np.concatenate([pixels(2, i) for i in range(1, 6)]).astype(np.float32) / np.float32(255)
    assert np.array_equal(train.images, expected)
    assert np.array_equal(test.images, pixels(3, 6).astype(np.float32) / np.float32(255))


def test_cifar_10_in_a_folder_and_in_a_folder_in_a_folder(tmp_path):
    check10(load(written(tmp_path / "a", cifar10())))
    (tmp_path / "b").mkdir()
    written(tmp_path / "b" / "cifar-10-batches-bin", cifar10())
    check10(load(tmp_path / "b"))


def test_cifar_10_in_its_archive_and_in_the_folder_it_was_fetched_into(tmp_path):
    extra = [("readme.html", b"<html>")]
    check10(load(packed(tmp_path / "cifar-10-binary.tar.gz", cifar10(), extra=extra)))
    check10(load(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]  # nothing was unpacked


def test_cifar_100_by_class_and_by_superclass(tmp_path):
    train, test = load(written(tmp_path / "a", cifar100()))
    assert train.classes == FINE and train.labels.tolist() == list(range(100)) and test.labels.tolist() == [7]
    assert np.array_equal(train.images, pixels(100, 1).astype(np.float32) / np.float32(255))
    train, test = cifar.load(packed(tmp_path / "x.tgz", cifar100(), "cifar-100-binary/"), coarse=True)
    assert train.classes == COARSE and test.labels.tolist() == [4]


def changed(name, change):
    return lambda files: {**files, name: change(files[name])}


def without(name):
    return lambda files: {key: content for key, content in files.items() if key != name}


WRONG = {
    "cut short": (
        changed("data_batch_2.bin", lambda data: data[:-1]),
        "data_batch_2.bin: 6,145 bytes; a CIFAR-10 record has 3,073",
    ),
    "empty": (changed("test_batch.bin", lambda data: b""), "test_batch.bin: 0 bytes"),
    "a byte too many": (changed("data_batch_1.bin", lambda data: data + b"\0"), "data_batch_1.bin: 6,147 bytes"),
    "label out of range": (
        changed("test_batch.bin", lambda data: b"\x0a" + data[1:]),
        "test_batch.bin: label 1 of record 0 is 10",
    ),
    "a file missing": (without("data_batch_4.bin"), "data_batch_4.bin of CIFAR-10 is missing"),
    "names missing": (without("batches.meta.txt"), "batches.meta.txt of CIFAR-10 is missing"),
    "too few names": (
        changed("batches.meta.txt", lambda data: b"cat\ndog\n"),
        "2 different names in 2 lines; expected 10",
    ),
    "names that are no text": (changed("batches.meta.txt", lambda data: b"\xff\xfe"), "is no plain text"),
    "a name twice": (changed("batches.meta.txt", lambda data: data.replace(b"dog", b"cat")), "9 different names in 10"),
    "an absurd name file": (
        changed("batches.meta.txt", lambda data: b"x" * 70_000),
        "batches.meta.txt has 70,000 bytes",
    ),
    "a class without images": (
        changed("data_batch_1.bin", lambda data: b"\x01" + data[1:]),
        "no image of class airplane",
    ),
}


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("case", WRONG)
def test_refused(tmp_path, case, archive):
    change, message = WRONG[case]
    path = written(tmp_path / "a", change(cifar10()))
    if archive:
        path = packed(tmp_path / "a.tar.gz", change(cifar10()))
    with pytest.raises(DataError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)


def test_cifar_100_labels_out_of_range(tmp_path):
    files = cifar100()
    for at, count in ((0, 20), (1, 100)):
        data = bytearray(files["train.bin"])
        data[3074 + at] = count
        with pytest.raises(DataError, match=f"label {at + 1} of record 1 is {count}"):
            load(written(tmp_path / "a", {**files, "train.bin": bytes(data)}))


@pytest.mark.parametrize("keep", [0, 5, 0.3, 0.9, 0.999])
def test_archive_cut_short(tmp_path, keep):
    file = packed(tmp_path / "a.tar.gz", cifar10())
    content = file.read_bytes()
    file.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(DataError, match="a.tar.gz"):
        load(file)


def test_archive_with_a_flipped_bit_or_of_another_kind(tmp_path):
    file = packed(tmp_path / "a.tar.gz", cifar10())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 8
    file.write_bytes(content)
    with pytest.raises(DataError, match="a.tar.gz"):
        load(file)
    file.write_bytes(gzip.compress(b"no archive" * 1000))
    with pytest.raises(DataError, match="a.tar.gz cannot be read: .* no whole .tar.gz"):
        load(file)
    packed(file, {"data_batch_1": b"pickled"})
    with pytest.raises(DataError, match="holds none of CIFAR's binary files .* not the Python or Matlab one"):
        load(file)


def test_archives_that_would_do_harm(tmp_path, monkeypatch):
    outside = packed(tmp_path / "a.tar.gz", cifar10(), inside="../../")
    check10(load(outside))  # the names of folders in it mean nothing: nothing is written
    with pytest.raises(DataError, match="holds test_batch.bin twice"):
        load(packed(tmp_path / "b.tar.gz", cifar10(), extra=[("test_batch.bin", b"")]))
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
        for name in cifar10():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    with pytest.raises(DataError, match="holds none of CIFAR's"):
        load(tmp_path / "c.tar.gz")
    monkeypatch.setattr(unpacking, "_HARMLESS", 1 << 20)
    bomb = packed(tmp_path / "d.tar.gz", {}, extra=[("zeros", bytes(1 << 24))])
    with pytest.raises(DataError, match="refused as a decompression bomb"):
        load(bomb)
    monkeypatch.setattr(cifar, "_DATA_LIMIT", 5000)
    with pytest.raises(DataError, match="data_batch_1.bin has 6,146 bytes, far more than CIFAR's"):
        load(outside)
