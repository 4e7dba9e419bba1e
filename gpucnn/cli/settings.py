"""The settings of `gpucnn train`: the recipe for the digits, and what names on the command line stand for."""

from pathlib import Path
from typing import Any

from gpucnn.errors import ConfigurationError

# Chosen by four-fold cross-validation within the training part of the digits, never by the test images.
DEFAULTS: dict[str, Any] = {
    "model": "lenet5",
    "data": "digits",
    "epochs": 60,
    "batch_size": 64,
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup": 0,
    "shift": 2,
    "crop": None,
    "flip": False,
    "cutout": 0,
    "normalize": False,
    "seed": 0,
    "monitor": "loss",
    "loss": "cross-entropy",
}
OPTIMIZERS: dict[str, dict[str, float]] = {
    "sgd": {"lr": 0.02, "weight_decay": 5e-4},
    "adam": {"lr": 0.002, "weight_decay": 0.0},
    "adamw": {"lr": 0.002, "weight_decay": 0.5},
}
_SCHEDULES = ("constant", "step", "cosine", "one-cycle")


def resolve(given: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Each setting as given, else as the resumed run had it, else its default. None stands for not given."""
    known: dict[str, Any] = {**DEFAULTS, "math": None, **run}
    settings: dict[str, Any] = {name: known.get(name) if value is None else value for name, value in given.items()}
    if settings["optimizer"] not in OPTIMIZERS:
        raise ConfigurationError(f"no optimiser {settings['optimizer']!r}; use one of {', '.join(OPTIMIZERS)}")
    for name, value in OPTIMIZERS[settings["optimizer"]].items():
        if settings[name] is None:
            settings[name] = value
    from gpucnn.data import KNOWN
    from gpucnn.data.load import base

    if base(settings["data"]) not in ("digits", "shapes", *KNOWN):
        settings["data"] = str(Path(settings["data"]).resolve())  # --resume may be typed in another folder
    return settings


def make_optimizer(settings: dict[str, Any]):
    """One of gpucnn.optimizers."""
    from gpucnn.optimizers import SGD, Adam, AdamW

    kind = {"sgd": SGD, "adam": Adam, "adamw": AdamW}[settings["optimizer"]]
    return kind(lr=settings["lr"], weight_decay=settings["weight_decay"])


def make_loss(settings: dict[str, Any]):
    """Dice, or softmax cross-entropy with the label smoothing and the class weights of the settings."""
    from gpucnn.losses import Dice, SoftmaxCrossEntropy

    weights = settings["class_weights"]
    if settings["loss"] == "dice":
        if weights is not None or settings["label_smoothing"]:
            raise ConfigurationError("class weights and label smoothing are of --loss cross-entropy; dice has neither")
        return Dice()
    if settings["loss"] != "cross-entropy":
        raise ConfigurationError(f"no loss {settings['loss']!r}; use one of cross-entropy, dice")
    if weights is not None and weights != "balanced":
        try:
            weights = [float(number) for number in weights.split(",")]
        except ValueError:
            raise ConfigurationError(
                f"class weights are {weights!r}; give balanced, or a number for each class, such as 1,2,0.5"
            ) from None
    return SoftmaxCrossEntropy(settings["label_smoothing"] or 0.0, weights)


def make_schedule(settings: dict[str, Any]):
    """One of gpucnn.schedules, after a warm-up if asked for; "step" divides the rate by 10 after each third of the
    epochs.
    """
    from gpucnn.schedules import Constant, Cosine, OneCycle, Step, WarmUp

    name = settings["schedule"]
    if name not in _SCHEDULES:
        raise ConfigurationError(f"no schedule {name!r}; use one of {', '.join(_SCHEDULES)}")
    kinds = {"constant": Constant, "cosine": Cosine, "one-cycle": OneCycle}
    schedule = Step(every=-(-settings["epochs"] // 3)) if name == "step" else kinds[name]()
    return WarmUp(settings["warmup"], schedule) if settings["warmup"] else schedule


def cropped(shape: tuple[int, ...], crop: int | None) -> tuple[int, ...]:
    """The shape (C, H, W) of images cut to `crop` pixels a side; the same without."""
    if crop is None:
        return shape
    if crop > min(shape[1:]):
        raise ConfigurationError(f"crop is {crop}, but the images have {shape[1]}x{shape[2]} pixels")
    return (shape[0], crop, crop)
