"""Files made to be wrong: each is refused in one sentence, before it costs time or memory."""

import gzip
import io
import json
import os
import struct
import tarfile
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

import gpucnn
from gpucnn.backends.memory import host_memory
from gpucnn.data import load, load_images
from gpucnn.errors import CheckpointError, DataError
from gpucnn.models.files import read_tensors, write_tensors
from gpucnn.schema import parse
from gpucnn.training import load_run
from tests.training import small

BYTES = np.random.default_rng(1).integers(0, 256, (11, 3, 4), dtype=np.uint8)
LABELS = np.arange(11) % 3


@pytest.fixture(autouse=True)
def little_memory():
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 26


def npy(array) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def archive(path, *members, **kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two members with one name
        with zipfile.ZipFile(path, "w", **kind) as file:
            for name, content in members:
                file.writestr(name, content)
    return path


GOOD = ("images.npy", npy(BYTES)), ("labels.npy", npy(LABELS))


@pytest.mark.parametrize("name", ["labels.npy", "labels", "x_train.npy", "notes.txt"])
def test_two_members_of_one_name(tmp_path, name):
    path = archive(tmp_path / "a.npz", *GOOD, (name, npy(LABELS[::-1])), *[(name, b"")] * (name != "labels.npy"))
    with pytest.raises(DataError, match=r"a.npz: holds \w+(.txt)? twice"):
        load(path)


def header(text: str, version: int = 1, length: int | None = None) -> bytes:
    size = len(text) if length is None else length
    return (
        b"\x93NUMPY" + bytes((version, 0)) + struct.pack("<H" if version == 1 else "<I", size) + text.encode("latin1")
    )


HEADERS = [
    header("{'descr': '<i8', 'fortran_order': False, 'shape': (11,"),
    header("(" * 5000),
    header("{'descr': '<i8', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}"),
    header("{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999999999,)}"),
    header("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}"),
    header("{'descr': '<i8', 'fortran_order': False, 'shape': (1.5,)}"),
    header("{'descr': '<i8', 'fortran_order': False, 'shape': " + "(" * 50 + ")" * 50 + "}"),
    header("{'descr': '<U999999999', 'fortran_order': False, 'shape': (1,)}"),
    header("{'descr': '<i7', 'fortran_order': False, 'shape': (1,)}"),
    header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
    header("{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (1,)}"),
    header("{'descr': '<i8', 'fortran_order': 3, 'shape': (1,)}"),
    header("{'descr': '<i8', 'descr': '<i8', 'shape': (1,)}"),
    header("{'descr': '<i8', 'fortran_order': True, 'shape': False}"),
    header("[]"),
    header("\\x00\x00\xff"),
    header(""),
    header("{}", version=2, length=2**32 - 1),
    header("{}", version=3, length=60_000),
    header("{}", version=9),
    b"\x93NUMPY",
    b"",
    header("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), " + "\n" * 60_000),
    header("{'descr':" + " " * 60_000),
]


@pytest.mark.parametrize("content", HEADERS, ids=range(len(HEADERS)))
def test_headers_of_arrays(tmp_path, content):
    for place, file in ((tmp_path / "a.npz", "a.npz"), (tmp_path, "labels.npy")):
        (tmp_path / "images.npy").write_bytes(npy(BYTES))
        (tmp_path / "labels.npy").write_bytes(content)
        archive(tmp_path / "a.npz", ("images.npy", npy(BYTES)), ("labels.npy", content))
        with pytest.raises(DataError, match=file) as caught:
            load(place)
        assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_headers_as_other_programs_write_them(tmp_path):
    for text in (
        "{'descr': '<i8', 'fortran_order': False, 'shape': (11,), }",
        '{"shape":(11,),"fortran_order":False,"descr":"<i8"}\n',
        "{ 'fortran_order' : True, 'shape' : (11), 'descr' : '=i8' }  \n",
    ):
        for version in (1, 2, 3):
            content = header(text, version) + LABELS.tobytes()
            train, _ = load(archive(tmp_path / "a.npz", ("images.npy", npy(BYTES)), ("labels.npy", content)))
            assert train.labels.tolist() == [*LABELS[:4], *LABELS[5:9], LABELS[10]]


def test_arrays_in_fortrans_order(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.asfortranarray(BYTES), labels=LABELS)
    np.savez(tmp_path / "b.npz", images=BYTES, labels=LABELS)
    assert np.array_equal(load(tmp_path / "a.npz")[0].images, load(tmp_path / "b.npz")[0].images)


def test_other_packings_and_encryption(tmp_path):
    with pytest.raises(DataError, match="in a way that np.savez does not use"):
        load(archive(tmp_path / "a.npz", *GOOD, compression=zipfile.ZIP_BZIP2))
    content = bytearray(archive(tmp_path / "a.npz", *GOOD).read_bytes())
    content[6] |= 1  # of the first member, in both places
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        load(tmp_path / "a.npz")


def test_members_that_lie_on_each_other(tmp_path):
    """As in a bomb whose members are all one place of the file."""
    content = bytearray(archive(tmp_path / "a.npz", *GOOD).read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 20 : place + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="claim more bytes than the file has"):
        load(tmp_path / "a.npz")


def test_names_of_classes_that_are_no_text(tmp_path):
    classes = npy(np.array(["a", "b", "c"])).replace(b"c\0\0\0", b"c\xff\xff\x7f")
    with pytest.raises(DataError):
        load(archive(tmp_path / "b.npz", *GOOD, ("classes.npy", classes)))


def test_archives_of_cifar(tmp_path):
    path = tmp_path / "a.tar.gz"

    def pack(*infos):
        with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as file:
            for info, content in infos:
                file.addfile(info, io.BytesIO(content))

    info = tarfile.TarInfo("data_batch_1.bin")
    info.size, info.pax_headers = 3, {"size": "three"}
    pack((info, b"abc"))
    with pytest.raises(DataError, match="a.tar.gz"):
        load(path)
    info = tarfile.TarInfo("data_batch_1.bin")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 29)}
    body = b"1\n0\n0\n".ljust(512, b"\0")
    info.size = len(body)
    pack((info, body))
    with pytest.raises(DataError, match="has holes"):
        load(path)
    for pax in ({"GNU.sparse.realsize": "x"}, {"mtime": "9" * 5000}, {"path": "\0"}, {"linkpath": "a" * 5000}):
        info = tarfile.TarInfo("data_batch_1.bin")
        info.pax_headers = pax
        pack((info, b""))
        with pytest.raises(DataError, match="a.tar.gz"):
            load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")
