"""Calls with odd arguments: a public function works, or raises an error of gpucnn, whatever it is given.

Arguments are drawn without regard to the types in the signature, and with regard to them: right in kind, odd in value.
Python's own TypeError is right where an argument is missing or has an unknown name, and nowhere else.
"""

import inspect
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

import gpucnn
from gpucnn import data, layers, losses, models, optimizers, schedules, storage, training
from gpucnn.backends import get_backend
from gpucnn.errors import GpucnnError
from tests.faults.kills import forked
from tests.training import small

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, so that a crash is found and not died of")

X, Y = small.data()
SECONDS = 60.0


NUMBERS = [0, 1, -1, 2, 3, 7, 1.5, -0.0, 2**31, 2**63, 2**64, 10**30, 10**400, float("nan"), float("inf"), 1e-320, True]
NUMBERS += [np.float32(0.5), np.int64(3), np.array(2), np.uint8(255), 1j, np.bool_(True)]
TEXTS = [
    "",
    "x",
    "relu",
    "same",
    "valid",
    "numpy",
    "exact",
    "fast",
    "a\0b",
    "\ud800",
    "é" * 300,
    "/",
    ".",
    "..",
    b"x",
    "\n",
]
SHAPES = [
    (),
    (0,),
    (1,),
    (3, 3),
    (1, 8, 8),
    (1, 0, 8),
    (-1, 8, 8),
    (1, 8),
    (2**31, 2**31, 2**31),
    (1, 8.5, 8),
    ("a", 8, 8),
]
ARRAYS = [
    X,
    Y,
    X[:0],
    X[:1],
    X[0],
    X.astype(np.float64),
    X.astype(np.int8),
    X * np.nan,
    X * np.inf,
    X[..., ::-1],
    Y * -1,
]
ARRAYS += [
    Y + 10**9,
    Y.astype(np.float32),
    Y[:, None],
    np.array("x"),
    np.array([None]),
    np.zeros((0, 0)),
    np.array(1.0),
]
ARRAYS += [X.astype(">f4"), np.zeros((45, 1, 8, 8), np.complex64), np.ma.array(X), X.tolist(), np.zeros(2, "M8[s]")]
OTHERS = [
    None,
    [],
    {},
    (),
    [1, 2],
    {"a": 1},
    object(),
    int,
    len,
    lambda *_: 1,
    range(3),
    iter([1]),
    ...,
    NotImplemented,
]
OTHERS += [Path("x"), slice(1), set(), bytearray(b"x"), memoryview(b"x"), Exception("x"), [[[]]], {1: {}}]
ALL = [*NUMBERS, *TEXTS, *SHAPES, *ARRAYS, *OTHERS]


def by_type(annotation: str) -> list:
    """Values that such an annotation lets expect."""
    found = []
    for words, values in {
        ("int", "float", "Sizes", "None"): NUMBERS,
        ("str", "path", "Path", "Literal"): TEXTS,
        ("tuple", "Sequence", "list"): SHAPES,
        ("ndarray", "Array", "images", "labels"): ARRAYS,
    }.items():
        if any(word in annotation for word in words):
            found += values
    return found or ALL


