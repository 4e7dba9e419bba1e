"""Images kept out of training: which ones, and which epoch did best on them."""

from collections.abc import Sequence
from numbers import Real

import numpy as np

from gpucnn import arithmetic
from gpucnn.arguments import integer, number, one_of, refuse
from gpucnn.data.mapped import Mapped
from gpucnn.errors import ConfigurationError, DataError
from gpucnn.losses import Loss
from gpucnn.metrics import Metric
from gpucnn.training.history import History


def split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation): positions in 0 .. N-1, ascending, from `labels` of N images (contract rule 10).

    Of each class's n images floor(fraction * n + 1/2) are for validation, those with the smallest draws. Labels that
    are not integers (N,), a regressor's, count as one class. Raises DataError if either part would be empty.
    """
    count = len(labels)
    draws = arithmetic.draws64(seed, np.arange(count, dtype=np.uint64), 0, arithmetic.SPLIT)
    chosen = np.zeros(count, bool)
    classes = np.unique(labels) if _classed(labels) else ()
    for members in [np.flatnonzero(labels == label) for label in classes] or [np.arange(count)]:
        some = int(np.floor(fraction * len(members) + 0.5))
        chosen[members[np.argsort(draws[members], kind="stable")[:some]]] = True
    if chosen.all() or not chosen.any():
        raise DataError(
            f"validation = {fraction} of {count} images{', rounded class by class,' * _classed(labels)} leaves none to "
            f"{'train on' if chosen.all() else 'validate with'};"
            " give another part, or more images"
        )
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def part(images, labels: np.ndarray, fraction, seed: int) -> tuple[tuple, tuple]:
    """((images, labels) to train on, (images, labels) to validate with); mapped images stay where they are.

    Raises DataError where a class would have no image to train on.
    """
    numbers = split(labels, check_fraction(fraction), seed)
    training, validation = ((_select(images, some), labels[some]) for some in numbers)
    if _classed(labels) and (lost := np.setdiff1d(validation[1], training[1])).size:
        raise DataError(
            f"validation = {fraction} leaves no image of label {lost[0]} to train on, which has "
            f"{np.count_nonzero(labels == lost[0])}; give a smaller part, more of these, or a pair (images, labels)"
        )
    return training, validation


def _classed(labels: np.ndarray) -> bool:
    """Whether there is a class an image."""
    return labels.dtype.kind in "iu" and labels.ndim == 1


def _select(images, numbers: np.ndarray):
    return images.select(numbers) if isinstance(images, Mapped) else images[numbers]


def check_fraction(validation) -> float:
    """`validation` as a float above 0 and below 1; raises ConfigurationError otherwise."""
    if isinstance(validation, bool) or not isinstance(validation, Real):
        expected = "a part of the training images, such as 0.1, or a pair (images, labels)"
        raise refuse("validation", validation, expected)
    return number("validation", validation, above=0, below=1)


def check_stopping(
    validation, monitor: str, patience: int | None, loss: Loss | None = None, metrics: Sequence[Metric] = ()
) -> None:
    """Raises ConfigurationError for a `monitor` that is unknown, that `loss` does not have, that is no single number or
    by which nobody knows what is better, and for a `patience` that is no number or has nothing to watch."""
    own = [metric.name for metric in metrics]
    one_of("monitor", monitor, ("loss", "accuracy", *own))
    measured = own if loss is None else [*own, *loss.measure(np.ones(loss.counts), 1, 1)]
    if monitor == "accuracy" and loss is not None and monitor not in measured:
        raise ConfigurationError(f"{type(loss).__name__} has no accuracy, which monitor asks for; use 'loss'")
    if any(metric.name == monitor and not metric.single for metric in metrics):
        raise ConfigurationError(
            f"monitor is {monitor!r}, a list, by which no epoch is best; name a metric that is one number, or 'loss'"
        )
    if any(metric.name == monitor and metric.larger_is_better is None for metric in metrics):
        raise ConfigurationError(
            f"monitor is {monitor!r}, a function, of which nobody has said what is better; set its attribute "
            "larger_is_better to True or False"
        )
    if patience is not None:
        integer("patience", patience)
        if validation is None:
            raise ConfigurationError("patience needs validation, whose results tell when to stop: validation=0.1")


def why_stop(history: History, monitor: str, patience: int | None, first: int = 0) -> str | None:
    """A sentence once `patience` epochs have brought nothing better, not counting the `first` epochs, which an earlier
    fit has done. The history alone decides, so a resumed run agrees.
    """
    best = history.best_epoch(monitor)
    if patience is None or len(history) - max(best or 0, first) < patience:
        return None
    found = f"no better validation {monitor} since epoch {best}"
    if best is None:  # such as the area under the curve where all labels are of one class
        found = f"no validation {monitor} could be computed, so that no epoch is the best"
    epochs = f"{patience} epoch{'s' if patience > 1 else ''}"
    return f"stopped after epoch {len(history)}: {found}, and patience is {epochs}"
