"""Metrics, which training reports beside the loss: `Trainer(model, metrics=["top3", "f1"])`.

A metric is one of these names, an object of a class here or of your own, or a function of all predictions and targets:

    accuracy                            the part of labels that are right
    top2, top3 ...                      the part of labels among so many largest outputs
    precision, recall, f1, iou          the mean over the classes; with _per_class a list
    confusion                           counts, a row for each class, a column for each prediction
    auc, auc_per_class                  area under the ROC curve of each class against the others

They count in whole numbers, so all backends and machines agree. For maps of labels the pixels count, ignored ones do
not. With BinaryCrossEntropy each output is a label of its own, predicted if its probability is above 1/2.
"""

import copy
import re
from collections.abc import Callable, Iterable
from math import fsum
from typing import Any

import numpy as np

from gpucnn.arguments import instance, integer, number, one_of, sequence, shown
from gpucnn.errors import ConfigurationError

# What an epoch's record in the history has beside losses and metrics.
_RECORDED = ("epoch", "step", "learning_rate", "seconds", "images_per_second")


class Metric:
    """Base of all metrics: `reset`, then `update` for each batch, then `result`.

    `name` is its key in the history. Your own metric sets it and has these three methods. `targets` says which losses
    it is for, by their `targets`: "classes", "labels" or "values".
    """

    name = ""
    targets: tuple[str, ...] = ("classes", "labels", "values")
    larger_is_better: bool | None = True  # None: nobody has said
    single = True  # whether the result is one number, by which an epoch can be the best
    running = True  # cheap enough for the progress bar to ask for the result many times an epoch

    def reset(self) -> None:
        """Forget all batches."""
        raise NotImplementedError(f"{type(self).__name__} has no reset()")

    def update(self, predictions: np.ndarray, targets: np.ndarray) -> None:
        """Another batch: predictions as from `Trainer.predict`, targets as given to `fit`; ignored labels are -1."""
        raise NotImplementedError(f"{type(self).__name__} has no update(predictions, targets)")

    def result(self) -> Any:
        """A number, or lists of numbers, as JSON has them; None where nothing can be said."""
        raise NotImplementedError(f"{type(self).__name__} has no result()")


class Function(Metric):
    """`function(predictions, targets)` of all images together, which are kept until then. An attribute of the function,
    larger_is_better, says which epoch is the best by it.
    """

    running = False

    def __init__(self, function: Callable, name: str):
        self.name, self._function = name, function
        self.larger_is_better = getattr(function, "larger_is_better", None)

    def reset(self) -> None:
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []

    def update(self, predictions: np.ndarray, targets: np.ndarray) -> None:
        self._kept.append((predictions, targets))

    def result(self) -> float:
        predictions, targets = (np.concatenate(parts) for parts in zip(*self._kept, strict=True))
        return number(f"the result of the metric {self.name}", self._function(predictions, targets))


class TopK(Metric):
    """The part of labels that are among the k largest outputs; of equal outputs the first counts as larger."""

    targets = ("classes",)

    def __init__(self, k: int = 5):
        self.k = integer("k", k)
        self.name = f"top{k}"

    def reset(self) -> None:
        self._hits = self._count = 0

    def update(self, predictions: np.ndarray, targets: np.ndarray) -> None:
        scores, classes = _per_label(predictions, targets)
        own = np.take_along_axis(scores, classes[:, None], 1)
        before = np.arange(scores.shape[1]) < classes[:, None]
        ahead = ((scores > own) | ((scores == own) & before)).sum(1)
        self._hits += int(np.count_nonzero(ahead < self.k))
        self._count += len(classes)

    def result(self) -> float | None:
        return _quotient(self._hits, self._count)


