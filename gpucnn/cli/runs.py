"""Finding run folders, and making new ones."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpucnn.cli.output import note
from gpucnn.errors import CheckpointError, ConfigurationError, DataError
from gpucnn.schema import check, parse
from gpucnn.storage import as_path, make_folder, read_file

RUNS = Path("runs")
_KINDS: dict[Any, tuple[str, ...]] = {
    str: (
        *("model", "variant", "hidden", "data", "optimizer", "schedule", "math", "monitor", "class_weights"),
        *("start", "freeze", "lr_factors", "loss", "metrics"),
    ),
    int: ("epochs", "batch_size", "warmup", "shift", "crop", "cutout", "seed", "patience"),
    float: ("lr", "weight_decay", "label_smoothing", "clip_norm", "clip_value", "validation", "mixup", "erase", "ema"),
    bool: ("flip", "normalize"),
}
_SETTINGS = {f"{name}?": (kind, None) for kind, names in _KINDS.items() for name in names}


def fresh_folder(stem: str) -> Path:
    """A new folder runs/<stem>-<number>, the first number that is free."""
    try:
        for number in range(1, 1_000_000):
            folder = RUNS / f"{stem}-{number}"
            make_folder(RUNS)
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
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
    file = as_path(run) / "config.json"
    try:
        there = file.exists()
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from None
    if not there:
        if (file.parent / "checkpoint.safetensors").exists():
            raise CheckpointError(
                f"{run} holds a checkpoint but no config.json, which says how the run was started; put that file back, "
                "or start a new run folder"
            )
        note(f"{run} holds no run yet: starting from the first epoch, with the settings given now")
        return {}
    config = parse(read_file(file, CheckpointError, "run's configuration"), dict, file, CheckpointError)
    if not isinstance(config.get("train"), dict):
        raise CheckpointError(f"{run} is not a run of `gpucnn train`; continue it from Python, as it was started")
    return _checked(config["train"], file)


def _checked(settings: Any, file: Path) -> dict[str, Any]:
    """The settings in a config.json, which people may have edited; raises CheckpointError for one of another kind."""
    check({"train": settings}, {"train": _SETTINGS}, file, CheckpointError)
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
    elif weights is None and run.history.best_epoch() is not None:
        note(f"{source} has lost best.safetensors, the best epoch's weights: using those of the last, {run.epoch}")
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
    return as_path(path)


def of_run(settings: dict[str, Any], path, instead: str = "give --data") -> str:
    """What a run was trained on. Raises ConfigurationError where it does not say so, DataError for a path where nothing
    lies any more, as after a move to another machine.
    """
    from gpucnn.data.load import path_of

    data = settings.get("data")
    if data is None:
        raise ConfigurationError(f"{path} does not say what it was trained on; {instead}")
    if (place := path_of(data)) is not None and not Path(place).exists():
        raise DataError(f"{data}, which {path} was trained on, is not there any more; {instead}")
    return data


def test_set(model, settings: dict[str, Any], path: Path, data: str | None) -> tuple[str, Any]:
    """(`data`, or what the run was trained on; its test images, with the network's numbers of the classes, of which
    they may be some). Raises DataError for classes that the network does not know.
    """
    import numpy as np

    import gpucnn.data
    from gpucnn.data.dataset import some
    from gpucnn.training.remarks import other_values, sizes, usual

    given, data = data, of_run(settings, path) if data is None else data
    _, test = gpucnn.data.load(data)
    trained = settings.get("data") or given
    another = given is not None and trained not in (given, str(Path(given).resolve()))
    if another and trained and not Path(trained).is_dir():  # image files have values from 0 to 1 wherever they lie
        with suppress(DataError):  # it may have moved
            if remark := other_values(test.images, usual(sizes(gpucnn.data.load(trained)[0].images))):
                note(remark)
    known = model.class_names
    if known in (None, test.classes):
        return data, test
    if strange := [name for name in test.classes if name not in known]:
        raise DataError(f"{data} has classes that the network does not know: {some(strange)}; it knows {some(known)}")
    numbers = np.array([known.index(name) for name in test.classes])
    return data, replace(test, labels=numbers[test.labels], classes=known)


def trained_on(model, data: str | None, as_given: bool = False) -> tuple[Any, float]:
    """(the images that the network was trained on, the value of white in them); (None, 1) where they cannot be known,
    which a note says unless there can be no image file for the network. Raises DataError where white cannot be known.
    """
    import gpucnn.data
    from gpucnn.data.images import white_of
    from gpucnn.data.load import base

    if data is None or model.image_shape[0] not in (1, 3) or len(model.image_shape) != 3:
        return None, 1.0
    try:
        images = gpucnn.data.load(base(data))[0].images
        if images.shape[1:] != model.image_shape:
            raise DataError(f"its images are {images.shape[1:]}, the network's {model.image_shape}")
    except DataError as error:
        if as_given:
            raise
        note(f"images are taken as they are, since what the network was trained on cannot be looked at: {error}")
        return None, 1.0
    return images, white_of(images)


def note_untested(test) -> None:
    """Say of which classes there is no test image, as of one with few images in a folder that has no test/."""
    from gpucnn.data.dataset import without_images

    if missing := without_images(test):
        note(f"there is no test image of class {missing}: what the test measures says nothing about that")


def refuse_not_finite(path, answers) -> None:
    """Raises DataError where a network's answers hold a NaN or an infinity: its first class would pass for the best."""
    import numpy as np

    if not np.isfinite(answers).all():
        raise DataError(
            f"{path} gives NaN or infinity: its weights have become too large, or the images hold other values than "
            "those that it was trained on; train it with a smaller learning rate, or prepare them alike"
        )


def refuse_maps(model, path) -> None:
    """Raises ConfigurationError for a network that gives a class to each pixel."""
    if len(model.output_shape) > 1:
        raise ConfigurationError(
            f"{path} gives a class to each pixel, not to an image; measure it with gpucnn evaluate --metrics iou, and "
            "in Python take model.predict(images).argmax(axis=1)"
        )