def test_pipes_are_not_waited_for(tmp_path):
    """Opening one for reading waits for somebody who writes, in vain."""
    os.mkfifo(tmp_path / "a.npz")
    os.mkfifo(tmp_path / "a.png")
    for name in ("images.npy", "train-images-idx3-ubyte", "data_batch_1.bin", "a.tar.gz"):
        folder = tmp_path / f"in {name}"
        folder.mkdir()
        os.mkfifo(folder / name)
        with pytest.raises(DataError):
            load(folder)
    for path in (tmp_path / "a.npz", tmp_path / "in a.tar.gz" / "a.tar.gz"):
        with pytest.raises(DataError):
            load(path)
    with pytest.raises(DataError, match="no regular file"):
        load_images(tmp_path / "a.png", (1, 8, 8))
    with pytest.raises(DataError):
        load_images(tmp_path, (1, 8, 8))
    with pytest.raises(CheckpointError, match="no regular file"):
        gpucnn.load(tmp_path / "a.npz")


@pytest.mark.parametrize("name", [3, None, b"digits", np.zeros(3), ["digits"], "a\0b", "", "a" * 5000])
def test_names_that_are_none(name):
    with pytest.raises(gpucnn.errors.GpucnnError):
        load(name)
    with pytest.raises(gpucnn.errors.GpucnnError):
        load_images(name, (1, 8, 8))
    with pytest.raises(gpucnn.errors.GpucnnError):
        load_run(name)
    with pytest.raises(gpucnn.errors.GpucnnError):
        gpucnn.load(name)


# ---- what is said of a model -----------------------------------------------------------------------------------------


def changed(folder, change, file="checkpoint.safetensors"):
    """A file with a true digest of something else: `change` gets what it says."""
    tensors, about = read_tensors(folder / file)
    write_tensors(folder / file, tensors, change(about))


WRONG = [
    {"model": 3},
    {"model": None},
    {"arguments": []},
    {"arguments": {"hidden": [10**9]}},
    {"arguments": {"hidden": [10**30]}},
    {"arguments": {"classes": "ten", "input_shape": None}},
    {"arguments": {"input_shape": [1, 2**62, 2**62]}},
    {"arguments": {"nonsense": 1}},
    {"input_shape": "1x32x32"},
    {"input_shape": [[1], 2]},
    {"structure": 7},
    {"class_names": "abc"},
    {"class_names": ["a"]},
    {"class_names": [1, 2, 3]},
    {"class_names": ["a", "b", "a"]},
    {"class_names": ["a", "b", " "]},
    {"image_shape": None},
    {"image_shape": []},
    {"image_shape": [3, 32, 32]},
    {"image_shape": [1, 8, 8]},
    {"image_shape": [1, 32.5, 32]},
    {"mean": None},
    {"mean": [0.5, 0.5], "std": [1.0, 1.0]},
    {"mean": ["x"], "std": ["y"]},
    {"mean": [], "std": []},
    {"mean": [0.0], "std": [0.0]},
    {"mean": [0.0], "std": [float("nan")]},
    {"mean": [float("inf")], "std": [1.0]},
    {"mean": [10**400], "std": [1.0]},
    {"epoch": "one"},
    {"epoch": True},
    {"epoch": -1},
    {"epoch": 10**30},
    {"step": None},
    {"settings": []},
    {"metrics_sha256": 1},
    {"version": "2"},
    {"version": None},
]


