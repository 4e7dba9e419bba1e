"""Every reader on damaged files: it gives what was written, or raises an error of gpucnn in one sentence, soon.

Where a format has checksums over everything (model files, runs, compiled kernels) what is read is what was written, or
it is refused. Elsewhere a flipped bit may make another image; then all values are finite and all labels have classes.
What was ever found lies in corpus/, and is tried again each time.
"""

import base64
import io
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest

import gpucnn
from gpucnn.backends import get_backend
from gpucnn.data import load, load_images
from gpucnn.errors import GpucnnError
from gpucnn.models import from_pytorch
from gpucnn.models.pytorch import save_pytorch
from gpucnn.schedules import Constant
from gpucnn.training import load_run
from tests.faults import mutate
from tests.faults.kills import forked
from tests.training import small

resource = pytest.importorskip("resource", reason="limits of POSIX")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, so that a crash is found and not died of")

CORPUS = Path(__file__).parent / "corpus"
SECONDS = 20.0  # for one file, on a busy machine
X, Y = small.data()
BYTES = np.random.default_rng(0).integers(0, 256, (10, 6, 5), dtype=np.uint8)
LABELS = np.arange(10) % 2


class Case:
    """A reader: `make` writes a good file into a folder, `read` reads it, `mutate` damages it."""

    def __init__(self, name, make, read, mutate, exact=False):
        self.name, self.make, self.read, self.mutate, self.exact = name, make, read, mutate, exact


def dataset(path):
    found = load(path)
    for part in found:
        images = np.asarray(part.images)
        assert images.dtype == np.float32 and np.isfinite(images).all() and len(images) == len(part.labels)
        assert part.labels.min() >= 0 and part.labels.max() < len(part.classes)


def model(path):
    found = gpucnn.load(path, small.model())
    return [found.weights_sha256(), found.class_names, found.mean, found.std, found.image_shape]


def ready_made(path):
    found = gpucnn.load(path)
    if math.prod(found.image_shape) < 1 << 20:
        found.place(get_backend("numpy", "fast")).predict(np.zeros((1, *found.image_shape), np.float32))
    return [found.weights_sha256(), found.class_names, found.mean, found.std, found.image_shape]


def whole_run(path):
    found = load_run(path.parent, small.model(), best=True)
    return [found.model.weights_sha256(), found.history.epochs, found.epoch]


def resumed(path):
    """The weights after three epochs."""
    trainer = small.trainer(path.parent, math="fast", schedule=Constant())
    trainer.fit(X, Y, 3, validation=0.3, resume=True)
    return trainer.model.weights_sha256()


def pictures(path):
    images, _, _ = load_images(path, (3, 6, 5))
    assert np.isfinite(images).all() and images.shape == (1, 3, 6, 5)


def save_model(folder):
    made = small.model().initialize(1)
    made.class_names, made.mean, made.std = ["a", "b", "c"], (0.5,), (0.25,)
    gpucnn.save(made, folder / "model")
    return folder / "model"


def save_ready_made(folder):
    made = gpucnn.models.mlp((1, 4, 4), 3, hidden=(5,)).initialize(1)
    made.class_names = ["a", "b", "c"]
    gpucnn.save(made, folder / "model")
    return folder / "model"


def run_folder(name, epochs=2):
    def make(folder):
        from gpucnn.training import run

        run.draw_curves = lambda history: b"a picture"
        small.trainer(folder, math="fast", schedule=Constant()).fit(X, Y, epochs, validation=0.3)
        return folder / name

    return make


def npy_folder(name):
    def make(folder):
        np.save(folder / "images.npy", BYTES)
        np.save(folder / "labels.npy", LABELS)
        np.save(folder / "classes.npy", np.array(["one", "two"]))
        return folder / name

    return make


def npz(folder):
    np.savez(folder / "a.npz", images=BYTES.astype(np.float32), labels=LABELS, classes=np.array(["one", "two"]))
    return folder / "a.npz"


