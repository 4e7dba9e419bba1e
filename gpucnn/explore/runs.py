"""Runs: the folders that the command was given and those that the page had trained, by their place in the list.

A run in progress is read as it stands: its files are written beside their places and renamed, so each is whole.
"""

import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn import data, show
from gpucnn.backends.protocol import Backend
from gpucnn.data import Dataset
from gpucnn.errors import CheckpointError, ConfigurationError, DataError
from gpucnn.explore.body import Body
from gpucnn.explore.engine import packed
from gpucnn.explore.training import SNAPSHOTS
from gpucnn.models import Model
from gpucnn.models.heads import CLASSIFIER
from gpucnn.show.layers import Step, convolutions, filters_of, steps
from gpucnn.storage import is_locked, read_file
from gpucnn.training import Trainer, load, load_run
from gpucnn.training.run import CHECKPOINT, CONFIG, LOCK, METRICS

_KEPT = 8  # models in memory
_LIVE = 20.0  # seconds since the last epoch in which an unfinished run of another machine counts as going on
_TESTED = 10_000  # test images at most
_MAPS = 32  # of a layer at most
_TABLE = 100  # classes of a confusion matrix at most
_SEEN_BYTES = 256 << 20  # of weights that were seen while a run went on
_UNREADABLE = CheckpointError, ValueError, RecursionError  # of JSON that somebody else has written


@dataclass
class Runs:
    """`folders` by index. `training` tells whether this page's process is training one of them now, None of others."""

    folders: list[Path]
    backend: Backend
    training: Callable[[Path], bool | None] = lambda folder: None
    _models: OrderedDict = field(default_factory=OrderedDict)
    _sets: dict[str, tuple[Dataset, Dataset]] = field(default_factory=dict)
    _results: dict = field(default_factory=dict)
    # By folder and epoch: weights, and what was measured with them.
    _seen: dict[Path, dict[int, tuple[dict[str, np.ndarray], dict]]] = field(default_factory=dict)

    # ---- the list ----------------------------------------------------------------------------------------------------

    def index(self, body: Body) -> int:
        """The run that a request names; raises ConfigurationError where there is none."""
        if not self.folders:
            raise ConfigurationError("there is no run yet; train a network first")
        return body.integer("run", 0, len(self.folders) - 1)

    def listing(self) -> list[dict[str, Any]]:
        """What the list shows of each run."""
        return [self._about(index) for index in range(len(self.folders))]

    def _about(self, index: int) -> dict[str, Any]:
        folder = self.folders[index]
        config = _config(folder)
        epochs = _metrics(folder)
        planned = config.get("epochs")
        planned = planned if isinstance(planned, int) else len(epochs)
        settings = config.get("train")
        return {
            "run": index,
            "name": folder.name,
            "model": _text(config, "model"),
            "data": _text(settings, "data"),
            "backend": _text(config, "backend"),
            "classifier": "accuracy" in epochs[-1] if epochs else None,
            "epochs": len(epochs),
            "planned": planned,
            "live": self._live(folder, len(epochs) < planned),
            "ready": (folder / CHECKPOINT).is_file(),
            "changed": _changed(folder / CHECKPOINT),
        }

    def _live(self, folder: Path, unfinished: bool) -> bool:
        trains = self.training(folder)
        if trains or is_locked(folder / LOCK):
            return True
        if trains is False:  # it was stopped here
            return False
        try:
            return unfinished and time.time() - (folder / METRICS).stat().st_mtime < _LIVE
        except OSError:
            return False

    def curves(self, body: Body) -> dict[str, Any]:
        """The history of the runs in `runs`, a list of {"run"}."""
        chosen = [self.index(part) for part in body.objects("runs", 8)]
        return {"runs": [{**self._about(index), "history": _metrics(self.folders[index])} for index in chosen]}

    # ---- looking into a run ------------------------------------------------------------------------------------------

    def epochs(self, index: int) -> list[int]:
        """The epochs whose weights can be looked at: in the run's snapshots, or seen while the run went on."""
        folder = self.folders[index]
        files = (folder / SNAPSHOTS).glob("*.safetensors")
        return sorted({int(file.stem) for file in files if file.stem.isdigit()} | self._seen.get(folder, {}).keys())

    def model(self, index: int, epoch: int | None = None) -> Model:
        """The run's network on the backend, as after `epoch` (None: the newest)."""
        folder = self.folders[index]
        if epoch is not None and epoch not in self.epochs(index):
            raise ConfigurationError(f"{folder.name} has kept no weights of epoch {epoch}")
        file = folder / CHECKPOINT if epoch is None else _snapshot(folder, epoch)
        try:
            key = file, file.stat().st_mtime_ns
        except OSError:
            if epoch is None:
                raise CheckpointError(f"{folder.name} has not finished an epoch yet") from None
            key = file, 0
        if key not in self._models:
            self._models[key] = self._load(folder, epoch, file if key[1] else None).place(self.backend)
            while len(self._models) > _KEPT:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key]

    def _load(self, folder: Path, epoch: int | None, file: Path | None) -> Model:
        if epoch is not None and file is not None:
            return load(file)
        run = load_run(folder)
        if epoch is None:
            self._remember(folder, run.history.epochs, run.model.state_dict())
        else:
            run.model.load_state_dict(self._seen[folder][epoch][0])
        return run.model

    def _remember(self, folder: Path, measured: list[dict], weights: dict[str, np.ndarray]) -> None:
        """Keep the weights after the last of the epochs `measured`. What was seen of another run that was here before
        is forgotten; the oldest make room.
        """
        epoch, before = len(measured), self._seen.get(folder, {})
        seen = {old: kept for old, kept in before.items() if old < epoch and kept[1] == measured[old - 1]}
        self._seen[folder] = seen
        seen[epoch] = weights, measured[-1]
        self._models.pop((_snapshot(folder, epoch), 0), None)
        size = sum(value.nbytes for value in weights.values())
        while len(seen) > 1 and len(seen) * size > _SEEN_BYTES:
            del seen[min(seen)]

    def data(self, index: int) -> tuple[Dataset, Dataset]:
        """(train, test) of the set that the run says it was trained on."""
        settings = _config(self.folders[index]).get("train")
        name = _text(settings, "data")
        if name is None:
            raise DataError(f"{self.folders[index].name} does not say what it was trained on")
        if name not in self._sets:
            self._sets[name] = data.load(name)
        if self._sets[name][1].labels.ndim > 1:
            folder = self.folders[index].name
            raise ConfigurationError(
                f"{folder} gives a class to each pixel, not to an image, which this page does not show"
            )
        return self._sets[name]

    def look(self, body: Body) -> dict[str, Any]:
        """The first convolution's filters, and what each layer makes of test image `image`, after `epoch`."""
        index = self.index(body)
        model = self.model(index, body.optional_integer("epoch", 1, 10**6))
        _, test = self.data(index)
        number = body.integer("image", 0, len(test.images) - 1, 0)
        maps, output = steps(model, np.asarray(test.images[number]), self.backend)
        found = next(iter(convolutions(model).values()), None)
        return {
            "epochs": self.epochs(index),
            "filters": None if found is None else packed(filters_of(model, found)),
            "layer": None if found is None else found.name,
            "maps": [layer_maps(step) for step in maps],
            "probabilities": numbers(output),
            "classes": test.classes,
            "label": test.classes[test.labels[number]],
            "images": len(test.images),
        }

    def results(self, body: Body) -> dict[str, Any]:
        """Of the newest weights on the test images: how many are right, the confusion matrix, None where a page could
        not show it, and the worst mistakes.
        """
        index = self.index(body)
        model = self.model(index)
        if model.head != CLASSIFIER:
            raise ConfigurationError("this network gives values, not classes: there is nothing to take for another")
        digest = self.folders[index], model.weights_sha256()
        if self._results.get("digest") != digest:
            _, test = self.data(index)
            images, labels = test.images[:_TESTED], test.labels[:_TESTED]
            probabilities = Trainer(model, backend=self.backend, progress=False).predict(images)
            counts = show.confusion(labels, probabilities.argmax(axis=1), test.classes)
            worst = show.mistakes(images, labels, probabilities, test.classes, most=12)
            self._results = {
                "digest": digest,
                "answer": {
                    "classes": test.classes,
                    "counts": counts.tolist() if len(counts) <= _TABLE else None,
                    "right": int(counts.trace()),
                    "total": int(counts.sum()),
                    "weights": digest[1],
                    "mistakes": [
                        {**vars(mistake), "pixels": packed(np.asarray(images[mistake.image]))} for mistake in worst
                    ],
                },
            }
        return self._results["answer"]


