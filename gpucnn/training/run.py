"""A run's folder: what was asked for, what was measured, where it stands.

    config.json              model, optimiser, schedule, seed, data, backend ...
    metrics.jsonl            one JSON object an epoch (gpucnn.training.history says what is in it)
    curves.png               loss and accuracy over the epochs
    checkpoint.safetensors   weights, running statistics, optimiser state and position after the last whole epoch
    best.safetensors         weights and running statistics of the epoch that did best in validation, if there was any

Every file is written beside its place and renamed, so each is whole at any moment, whatever kills the process.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpucnn import arguments
from gpucnn.arguments import shown
from gpucnn.errors import CheckpointError, ConfigurationError
from gpucnn.models.files import check_same_model, describe, read_tensors, restore, write_file, write_tensors
from gpucnn.models.model import Model
from gpucnn.optimizers import Optimizer
from gpucnn.training.curves import draw_curves
from gpucnn.training.history import History

CHECKPOINT, BEST, METRICS = "checkpoint.safetensors", "best.safetensors", "metrics.jsonl"


class RunFolder:
    """The folder at `path` as the one process that trains in it sees it; made if it is not there.

    Raises ConfigurationError where that is impossible.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.checkpoint = self.path / CHECKPOINT
        self.best = self.path / BEST
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for left_over in self.path.glob(".*.tmp"):  # of a process that was killed while writing
                left_over.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError(f"cannot use {path} as a run folder: {error.strerror or error}") from error

    def refuse_if_used(self) -> None:
        """Raises ConfigurationError if a checkpoint is there that a new run would overwrite."""
        if self.checkpoint.exists():
            raise ConfigurationError(
                f"{self.path} holds a run already; continue it with resume=True (--resume), or choose another run "
                "folder"
            )

    def write_config(self, config: dict) -> None:
        """Write config.json."""
        write_file(self.path / "config.json", (json.dumps(config, indent=2) + "\n").encode())

    def write_metrics(self, history: History) -> None:
        """Write metrics.jsonl whole."""
        write_file(self.path / METRICS, "".join(json.dumps(e) + "\n" for e in history.epochs).encode())

    def write_curves(self, history: History) -> None:
        """Draw curves.png."""
        write_file(self.path / "curves.png", draw_curves(history))

    def write_best(self, model: Model, record: dict) -> None:
        """Write the model's weights with `record`, the epoch's entry in the history. To be done before the checkpoint
        of the same epoch: a run killed between the two measures that epoch again, and finds the same weights."""
        state = {f"model.{name}": value for name, value in model.state_dict().items()}
        write_tensors(self.best, state, {**describe(model), "epoch": record["epoch"], "measured": record})

    def read_best(self, model: Model, epoch: int, done: int) -> tuple[int, dict[str, np.ndarray]]:
        """(epoch, state) of the best file, which must be of `epoch`, or of the one after the `done` ones.

        Raises CheckpointError if it is not, or is missing or damaged.
        """
        tensors, about = read_tensors(self.best)
        check_same_model(self.best, about, model)
        if about.get("epoch") not in (epoch, done + 1):
            raise CheckpointError(
                f"{self.best} is of epoch {about.get('epoch')}, but epoch {epoch} did best in {self.path / METRICS}; "
                "start a new run folder"
            )
        return about["epoch"], {name.removeprefix("model."): value for name, value in tensors.items()}

    def forget_best(self) -> None:
        """Remove what a run has left that was killed before its first checkpoint."""
        self.best.unlink(missing_ok=True)

    def write_checkpoint(self, state: dict[str, np.ndarray], about: dict) -> None:
        """Write what `host_state` gave."""
        write_tensors(self.checkpoint, state, about)

    def read_checkpoint(self, model: Model, optimizer: Optimizer, settings: dict) -> History:
        """Put weights and optimiser state back; returns the history of the epochs done.

        Raises CheckpointError if the checkpoint is damaged, of another model, or of a run with other settings.
        """
        tensors, about = read_tensors(self.checkpoint)
        check_same_model(self.checkpoint, about, model)
        if difference := _difference(about.get("settings", {}), settings):
            raise CheckpointError(
                f"{self.checkpoint} is of a run with other settings: {difference}; continue with the same settings, or "
                "start a new run folder"
            )
        history = _read_metrics(self.path, about["epoch"])
        restore(self.checkpoint, tensors, about, model)
        for name, array in optimizer.state_dict().items():
            host = np.zeros(array.shape, array.dtype)
            for parameter, view in model.split(host).items():
                view[...] = tensors[f"optimizer.{name}.{parameter}"]
            model.backend.assign(array, host)
        return history


def _difference(there: dict, now: dict, owner: str = "") -> str | None:
    """The first setting in which two dictionaries of settings differ, and its values, in words."""
    for key in sorted({**there, **now}, key=lambda key: key != "name"):  # another class explains all the rest
        old, new = there.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return _difference(old, new, key)
        what = owner if key == "name" and owner else f"{owner}'s {key}" if owner else key
        values = (value if isinstance(value, str) else shown(value) for value in (old, new))
        return "{} was {} there and is {} now".format(what, *values)
    return None


def host_state(model: Model, optimizer: Optimizer) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, on the host."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
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

    The model has the weights of the last whole epoch, or with `best` those of the epoch that did best in validation.
    Raises CheckpointError if there is no run, or it is damaged, or has no best epoch because nothing was validated.
    """
    folder, best = Path(arguments.path("path", path)), arguments.truth("best", best)
    arguments.instance("model", model, Model, "a gpucnn.Model", optional=True)
    checkpoint = folder / CHECKPOINT
    if not checkpoint.is_file():
        raise CheckpointError(f"{folder} holds no checkpoint; give the folder of a run that finished an epoch")
    tensors, about = read_tensors(checkpoint)
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'} holds a {type(config).__name__}, not a run's configuration")
    # Not through RunFolder: the run may be training still, and its files beside must stay.
    history = _read_metrics(folder, about.get("epoch", 0))
    if best:
        checkpoint = folder / BEST
        if not checkpoint.is_file():
            raise CheckpointError(f"{folder} has no best epoch, since it had no validation images; take the last one")
        tensors, about = read_tensors(checkpoint)
    return Run(folder, restore(checkpoint, tensors, about, model), config, history, about.get("epoch", 0))


def _read_metrics(folder: Path, epochs: int) -> History:
    """The first `epochs` lines: a run killed between the two files has measured one epoch more than it kept."""
    path = folder / METRICS
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()[:epochs]]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if [isinstance(line, dict) and line.get("epoch") for line in lines] != list(range(1, epochs + 1)):
        raise CheckpointError(f"{path} does not hold the {epochs} epochs that the checkpoint has seen")
    return History(lines)
