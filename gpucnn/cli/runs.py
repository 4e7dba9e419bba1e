"""Finding run folders, and making new ones."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpucnn.cli.output import note
from gpucnn.cli.settings import DEFAULTS
from gpucnn.errors import CheckpointError, ConfigurationError

RUNS = Path("runs")
_TEXTS = "model", "variant", "hidden", "data", "optimizer", "schedule", "math", "monitor", "class_weights"


def fresh_folder(stem: str) -> Path:
    """A new folder runs/<stem>-<number>, the first number that is free."""
    try:
        for number in range(1, 1_000_000):
            folder = RUNS / f"{stem}-{number}"
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                if not RUNS.is_dir():
                    raise
    except OSError as error:
        raise ConfigurationError(
            f"cannot make a run folder in {RUNS}: {error.strerror or error}; choose one with --run"
        ) from None
    raise ConfigurationError(f"all numbers of {RUNS / stem} are taken; choose a folder with --run")


def forget_fresh(folder: Path) -> None:
    """Remove what `fresh_folder` made for a run that was refused before it wrote anything."""
    with suppress(OSError):  # where it holds files, it stays
        folder.rmdir()
        RUNS.rmdir()


def read_config(run: str | None) -> dict[str, Any]:
    """The settings that `train` wrote into a run folder; none if the run has not come so far as to write them."""
    if run is None:
        raise ConfigurationError("--resume needs --run FOLDER, the run to continue")
    file = Path(run) / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        if (file.parent / "checkpoint.safetensors").exists():
            raise CheckpointError(
                f"{run} holds a checkpoint but no config.json, which says how the run was started; put that file back, "
                "or start a new run folder"
            ) from None
        note(f"{run} holds no run yet: starting from the first epoch, with the settings given now")
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("train"), dict):
        raise CheckpointError(f"{run} is not a run of `gpucnn train`; continue it from Python, as it was started")
    return _checked(config["train"], file)


def _checked(settings: Any, file: Path) -> dict[str, Any]:
    """The settings in a config.json, which people may have edited; raises CheckpointError for one of another kind."""
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file} is damaged: train is {settings!r} there")
    for name in (*_TEXTS, *DEFAULTS):
        value = settings.get(name)
        if value is not None and not isinstance(value, str if name in _TEXTS else (int, float)):
            raise CheckpointError(f"{file} is damaged: {name} is {value!r} there")
    return settings


def open_run(path: str | None, weights: str | None = None) -> tuple[Any, dict[str, Any], Path]:
    """(model, settings, path) of a run folder, or of a file that gpucnn.save wrote; None: the newest run in runs/.

    `weights` of a run are "best", "last" or None: the best in validation where there are such, and a note says so.
    """
    if weights not in (None, "best", "last"):
        raise ConfigurationError(f"--weights is {weights!r}; use best or last")
    from gpucnn.training import load, load_run

    source = newest_run(path)
    if source.is_file():
        if weights is not None:
            raise ConfigurationError(f"{source} is a file with one set of weights; leave out --weights {weights}")
        return load(source), {}, source
    best = (source / "best.safetensors").is_file() if weights is None else weights == "best"
    run = load_run(source, best=best)
    if best:
        note(f"using the weights of epoch {run.epoch} of {len(run.history)}, the best in validation")
    return run.model, _checked(run.config.get("train", {}), source / "config.json"), source


def newest_run(path: str | None) -> Path:
    """`path` itself, or the newest run in runs/ if it is None."""
    if path is None:
        checkpoints = sorted(RUNS.glob("*/checkpoint.safetensors"), key=lambda file: file.stat().st_mtime)
        if not checkpoints:
            raise CheckpointError(f"there is no trained network in {RUNS}/; run `gpucnn train` first, or give --run")
        newest = checkpoints[-1].parent
        note(f"using {newest}, the newest run")
        return newest
    return Path(path)