def table(folder: Path) -> Path:
    """Kaggle's layout: a label, then the pixels, of ten images of 4x4 pixels."""
    rng = np.random.default_rng(0)
    rows = [f"{n % 3},{','.join(map(str, rng.integers(0, 256, 16)))}" for n in range(10)]
    file = folder / "table.csv"
    file.write_text("\n".join([f"label,{','.join(f'pixel{n}' for n in range(16))}", *rows, ""]))
    return file


def idx_folder(name):
    def make(folder):
        import gzip

        for part in ("train", "t10k"):
            head = bytes((0, 0, 8, 3)) + b"".join(size.to_bytes(4, "big") for size in BYTES.shape)
            (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + BYTES.tobytes()))
            head = bytes((0, 0, 8, 1)) + (10).to_bytes(4, "big")
            (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + LABELS.astype(np.uint8).tobytes())
        return folder / name

    return make


def cifar(folder):
    import tarfile

    rng = np.random.default_rng(0)
    names = "".join(f"class{i}\n" for i in range(10)).encode()
    files = {f"data_batch_{i}.bin": 10 for i in range(1, 6)} | {"test_batch.bin": 10}
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        for name, count in files.items():
            records = rng.integers(0, 256, (count, 3073), dtype=np.uint8)
            records[:, 0], records[:, 1:] = np.arange(count), records[:, 1:] // 64
            info = tarfile.TarInfo(f"cifar/{name}")
            info.size = records.size
            archive.addfile(info, io.BytesIO(records.tobytes()))
        info = tarfile.TarInfo("cifar/batches.meta.txt")
        info.size = len(names)
        archive.addfile(info, io.BytesIO(names))
    return folder / "a.tar.gz"


def picture(ending, **settings):
    def make(folder):
        from PIL import Image

        Image.fromarray(np.dstack([BYTES[0]] * 3)).save(folder / f"a.{ending}", **settings)
        return folder / f"a.{ending}"

    return make