def numbers(output: np.ndarray) -> list[float]:
    """A network's outputs for one image; raises DataError for a NaN or infinity."""
    if not np.isfinite(output).all():
        raise DataError(
            "the network gives NaN or infinity for this image: its weights have become too large; train it with a "
            "smaller learning rate"
        )
    return [float(value) for value in output]


def _snapshot(folder: Path, epoch: int) -> Path:
    return folder / SNAPSHOTS / f"{epoch:04}.safetensors"


def layer_maps(step: Step) -> dict[str, Any]:
    """A layer's name, kind and values; of many maps the first."""
    return {
        "name": step.name,
        "kind": step.kind,
        "shape": list(step.values.shape),
        "values": packed(step.values[:_MAPS] if step.values.ndim == 3 else step.values),
    }


def _read(text: bytes) -> Any:
    """What the JSON text says; None for numbers that no JSON has, or no float."""

    def finite(number: str) -> float | None:
        return float(number) if math.isfinite(float(number)) else None

    return json.loads(text, parse_constant=finite, parse_float=finite)


def _text(settings: Any, name: str) -> str | None:
    """The text of this name in an object that JSON had; None for anything else."""
    value = settings.get(name) if isinstance(settings, dict) else None
    return value if isinstance(value, str) else None


def _changed(file: Path) -> str:
    """When the file was written last; '' where it is missing."""
    try:
        return str(file.stat().st_mtime_ns)
    except OSError:
        return ""


def _config(folder: Path) -> dict[str, Any]:
    """What config.json says; nothing where it is missing or no object."""
    try:
        config = _read(read_file(folder / CONFIG, CheckpointError, "run's configuration"))
    except _UNREADABLE:
        return {}
    return config if isinstance(config, dict) else {}


def _metrics(folder: Path) -> list[dict[str, Any]]:
    """The epochs in metrics.jsonl so far; none where it is missing or damaged."""
    try:
        lines = [_read(line) for line in read_file(folder / METRICS, CheckpointError, "run's metrics").splitlines()]
    except _UNREADABLE:
        return []
    return [line for line in lines if isinstance(line, dict)]
