"""The settings of `gpucnn train`: the recipe for the digits, and what names on the command line stand for."""

from pathlib import Path
from typing import Any

from gpucnn.errors import ConfigurationError
from gpucnn.storage import as_path

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
    "mixup": 0.0,
    "erase": 0.0,
    "loss": "cross-entropy",
}
OPTIMIZERS: dict[str, dict[str, float]] = {
    "sgd": {"lr": 0.02, "weight_decay": 5e-4},
    "adam": {"lr": 0.002, "weight_decay": 0.0},
    "adamw": {"lr": 0.002, "weight_decay": 0.5},
}
# Other defaults by name. "mnist" was chosen by a sixth of MNIST's training images, kept out of training.
RECIPES: dict[str, dict[str, Any]] = {
    "digits": {},
    "mnist": {
        "model": "lenet5",
        "variant": "wide",
        "data": "mnist",
        "epochs": 15,
        "batch_size": 128,
        "optimizer": "sgd",
        "lr": 0.1,
        "weight_decay": 5e-4,
        "schedule": "one-cycle",
        "shift": 2,
    },
}
_SCHEDULES = ("constant", "step", "cosine", "one-cycle")


def resolve(given: dict[str, Any], run: dict[str, Any], recipe: str = "digits") -> dict[str, Any]:
    """Each setting as given, else as the resumed run had it, else the recipe's, else its default. None stands for not
    given. Raises ConfigurationError for an unknown recipe or optimizer.
    """
    if recipe not in RECIPES:
        raise ConfigurationError(f"no recipe {recipe!r}; use one of {', '.join(RECIPES)}")
    known: dict[str, Any] = {**DEFAULTS, "math": None, **RECIPES[recipe], **run}
    settings: dict[str, Any] = {name: known.get(name) if value is None else value for name, value in given.items()}
    if settings["optimizer"] not in OPTIMIZERS:
        raise ConfigurationError(f"no optimizer {settings['optimizer']!r}; use one of {', '.join(OPTIMIZERS)}")
    for name, value in OPTIMIZERS[settings["optimizer"]].items():
        if settings[name] is None:
            settings[name] = value
    from gpucnn.data.load import path_of

    if settings["start"] is not None:
        settings["start"] = str(as_path(settings["start"]).resolve())
    if path_of(settings["data"]) is not None:
        settings["data"] = str(as_path(settings["data"]).resolve())  # --resume may be typed in another folder
    return settings


def make_optimizer(settings: dict[str, Any]):
    """One of gpucnn.optimizers."""
    from gpucnn import optimizers

    kinds = {name.lower(): kind for name, kind in vars(optimizers).items()}
    return kinds[settings["optimizer"]](lr=settings["lr"], weight_decay=settings["weight_decay"])


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


def measuring(model: Any, backend: Any, loss: str, metrics: list, **more: Any):
    """A Trainer that measures `model` by the loss called so, accuracy and metrics. The loss is plain, without smoothing
    and class weights, so that it compares runs whatever they were trained with.
    """
    from gpucnn.training import Trainer

    plain = make_loss({"loss": loss, "class_weights": None, "label_smoothing": None})
    has_accuracy = loss != "dice"
    names = [name for name in metrics if name != "accuracy"] + ["accuracy"] * (not has_accuracy)
    return Trainer(model, backend=backend, progress=False, loss=plain, metrics=names, **more)


def make_factors(text: str | None) -> dict[str, float]:
    """Factors of the learning rate by pattern, from "0=0.1,2.*=0.5"."""
    try:
        pairs = [part.split("=") for part in text.split(",")] if text else []
        return {pattern.strip(): float(factor) for pattern, factor in pairs}
    except ValueError:
        raise ConfigurationError(f"lr factors are {text!r}; give patterns and numbers, such as 0=0.1,2.*=0.5") from None


def prepare(network: Any, settings: dict[str, Any], *, resumed: bool) -> None:
    """Give a new network the weights that it starts with, and freeze what is to be frozen. A resumed run takes its
    weights from its checkpoint.
    """
    if settings["start"] and not resumed:
        from gpucnn.cli.output import note
        from gpucnn.models import load_matching
        from gpucnn.training.run import BEST, CHECKPOINT

        source = Path(settings["start"])
        if source.is_dir():
            source /= BEST if (source / BEST).is_file() else CHECKPOINT
        network.initialize(settings["seed"])
        note(str(load_matching(source, network)))
    if settings["freeze"]:
        network.freeze(*(pattern.strip() for pattern in settings["freeze"].split(",")))


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


def check_shift(shape: tuple[int, ...], shift: int) -> None:
    """Raises ConfigurationError where images (C, H, W) cannot be moved so far, which the default may ask for."""
    if shift >= min(shape[1:]):
        raise ConfigurationError(
            f"shift is {shift} ({DEFAULTS['shift']} unless given), but the images have {shape[1]}x{shape[2]} pixels; "
            "give --shift 0, or less than their shorter side"
        )


def cropped(shape: tuple[int, ...], crop: int | None) -> tuple[int, ...]:
    """The shape (C, H, W) of images cut to `crop` pixels a side; the same without."""
    if crop is None:
        return shape
    if crop > min(shape[1:]):
        raise ConfigurationError(f"crop is {crop}, but the images have {shape[1]}x{shape[2]} pixels")
    return (shape[0], crop, crop)