class Counts(Metric):
    """Base of what a confusion matrix tells. Subclasses have `of`."""

    targets: tuple[str, ...] = ("classes", "labels")

    def __init__(self, per_class: bool = False):
        self._per_class, self.single = per_class, not per_class
        kind = type(self).__name__.lower()
        self.name = f"{kind}_per_class" if per_class else kind

    def reset(self) -> None:
        # Of classes a row for each true one; of labels: true and predicted, neither, only true, only predicted.
        self._matrix: Any = 0
        self._labels = False

    def update(self, predictions: np.ndarray, targets: np.ndarray) -> None:
        self._labels = targets.dtype.kind == "f"
        count = predictions.shape[1]
        if self._labels:
            predicted, true = (_last(values) > 0.5 for values in (predictions, targets))
            both = (true & predicted, ~true & ~predicted, true & ~predicted, ~true & predicted)
            self._matrix = self._matrix + np.stack([part.sum(0) for part in both])
        else:
            scores, classes = _per_label(predictions, targets)
            pairs = np.bincount(classes * count + scores.argmax(1), minlength=count * count)
            self._matrix = self._matrix + pairs.reshape(count, count)

    def _classes(self) -> Iterable[tuple[int, int, int]]:
        """(right, missed, wrongly predicted) of each class."""
        if self._labels:
            hits, _, missed, wrong = self._matrix
        else:
            hits = np.diag(self._matrix)
            missed, wrong = self._matrix.sum(1) - hits, self._matrix.sum(0) - hits
        return zip(hits.tolist(), missed.tolist(), wrong.tolist(), strict=True)

    def of(self, right: int, missed: int, wrong: int) -> float | None:
        raise NotImplementedError

    def result(self) -> Any:
        values = [self.of(*counts) if any(counts) else None for counts in self._classes()]
        return values if self._per_class else _mean(values)


class Precision(Counts):
    """Of what is predicted as a class, the part that is of it; 0 if nothing is. The mean is over the classes that occur
    in targets or predictions; with `per_class` a list, None where a class does not.
    """

    def of(self, right: int, missed: int, wrong: int) -> float:
        return _quotient(right, right + wrong) or 0.0


class Recall(Counts):
    """Of what is of a class, the part that is predicted as it; 0 if nothing is. Otherwise as Precision."""

    def of(self, right: int, missed: int, wrong: int) -> float:
        return _quotient(right, right + missed) or 0.0


class F1(Counts):
    """2 * right / (2 * right + missed + wrong), the harmonic mean of precision and recall. Otherwise as Precision."""

    def of(self, right: int, missed: int, wrong: int) -> float:
        return 2 * right / (2 * right + missed + wrong)


class IoU(Counts):
    """Intersection over union, right / (right + missed + wrong). Otherwise as Precision."""

    def of(self, right: int, missed: int, wrong: int) -> float:
        return right / (right + missed + wrong)


class Accuracy(Counts):
    """The part of labels that are right."""

    def __init__(self) -> None:
        super().__init__()

    def result(self) -> float | None:
        right = self._matrix[:2].sum() if self._labels else np.trace(self._matrix)
        return _quotient(int(right), int(np.sum(self._matrix)))


class Confusion(Counts):
    """How often each class (row) was predicted as each (column); lists of counts."""

    targets = ("classes",)

    def __init__(self) -> None:
        super().__init__()
        self.single = False

    def result(self) -> list[list[int]]:
        return self._matrix.tolist()


class AUC(Metric):
    """The area under the ROC curve of each class, or label, against the others: the probability that a positive scores
    above a negative, equal scores counting half. The mean leaves out classes without positives or without negatives.
    All scores are kept for it.
    """

    targets = ("classes", "labels")
    running = False

    def __init__(self, per_class: bool = False):
        self._per_class, self.single = per_class, not per_class
        self.name = "auc_per_class" if per_class else "auc"

    def reset(self) -> None:
        self._scores: list[np.ndarray] = []
        self._true: list[np.ndarray] = []

    def update(self, predictions: np.ndarray, targets: np.ndarray) -> None:
        if targets.dtype.kind == "f":
            scores, true = _last(predictions), _last(targets) > 0.5
        else:
            scores, classes = _per_label(predictions, targets)
            true = classes[:, None] == np.arange(scores.shape[1])
        self._scores.append(scores)
        self._true.append(true)

    def result(self) -> Any:
        scores, true = np.concatenate(self._scores), np.concatenate(self._true)
        values = [_area(scores[:, c], true[:, c]) for c in range(scores.shape[1])]
        return values if self._per_class else _mean(values)