def state_dict(folder):
    save_pytorch(small.model().initialize(1), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def foreign(path):
    return from_pytorch(small.model(), path).weights_sha256()


def kernel(folder):
    os.environ["GPUCNN_CACHE"] = str(folder)
    from gpucnn import cache

    cache.Kernels("cuda").write("kernel", b"name\ncode")
    return folder / "cuda" / "kernel"


def cached(path):
    from gpucnn import cache

    return (cache.Kernels("cuda").read(path.name) or b"name\ncode").decode()  # what is damaged counts as absent


def of_folder(path):
    return dataset(path.parent)


CASES = [
    Case("model", save_model, model, mutate.blind, exact=True),
    Case("model with a right digest", save_model, model, mutate.model_file),
    Case("ready-made model", save_ready_made, ready_made, mutate.model_file),
    Case("checkpoint", run_folder("checkpoint.safetensors"), whole_run, mutate.blind, exact=True),
    Case("checkpoint with a right digest", run_folder("checkpoint.safetensors"), whole_run, mutate.model_file),
    Case("best with a right digest", run_folder("best.safetensors"), whole_run, mutate.model_file),
    Case("metrics", run_folder("metrics.jsonl"), whole_run, mutate.json_text, exact=True),
    Case("configuration", run_folder("config.json"), whole_run, mutate.json_text, exact=True),
    Case("resumed", run_folder("checkpoint.safetensors"), resumed, mutate.blind, exact=True),
    Case("npz", npz, dataset, mutate.npz),
    Case("images.npy", npy_folder("images.npy"), of_folder, mutate.npy),
    Case("labels.npy", npy_folder("labels.npy"), of_folder, mutate.npy),
    Case("classes.npy", npy_folder("classes.npy"), of_folder, mutate.npy),
    Case("IDX images", idx_folder("train-images-idx3-ubyte.gz"), of_folder, mutate.gz),
    Case("IDX labels", idx_folder("t10k-labels-idx1-ubyte"), of_folder, mutate.blind),
    Case("CIFAR", cifar, dataset, mutate.tar_gz),
    Case("CIFAR with extended headers", cifar, dataset, lambda content, rng: mutate.pax(rng)),
    Case("CSV", table, dataset, mutate.blind),
    Case("PNG", picture("png"), pictures, mutate.png),
    Case("JPEG", picture("jpg"), pictures, mutate.blind),
    Case("WebP", picture("webp"), pictures, mutate.blind),
    Case("BMP", picture("bmp"), pictures, mutate.blind),
    Case("TIFF", picture("tiff"), pictures, mutate.blind),
    Case("GIF", picture("gif"), pictures, mutate.blind),
    Case("PyTorch weights", state_dict, foreign, mutate.model_file),
    Case("compiled kernel", kernel, cached, mutate.blind, exact=True),
]


def attempt(case: Case, path: Path, content: bytes, expected) -> str | None:
    """What is wrong with reading this content; None if nothing is."""
    path.write_bytes(content)
    started = time.perf_counter()
    try:
        found = case.read(path)
        if case.exact and json.loads(json.dumps(found)) != expected:
            return "was read as something else"
    except GpucnnError as error:
        if "\n" in str(error) or len(str(error)) > 1500:
            return f"is refused in more than a sentence: {error}"
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"
    if time.perf_counter() - started > SECONDS:
        return f"took {time.perf_counter() - started:.0f} seconds"
    return None


def restore(folder: Path, kept: dict[str, bytes]) -> None:
    """The folder as it was: resuming trains on."""
    for path in folder.rglob("*"):
        if path.is_file() and str(path.relative_to(folder)) not in kept:
            path.unlink()
    for name, content in kept.items():
        (folder / name).write_bytes(content)


def fuzz(case: Case, folder: Path, count: int, seed: int) -> list[tuple[str, str]]:
    """(what is wrong, content in base64) of so many damaged files; in a process of its own, which may die."""
    folder.mkdir()
    path, last = case.make(folder), folder.parent / f"{folder.name}.last"
    content = path.read_bytes()
    last.write_bytes(content)
    kept = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    expected = json.loads(json.dumps(case.read(path)))
    restore(folder, kept)
    rng, wrong = np.random.default_rng(seed), []
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    for _ in range(count):
        damaged = case.mutate(content, rng)
        last.write_bytes(damaged)
        reason = attempt(case, path, damaged, expected)
        if case.read is resumed:
            restore(folder, kept)
        if reason:
            wrong.append((reason, base64.b85encode(damaged[:100_000]).decode()))
    return wrong


def check(case: Case, folder: Path, count: int, seed: int) -> None:
    status, wrong = forked(lambda: fuzz(case, folder, count, seed))
    if status:
        content = base64.b85encode((folder.parent / f"{folder.name}.last").read_bytes()[:100_000]).decode()
        wrong = [(f"ended the process with {status}: {wrong}", content)]
    assert wrong == [], f"{case.name}: {len(wrong)} of {count}; the first {wrong[0][0]}\n{wrong[0][1]}"


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_some_damaged_files(tmp_path, case):
    check(case, tmp_path / "files", 12, seed=1)


def corpus():
    return sorted(CORPUS.glob("*.json"))


@pytest.mark.parametrize("file", corpus(), ids=[file.stem for file in corpus()])
def test_what_was_found_before(tmp_path, file):
    """A file of the corpus is {"case": its name, "content": base85 of the damaged file, "found": what happened}."""
    about = json.loads(file.read_text())
    case = next(case for case in CASES if case.name == about["case"])
    replay = Case(case.name, case.make, case.read, lambda *_: base64.b85decode(about["content"]), case.exact)
    check(replay, tmp_path / "files", 1, seed=0)


@pytest.mark.long
def test_twenty_thousand_damaged_files(tmp_path):
    count = int(os.environ.get("GPUCNN_FUZZ", "1000"))  # of each kind; resuming, which trains, has a tenth
    tried, failures = 0, []
    for number, case in enumerate(CASES):
        some = count // 10 if case.read is resumed else count
        try:
            check(case, tmp_path / str(number), some, seed=int(os.environ.get("GPUCNN_FUZZ_SEED", "1000")) + number)
        except AssertionError as error:
            failures.append(str(error))
        tried += some
    print(json.dumps({"files": tried, "kinds": len(CASES), "wrong": len(failures)}))
    assert failures == []
