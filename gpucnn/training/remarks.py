"""What training says of itself, beside its progress."""

from typing import Any

import numpy as np

from gpucnn.backends import get_backend
from gpucnn.backends.protocol import Backend
from gpucnn.losses import BinaryCrossEntropy, Dice, SoftmaxCrossEntropy
from gpucnn.recordable import is_ours
from gpucnn.schedules import Constant
from gpucnn.training.live import OwnAugmentation
from gpucnn.training.steps import TrainingSteps

# Of the class in trainer.py, which imports this module.
Trainer = Any

_LARGE = 20.0  # values of images that are hardly meant to be so
_LOOKED_AT = 1000  # images
_LIMITED = {  # what may come last, and what it does
    "relu": "makes all outputs below 0 the same",
    "sigmoid": "keeps its outputs between 0 and 1",
    "tanh": "keeps its outputs between -1 and 1",
    "dropout": "blanks some of its outputs in training",
}
_APART = 20.0  # times as large are values that were hardly prepared alike
_FEW = 100  # images, looked at each time
_NARROW = 8  # times as many channels, and rows, as columns are unusual


def title(trainer: Trainer, steps: TrainingSteps) -> str:
    """What is said when training begins."""
    backend, model = trainer.backend, trainer.model
    title = f"training {model.name} ({model.parameter_count:,} parameters) on {backend.name}, {backend.math} math"
    if backend.threads:
        title += f", {backend.threads} thread{'s' if backend.threads > 1 else ''}"
    if trainer.processes.size > 1:
        title += f", in {trainer.processes.size} processes"
    if backend.name != "numpy":
        title += "; the first step compiles kernels that are not in the cache yet, which can take some seconds"
    obstacle = steps.obstacle()
    if backend.graph and obstacle is not None:
        own = isinstance(obstacle, OwnAugmentation)
        why = "augment is code of yours" if own else f"{type(obstacle).__name__} does not declare recordable = True"
        title += f"; steps are not recorded, since {why}"
    return title


def slowness(backend: Backend, seconds: float) -> str | None:
    """Where training runs on numpy: how long an epoch of it takes, and what is faster; None elsewhere."""
    if backend.name != "numpy":
        return None
    about = f"an epoch will take {f'about {seconds:,.0f}' if seconds >= 1 else 'less than 1'} s"
    faster = get_backend().name
    if backend.math == "fast":
        instead = f'; backend="{faster}" in exact math (--backend {faster}) is many times faster'
        instead *= faster != "numpy"
        return f"fast math is faster than numpy's exact math alone: {about}{instead}"
    instead = f'backend="{faster}" (--backend {faster}) gives the same bits sooner'
    instead = instead if faster != "numpy" else "numba, which gives the same bits sooner, is not usable here"
    return f"numpy's exact math is the specification, and slow: {about}; {instead}"


def rates_unread(trainer: Trainer) -> str | None:
    """Where an optimizer of the user's takes its setting for the rate of the step."""
    update = type(trainer.optimizer).update
    names = getattr(getattr(update, "__code__", None), "co_names", ())
    read = "hyper" in names or "super" in names  # by the update at hand, or by gpucnn's own
    if read or "lr" not in names or (isinstance(trainer.schedule, Constant) and not trainer.lr_factors):
        return None
    return (
        f"{update.__qualname__} reads self.lr, which neither a schedule nor lr_factors change; the rate of the step is "
        "self.hyper[0]"
    )


def unfit_end(trainer: Trainer) -> str | None:
    """Where the network ends in what the loss computes itself, or in what leaves it no scores of any size."""
    last = [*trainer.model.layer.leaves()][-1:]
    own = not all(map(is_ours, last))  # whatever its activation means
    name = next((getattr(layer, "activation", None) or type(layer).__name__.lower() for layer in last), None)
    kind, labels = type(trainer.loss).__name__, trainer.loss.targets == "labels"
    if own or not isinstance(trainer.loss, (SoftmaxCrossEntropy, Dice, BinaryCrossEntropy)):
        return None
    if name == ("sigmoid" if labels else "softmax"):
        return (
            f"the network ends in {name}, which {kind} applies to its outputs once more, so it learns badly: leave "
            f"{name} out"
        )
    if name in _LIMITED:
        return (
            f"the network ends in {name}, which {_LIMITED[name]}, but {kind} takes scores of any size, so it learns "
            f"badly: leave {name} out"
        )
    return None


def channels_last(trainer: Trainer) -> str | None:
    """Where what counts as channels looks like rows: as many as there are of these, and more than the last axis has."""
    channels, *others, last = shape = trainer.model.image_shape if len(trainer.model.image_shape) > 1 else (1, 1)
    square = set(others) == {channels} and last < channels
    if channels <= 3 or not (square or _NARROW * last <= min([channels, *others])):
        return None
    return (
        f"each image, {shape}, is taken as {channels} channels of {'x'.join(map(str, (*others, last)))}; if its last "
        "axis counts the channels, give numpy.moveaxis(images, -1, 1)"
    )


def sizes(images, count: int = _LOOKED_AT) -> np.ndarray:
    """The largest value, without its sign, of each of the first images."""
    first = np.abs(np.asarray(images[:count], np.float32))
    return first.reshape(len(first), -1).max(axis=1)


def usual(sizes: np.ndarray) -> float:
    """That of an image in the middle: outliers do not count."""
    return float(np.median(sizes))


def large_values(trainer: Trainer, sizes: np.ndarray) -> str | None:
    """Where nothing brings images to values around 1, which initial weights and learning rates are made for."""
    size = float(sizes.max())
    if size > _LARGE and not trainer.normalize and trainer.model.mean is None:
        return (
            f"images have values up to {size:g}, and are taken as they are: training goes better on values from "
            "0 to 1 (images / 255) or with Trainer(..., normalize=True) (--normalize)"
        )
    return None


def other_values(images, trained: float | None) -> str | None:
    """Where images to measure by, or to predict, were not prepared as those that the network was trained on, of values
    up to `trained`."""
    if not trained or not (size := usual(sizes(images, _FEW))) or 1 / _APART < size / trained < _APART:
        return None
    return (
        f"these images have values up to {size:g}, those that the network was trained on up to {trained:g}: prepare "
        "both alike, such as images / 255"
    )


def unvalidated(trainer: Trainer, labels: np.ndarray) -> str | None:
    """Where the labels kept for validation leave classes out."""
    if trainer.loss.targets != "classes" or labels.dtype.kind != "i":  # maps are floats
        return None
    classes = trainer.model.output_shape[0]
    missing = np.setdiff1d(np.arange(classes), labels)
    if len(missing) > 1:
        return f"{len(missing)} of the {classes} classes, such as class {missing[0]}, have no validation image"
    return f"class {missing[0]} has no validation image" if len(missing) else None


def weights_to_change(trainer: Trainer) -> np.ndarray | None:
    """The weights on the host, where an optimizer of the user's is to change them."""
    return None if is_ours(trainer.optimizer) else trainer.backend.host(trainer.model.values)


def unchanged(trainer: Trainer, before: np.ndarray | None, rate: float) -> str | None:
    """Where an epoch has changed none of these weights."""
    if before is None or rate == 0 or not np.array_equal(before, trainer.backend.host(trainer.model.values)):
        return None
    kind = type(trainer.optimizer).__name__
    return (
        f"{kind} has changed no weight in this epoch; update must do it in place: weights -= ..., or weights[...] = ..."
    )
