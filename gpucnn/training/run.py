"""A run's folder: what was asked for, what was measured, where it stands.

    config.json              model, optimiser, schedule, seed, data, backend ...
    metrics.jsonl            one JSON object an epoch (gpucnn.training.history says what is in it)
    curves.png               loss and accuracy over the epochs
    checkpoint.safetensors   weights, running statistics, optimiser state and position after the last whole epoch
    best.safetensors         weights and running statistics of the epoch that did best in validation, if there was any

Each file is whole at any moment, whatever kills the process (gpucnn.storage). One process at a time trains in a folder:
while it does, run.lock lies there too.
"""

import contextlib
import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn import arguments
from gpucnn.errors import CheckpointError, ConfigurationError
from gpucnn.models.files import (
    ABOUT,
    AVERAGE,
    averaged,
    check_same_model,
    describe,
    read_tensors,
    restore,
    write_tensors,
)
from gpucnn.models.model import Model
from gpucnn.optimizers import Optimizer
from gpucnn.schema import check, difference, parse
from gpucnn.storage import as_path, decoding, is_beside, locked, make_folder, read_file, write_file
from gpucnn.training.average import Average
from gpucnn.training.curves import draw_curves
from gpucnn.training.history import History
from gpucnn.training.settings import CHANGEABLE

CHECKPOINT, BEST, METRICS, CONFIG = "checkpoint.safetensors", "best.safetensors", "metrics.jsonl", "config.json"
LOCK, _FILES = "run.lock", (CHECKPOINT, BEST, METRICS, CONFIG, "curves.png")
_RECORD = {
    "epoch": int,
    "step": int,
    "loss": float,
    "accuracy?": (float, None),
    "validation_loss?": float,
    "validation_accuracy?": (float, None),
    "learning_rate": float,
    "seconds": float,
    "images_per_second": float,
}
_CHECKPOINT = {**ABOUT, "settings": dict, "epoch": int, "step": int, "metrics_sha256": str, "changed?": dict}
_BEST = {**ABOUT, "epoch": int, "measured": _RECORD}


@contextlib.contextmanager
def run_folder(path) -> Iterator["RunFolder"]:
    """The folder at `path` for the one process that trains in it; made if it is not there.

    Raises ConfigurationError where that is impossible, where another process trains in it, and where it holds anything
    but a run: such a folder stays as it is.
    """
    path = as_path(path)
    try:
        _refuse_foreign(path)
        make_folder(path)
        # Made anew for a run that is refused, it stays, empty.
        with locked(path / LOCK, path, "wait for it, or choose another run folder") as taken:
            _refuse_foreign(path)
            for entry in path.iterdir():
                if is_beside(entry.name, _FILES):  # of a process that was killed while writing
                    entry.unlink()
            yield RunFolder(path, taken)
    except OSError as error:
        raise ConfigurationError(f"cannot use {path} as a run folder: {error.strerror or error}") from error


def _refuse_foreign(path: Path) -> None:
    """Raises ConfigurationError where the folder at `path` holds files, but no run."""
    if not path.exists():
        return
    names = sorted(entry.name for entry in path.iterdir())
    if CONFIG in names:
        with contextlib.suppress(CheckpointError):
            if isinstance(read_config(path).get("gpucnn"), str):
                return
    others = [name for name in names if name != LOCK and not is_beside(name, _FILES)]
    if others:
        raise ConfigurationError(
            f"{path} is no run folder, and not empty: it holds {others[0]}"
            + (f" and {len(others) - 1} more" if len(others) > 1 else "")
            + "; choose another one for the run"
        )


def read_config(folder: Path) -> dict:
    """What config.json holds; raises CheckpointError where it is missing or damaged."""
    file = folder / CONFIG
    shape = {"smaller_is_better?": [str]}
    return parse(read_file(file, CheckpointError, "run's configuration"), shape, file, CheckpointError)