@pytest.fixture(scope="module")
def lenet_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lenet") / "run"
    model = gpucnn.models.lenet5((1, 32, 32), 3)
    model.mean, model.std = (0.5,), (0.5,)
    images = np.random.default_rng(0).random((6, 1, 32, 32), np.float32)
    gpucnn.Trainer(model, run=folder, progress=False).fit(images, np.arange(6) % 3, 1)
    return folder


def copy(folder, to):
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_a_file_says_of_its_model(lenet_run, tmp_path, wrong):
    folder = copy(lenet_run, tmp_path / "run")
    changed(folder, lambda about: {**about, **wrong})
    with pytest.raises(CheckpointError) as caught:
        load_run(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    if not wrong.keys() & {"epoch", "step", "settings", "metrics_sha256"}:
        with pytest.raises(CheckpointError):
            gpucnn.load(folder / "checkpoint.safetensors")


@pytest.mark.parametrize("key", ["model", "arguments", "input_shape", "structure", "class_names", "mean", "epoch"])
def test_what_a_file_does_not_say(lenet_run, tmp_path, key):
    folder = copy(lenet_run, tmp_path / "run")
    changed(folder, lambda about: {name: value for name, value in about.items() if name != key})
    with pytest.raises(CheckpointError, match=f"{key} is missing"):
        load_run(folder)


def test_optimiser_state_that_is_missing_or_of_another_kind(tmp_path):
    images, labels = small.data()
    small.trainer(tmp_path).fit(images, labels, 1)
    file = tmp_path / "checkpoint.safetensors"
    tensors, about = read_tensors(file)
    name = next(name for name in tensors if name.startswith("optimizer."))
    for value in (None, tensors[name][..., :0], tensors[name].astype(np.int64)):
        other = {key: array for key, array in tensors.items() if key != name}
        write_tensors(file, other if value is None else {**other, name: value}, about)
        with pytest.raises(CheckpointError, match="is damaged: it lacks"):
            small.trainer(tmp_path).fit(images, labels, 1, resume=True)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "BF16", "F4", "NONSENSE"])
def test_types_that_numpy_does_not_have(tmp_path, kind):
    size = {"BF16": 2}.get(kind, 1)
    text = json.dumps({"w": {"dtype": kind, "shape": [4], "data_offsets": [0, 4 * size]}}).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4 * size))
    for read in (gpucnn.load, lambda path: gpucnn.models.from_pytorch(small.model(), path)):
        with pytest.raises(CheckpointError):
            read(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\xff" * 100, b"2" + bytes(7) + b"[]", b"[" * 10000])
def test_files_that_are_no_safetensors(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CheckpointError):
        gpucnn.load(tmp_path / "a")


def test_a_file_without_bytes_that_claims_many(tmp_path):
    """Holes in a file cost nothing, until they are read."""
    with open(tmp_path / "a.safetensors", "wb") as file:
        file.truncate(host_memory() or 1 << 40)
    with pytest.raises(CheckpointError, match="that is no safetensors file of use here"):
        gpucnn.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"a": 1' + "0" * 5000 + "}", "\xff", "[]", "null", "3"],
)
def test_configurations(lenet_run, tmp_path, text):
    folder = copy(lenet_run, tmp_path / "run")
    (folder / "config.json").write_text(text, encoding="latin1")
    with pytest.raises(CheckpointError, match=r"config.json"):
        load_run(folder)


def test_what_shapes_match():
    shape = {"a": int, "b?": [float], "c": (str, None), "d?": object}

    def good(value):
        parse(json.dumps(value), shape, "x", DataError)

    good({"a": 1, "c": None})
    good({"a": -(2**63), "b": [1, 2.5], "c": "", "d": {}, "e": 1})
    for wrong in (
        [],
        {},
        {"a": 1},
        {"a": 1.0, "c": None},
        {"a": True, "c": None},
        {"a": 2**64, "c": None},
        {"a": 1, "c": 3},
        {"a": 1, "c": None, "b": 1},
        {"a": 1, "c": None, "b": [True]},
        {"a": 1, "c": None, "b": [float("nan")]},
        {"a": 1, "c": None, "b": [[1]]},
    ):
        with pytest.raises(DataError, match="^x "):
            good(wrong)


def test_gzip_without_an_end(tmp_path):
    content = gzip.compress(struct.pack(">BBBBII", 0, 0, 8, 3, 1, 1) + bytes(100))
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        (tmp_path / name).write_bytes(content[:-9])
    with pytest.raises(DataError):
        load(tmp_path)