def calls(folder: Path) -> dict:
    """(function, good arguments) by name."""
    made = small.model().initialize(1)
    file, run = folder / "model", folder / "run"
    training.save(made, file)
    small.trainer(run, math="fast").fit(X, Y, 1)
    exact = get_backend("numpy", "fast")

    def trained(**settings):
        fit = {name: settings.pop(name) for name in ("images", "labels", "epochs", "validation", "monitor", "patience")}
        trainer = training.Trainer(small.model(), backend=exact, progress=False, **settings)
        trainer.fit(fit.pop("images"), fit.pop("labels"), fit.pop("epochs"), **fit)

    def built(layer, arguments):
        def build(**settings):
            models.Model(layers.Sequential(layer(**settings), layers.Flatten(), layers.Dense(3)), (1, 8, 8))

        return build, arguments

    fitted = {"images": X, "labels": Y, "epochs": 1, "validation": None, "monitor": "loss", "patience": None}
    found = {
        "load": (training.load, {"path": file, "model": made}),
        "save": (training.save, {"model": made, "path": folder / "saved"}),
        "load_run": (training.load_run, {"path": run, "model": made, "best": False}),
        "data.load": (data.load, {"name_or_path": "digits"}),
        "load_images": (data.load_images, {"path": folder, "input_shape": (1, 8, 8)}),
        "fetch": (data.fetch, {"name": "nothing", "to": folder / "set", "timeout": 1.0}),
        "write_file": (storage.write_file, {"path": folder / "written"}),
        "from_pytorch": (models.from_pytorch, {"model": made, "state": models.to_pytorch(made)}),
        "fit": (trained, {**fitted, "run": None, "seed": 0, "batch_size": 16}),
        "augmented": (trained, {**fitted, "shift": 1, "flip": True, "crop": False, "cutout": 2, "normalize": False}),
        "limits": (trained, {**fitted, "clip_norm": None, "clip_value": None, "loss": None, "callbacks": ()}),
        "predict": (made.predict, {"images": X, "batch_size": 16}),
        "build_model": (models.build_model, {"name": "mlp", "input_shape": (1, 8, 8), "classes": 3, "hidden": (4,)}),
        "get_backend": (get_backend, {"name": "numpy", "math": "exact", "threads": 1, "dtype": None, "graph": True}),
        "Conv2d": built(layers.Conv2d, {"channels": 2, "size": 3, "stride": 1, "padding": 0, "groups": 1}),
        "MaxPool2d": built(layers.MaxPool2d, {"size": 2, "stride": 2, "padding": 0}),
        "AvgPool2d": built(layers.AvgPool2d, {"size": 2, "stride": 2, "padding": 0}),
        "BatchNorm": built(layers.BatchNorm, {"momentum": 0.1, "eps": 1e-5, "activation": None}),
        "Dropout": built(layers.Dropout, {"p": 0.5}),
        "Dense": built(layers.Dense, {"outputs": 3, "bias": True, "activation": None}),
        "SGD": (optimizers.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False}),
        "Adam": (optimizers.Adam, {"lr": 0.1, "weight_decay": 0.0}),
        "Cosine": (schedules.Cosine, {}),
        "Step": (schedules.Step, {"every": 3}),
        "SoftmaxCrossEntropy": (losses.SoftmaxCrossEntropy, {"label_smoothing": 0.1, "class_weights": None}),
    }
    known = {}
    for name, (function, arguments) in found.items():
        if name in ("Conv2d", "MaxPool2d", "AvgPool2d", "BatchNorm", "Dropout", "Dense"):
            names = inspect.signature(getattr(layers, name)).parameters
            arguments = {key: value for key, value in arguments.items() if key in names}
            for key, parameter in names.items():  # what has another name there
                named = parameter.kind is not parameter.VAR_POSITIONAL
                if named and parameter.default is parameter.empty and key not in arguments:
                    arguments[key] = 2
        elif name not in ("fit", "augmented", "limits"):
            names = inspect.signature(function).parameters
            if not any(one.kind is one.VAR_KEYWORD for one in names.values()):
                arguments = {key: value for key, value in arguments.items() if key in names}
        known[name] = function, arguments
    known["write_file"] = (lambda path: storage.write_file(path, b"x")), known["write_file"][1]
    return known


# Of these everything is checked where it enters; the others are tried by the long test.
FILES = ("load", "save", "load_run", "data.load", "load_images", "fetch", "write_file", "from_pytorch", "get_backend")


def fuzz(folder: Path, count: int, seed: int, names: tuple[str, ...] | None) -> list[str]:
    """What was wrong with so many calls; the last one stands in a file beside, should the process die."""
    folder.mkdir()
    os.chdir(folder)
    known = calls(folder)
    rng, wrong = np.random.default_rng(seed), []
    chosen = list(names or known)
    for _ in range(count):
        name = chosen[int(rng.integers(len(chosen)))]
        function, good = known[name]
        arguments = dict(good)
        hints = {key: str(part.annotation) for key, part in inspect.signature(function).parameters.items()}
        for key in rng.permutation(sorted(good))[: 1 + int(rng.random() < 0.3)]:
            pool = ALL if rng.random() < 0.5 else by_type(hints.get(str(key), type(good[str(key)]).__name__) + str(key))
            arguments[str(key)] = pool[int(rng.integers(len(pool)))]
        if isinstance(arguments.get("epochs", 1), int) and arguments.get("epochs", 1) > 3:
            continue  # it would train so long
        text = f"{name}({', '.join(f'{k}={v!r:.60}' for k, v in arguments.items() if v is not good[k])})"
        (folder.parent / "last").write_text(text, errors="backslashreplace")
        started = time.perf_counter()
        try:
            function(**arguments)
        except GpucnnError as error:
            if len(str(error)) > 3000:
                wrong.append(f"{text}: a message of {len(str(error))} letters")
        except MemoryError:
            pass  # of sizes that are right but for this machine; the command line says so
        except BaseException as error:
            wrong.append(f"{text}: {type(error).__name__}: {str(error)[:200]}")
        if time.perf_counter() - started > SECONDS:
            wrong.append(f"{text}: {time.perf_counter() - started:.0f} seconds")
    return wrong


def check(tmp_path, count, seed, names) -> None:
    status, wrong = forked(lambda: fuzz(tmp_path / "calls", count, seed, names))
    if status:
        wrong = [f"the process ended with {status} in {(tmp_path / 'last').read_text()}: {wrong}"]
    if names is None:
        print(json.dumps({"calls": count, "functions": len(calls(tmp_path)), "wrong": len(wrong)}))
    assert wrong == [], "\n".join(wrong)


def test_some_odd_calls(tmp_path):
    check(tmp_path, 300, 1, FILES)


@pytest.mark.long
def test_five_thousand_odd_calls(tmp_path):
    check(tmp_path, 6000, int(os.environ.get("GPUCNN_FUZZ_SEED", "1000")), None)


def test_the_package_is_the_one_under_test():
    assert Path(gpucnn.__file__).parent == Path(training.__file__).parent.parent