class RunFolder:
    """The files of the run in the folder at `path`."""

    def __init__(self, path: Path, taken: Callable[[], bool]):
        self.path, self._taken = path, taken
        self.checkpoint = path / CHECKPOINT
        self.best = path / BEST
        self._encoded: list[tuple[dict, bytes]] = []  # epochs and their lines of metrics.jsonl

    def refuse_if_used(self) -> None:
        """Raises ConfigurationError if a checkpoint is there that a new run would overwrite."""
        if self.checkpoint.exists():
            raise ConfigurationError(
                f"{self.path} holds a run already; continue it with resume=True (--resume), or choose another run "
                "folder"
            )

    def refuse_taken(self) -> None:
        """Raises ConfigurationError where another run has a folder of this name, whose own was moved or removed."""
        if self._taken():
            raise ConfigurationError(
                f"another run is in {self.path} by now: that folder, or {LOCK} in it, was moved or removed while "
                "this one trained there; it ends, and can be continued where its folder is"
            )

    def write_config(self, config: dict) -> None:
        """Write config.json."""
        write_file(self.path / CONFIG, (json.dumps(config, indent=2) + "\n").encode())

    def write_metrics(self, history: History) -> None:
        """Write metrics.jsonl whole."""
        write_file(self.path / METRICS, self._lines(history))

    def _lines(self, history: History) -> bytes:
        """metrics.jsonl. Each epoch is encoded once: of a thousand short ones, all of them each time took longer than
        training.
        """
        known = self._encoded
        for number, epoch in enumerate(history.epochs):
            if number == len(known) or known[number][0] != epoch:  # a callback may have changed an earlier one
                known[number : number + 1] = [(copy.deepcopy(epoch), (json.dumps(epoch) + "\n").encode())]
        return b"".join(line for _, line in known[: len(history)])

    def write_curves(self, history: History) -> None:
        """Draw curves.png."""
        write_file(self.path / "curves.png", draw_curves(history))

    def write_best(self, model: Model, record: dict, weights: dict[str, np.ndarray]) -> None:
        """Write the model with these weights and `record`, the epoch's entry in the history. To be done before the
        checkpoint of the same epoch: a run killed between the two measures that epoch again, and finds the same
        weights.
        """
        state = {f"model.{name}": value for name, value in weights.items()}
        write_tensors(self.best, state, {**describe(model), "epoch": record["epoch"], "measured": record})

    def read_best(self, model: Model, epoch: int, done: int) -> tuple[int, dict[str, np.ndarray]]:
        """(epoch, state) of the best file, which must be of `epoch`, or of the one after the `done` ones.

        Raises CheckpointError if it is not, or is missing or damaged.
        """
        if not self.best.exists():
            raise CheckpointError(
                f"{self.path} has lost {BEST}, the weights of epoch {epoch}, which is its best so far; put that file "
                "back, or start a new run folder"
            )
        tensors, about = read_tensors(self.best, _BEST)
        check_same_model(self.best, about, model)
        if about["epoch"] not in (epoch, done + 1):
            raise CheckpointError(
                f"{self.best} is of epoch {about['epoch']}, but epoch {epoch} did best in {self.path / METRICS}; "
                "start a new run folder"
            )
        return about["epoch"], {name.removeprefix("model."): value for name, value in tensors.items()}

    def forget_best(self) -> None:
        """Remove what a run has left that was killed before its first checkpoint.

        Raises ConfigurationError for a file that no run wrote; it stays.
        """
        if self.best.exists():
            try:
                read_tensors(self.best, _BEST)
            except CheckpointError:
                raise ConfigurationError(
                    f"{self.best} was not written by a run; move it away, or choose another run folder"
                ) from None
            self.best.unlink(missing_ok=True)

    def write_checkpoint(self, state: dict[str, np.ndarray], about: dict, history: History) -> None:
        """Write what `host_state` gave. `write_metrics` of the same history comes before."""
        metrics = hashlib.sha256(self._lines(history)).hexdigest()
        about = {**about, "epoch": len(history), "step": history.last["step"], "metrics_sha256": metrics}
        write_tensors(self.checkpoint, state, about)

    def read_checkpoint(self, model: Model, optimizer: Optimizer, settings: dict) -> "Checkpoint":
        """What the checkpoint holds; nothing is changed yet.

        Raises CheckpointError if it is damaged, of another model, or of a run with other settings.
        """
        tensors, about = read_tensors(self.checkpoint, _CHECKPOINT)
        check_same_model(self.checkpoint, about, model)
        if changed := difference(about["settings"], settings):
            raise CheckpointError(
                f"{self.checkpoint} is of a run with other settings: {changed}; continue with the same settings, or "
                "start a new run folder"
            )
        for name in optimizer.state_dict():
            for parameter in model.parameters:
                found = tensors.get(f"optimizer.{name}.{parameter.name}")
                if found is None or found.shape != tuple(parameter.shape) or found.dtype.kind != "f":
                    raise CheckpointError(f"{self.checkpoint} is damaged: it lacks {name} of {parameter.name}")
        check(about, {"changed?": _kinds(settings)}, self.checkpoint, CheckpointError)
        return Checkpoint(self.checkpoint, tensors, about, _read_metrics(self.path, about))