def _area(scores: np.ndarray, true: np.ndarray) -> float | None:
    positives, negatives = scores[true], np.sort(scores[~true])
    below, to_equal = (np.searchsorted(negatives, positives, side) for side in ("left", "right"))
    return _quotient(int(below.sum() + to_equal.sum()), 2 * len(positives) * len(negatives))


def _last(values: np.ndarray) -> np.ndarray:
    """(N, C, *spatial) as (N * positions, C)."""
    return np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])


def _per_label(predictions: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scores (labels, C), classes (labels,)) of the labels that are not ignored."""
    scores, classes = _last(predictions), classes.reshape(-1).astype(np.int64)
    counted = classes >= 0
    return scores[counted], classes[counted]


def _quotient(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fsum(known) / len(known) if known else None


_CLASSES: dict[str, type] = {
    "accuracy": Accuracy,
    "precision": Precision,
    "recall": Recall,
    "f1": F1,
    "iou": IoU,
    "confusion": Confusion,
    "auc": AUC,
}
_LISTS = tuple(f"{name}_per_class" for name in ("precision", "recall", "f1", "iou", "auc"))


def named(name: str) -> Metric:
    """The metric called `name`. Raises ConfigurationError for an unknown one, listing them."""
    if top := re.fullmatch("top([1-9][0-9]*)", name):
        return TopK(int(top[1]))
    one_of("metric", name, (*_CLASSES, *_LISTS), note=", or top3, top5 and so on")
    kind = _CLASSES[name.removesuffix("_per_class")]
    return kind(per_class=True) if name in _LISTS else kind()


def make(metrics: Any, targets: str, outputs: int, taken: Iterable[str] = ()) -> list[Metric]:
    """The metrics that `Trainer(metrics=...)` takes: names, Metrics and functions in a list, or a dictionary by name.

    `targets` is the loss's, `outputs` the model's first size; names in `taken` are keys of the history already. Raises
    ConfigurationError for what is no metric, does not fit the loss or the model, or comes twice.
    """
    expected = 'a list such as ["top3", "f1"], of names, gpucnn.metrics.Metric objects and functions'
    by_name = isinstance(metrics, dict)
    pairs: Any = metrics.items() if by_name else [(None, one) for one in sequence("metrics", metrics, expected)]
    made: list[Metric] = []
    for name, metric in pairs:
        is_function = callable(metric) and not isinstance(metric, (Metric, type))
        if is_function and not by_name:
            name = getattr(metric, "__name__", "")
        if (is_function or by_name) and not (isinstance(name, str) and name.isidentifier()):
            raise ConfigurationError(
                f'a metric is called {shown(name)}; give it a name of letters, digits and _: metrics={{"mine": ...}}'
            )
        if isinstance(metric, str):
            metric = named(metric)
        elif is_function:
            metric = Function(metric, name)
        instance("each of metrics", metric, Metric, "a name such as 'f1', a gpucnn.metrics.Metric, or a function")
        if by_name and metric.name != name:
            metric = copy.copy(metric)
            metric.name = name
        if targets not in metric.targets:
            raise ConfigurationError(
                f"the metric {metric.name} is for {' or '.join(metric.targets)}, but the loss compares {targets}; "
                "write one of your own as a function of predictions and targets"
            )
        if isinstance(metric, TopK) and metric.k >= max(outputs, 2):
            raise ConfigurationError(
                f"{metric.name} is always 1 where there {'are' if outputs > 1 else 'is'} {outputs} "
                f"class{'es' * (outputs > 1)}; use a smaller number, or accuracy"
            )
        there = [*taken, *_RECORDED, *(other.name for other in made)]
        if not metric.name or metric.name in there or metric.name.startswith("validation_"):
            raise ConfigurationError(
                f"the metric {metric.name or type(metric).__name__} "
                + (
                    'has the name of something else in the history; leave it out, or rename it: {"mine": ...}'
                    if metric.name
                    else "has no name; set its `name`"
                )
            )
        made.append(metric)
    return made