@dataclass
class Checkpoint:
    """What `read_checkpoint` found."""

    path: Path
    tensors: dict[str, np.ndarray]
    about: dict
    history: History

    @property
    def changed(self) -> dict[tuple[str, str], Any]:
        """The values of settings that a callback had changed, by (part of the trainer, name)."""
        changed, known = self.about.get("changed", {}), self.about["settings"]
        pairs = ((part, name) for part in CHANGEABLE for name in changed.get(part, {}))
        return {(part, name): changed[part][name] for part, name in pairs if name in known[part] and name != "name"}

    def restore(self, model: Model, optimizer: Optimizer, average: Average | None = None) -> None:
        """Put weights, optimiser state and average back."""
        if average:  # its presence is a setting, which read_checkpoint has compared
            state = {name: value for name, value in self.tensors.items() if name.startswith(AVERAGE)}
            expected = {AVERAGE + name: value.shape for name, value in model.state_dict().items()}
            if {name: value.shape for name, value in state.items() if value.dtype.kind == "f"} != expected:
                raise CheckpointError(f"{self.path} is damaged: it lacks the average of the weights")
            average.load_state_dict(model, {name.removeprefix(AVERAGE): value for name, value in state.items()})
        restore(self.path, self.tensors, self.about, model)
        model.frozen = self.about.get("frozen", [])  # a callback may have changed it since the first epoch
        for name, array in optimizer.state_dict().items():
            host = np.zeros(array.shape, array.dtype)
            for parameter, view in model.split(host).items():
                view[...] = self.tensors[f"optimizer.{name}.{parameter}"]
            model.backend.assign(array, host)


def _kinds(settings: dict) -> dict:
    """The shape of what may have changed of these settings (gpucnn.schema)."""
    kinds = {int: float, type(None): object}
    return {
        f"{part}?": {f"{name}?": kinds.get(type(value), type(value)) for name, value in settings[part].items()}
        for part in CHANGEABLE
    }


def host_state(model: Model, optimizer: Optimizer, average: Average | None = None) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, on the host."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    if average:
        state |= {AVERAGE + name: value for name, value in average.state_dict(model).items()}
    for name, array in optimizer.state_dict().items():
        for parameter, view in model.split(model.backend.host(array)).items():
            state[f"optimizer.{name}.{parameter}"] = view
    return state


def first_not_finite(state: dict[str, np.ndarray]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity."""
    return next((name for name, value in state.items() if not np.isfinite(value).all()), None)


@dataclass
class Run:
    """What `load_run` read: the model as after epoch `epoch`, the run's configuration, its history."""

    path: Path
    model: Model
    config: dict
    history: History
    epoch: int


def load_run(path, model: Model | None = None, *, best: bool = False) -> Run:
    """The run in the folder at `path`. A model of your own is made by you and passed in, as for `gpucnn.load`.

    The model has the weights of the last whole epoch, or with `best` those of the epoch that did best in validation;
    the averaged ones, if the run kept an average (`ema`).
    Raises CheckpointError if there is no run, or it is damaged, or has no best epoch because nothing was validated.
    """
    folder, best = as_path(path), arguments.truth("best", best)
    arguments.instance("model", model, Model, "a gpucnn.Model", optional=True)
    with decoding(folder, CheckpointError, "run folder"):
        checkpoint = _kept(folder)
        # Not through run_folder: the run may be training still.
        tensors, about = read_tensors(checkpoint, _CHECKPOINT)
        config, history = _read_history(folder, about)
        if best:
            checkpoint = folder / BEST
            if not checkpoint.is_file():
                lost = f"has lost {BEST}, the best epoch's weights"
                why = "has no best epoch, since it had no validation images" if history.best_epoch() is None else lost
                raise CheckpointError(f"{folder} {why}; take the last one")
            tensors, about = read_tensors(checkpoint, _BEST)
        return Run(folder, restore(checkpoint, averaged(tensors), about, model), config, history, about["epoch"])


def read_history(path) -> tuple[dict, History]:
    """(config.json, history) of the run in the folder at `path`, whatever its model; raises CheckpointError."""
    folder = as_path(path)
    with decoding(folder, CheckpointError, "run folder"):
        _, about = read_tensors(_kept(folder), _CHECKPOINT)
        return _read_history(folder, about)


def _kept(folder: Path) -> Path:
    """The checkpoint in a folder; raises CheckpointError where there is none."""
    checkpoint = folder / CHECKPOINT
    if not checkpoint.is_file():
        missing = f"{folder} holds no checkpoint" if folder.exists() else f"there is no file or folder {folder}"
        raise CheckpointError(f"{missing}; give the folder of a run that finished an epoch")
    return checkpoint


def _read_history(folder: Path, about: dict) -> tuple[dict, History]:
    config, history = read_config(folder), _read_metrics(folder, about)
    history.smaller |= set(config.get("smaller_is_better", []))
    return config, history


def _read_metrics(folder: Path, about: dict) -> History:
    """The lines of the checkpoint's epochs: a run killed between the two files has measured one more than it kept.

    Raises CheckpointError unless they are what was measured before the checkpoint was written.
    """
    path, epochs = folder / METRICS, about["epoch"]
    lines = read_file(path, CheckpointError, "run's metrics").splitlines(keepends=True)[:epochs]
    if len(lines) != epochs or hashlib.sha256(b"".join(lines)).hexdigest() != about["metrics_sha256"]:
        raise CheckpointError(f"{path} does not hold the {epochs} epochs that the checkpoint has seen")
    return History([parse(line, _RECORD, path, CheckpointError) for line in lines])
