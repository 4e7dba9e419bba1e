"""Which labels of a data set look wrong: confident learning (Northcutt, Jiang and Chuang 2021)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn import arithmetic
from gpucnn.arguments import array, integer, refuse
from gpucnn.arguments import seed as check_seed
from gpucnn.errors import ConfigurationError, DataError, ShapeError
from gpucnn.models.model import Model
from gpucnn.targets import check_labels

_ROUNDING = 1e-5  # by which float16 and sums of several predictions may go beyond 1


@dataclass(frozen=True)
class Doubt:
    """An image whose label looks wrong: its number, its label, the class that fits better, and the probability of
    each.
    """

    image: int
    label: int
    suggested: int
    probability_of_label: float
    probability: float


def doubtful_labels(probabilities, labels) -> list[Doubt]:
    """The labels that `probabilities` (N, classes) contradict, the worst first.

    The probabilities must come from networks that did not train on the image itself: see `out_of_fold`. A class is
    possible for an image if its probability reaches that class's mean over the images labelled so; a label is doubted
    if the likeliest possible class is another one; of equally likely ones its own counts. The worst have the largest
    difference between the two probabilities.
    """
    probabilities = array("probabilities", probabilities)
    if probabilities.ndim != 2 or probabilities.dtype.kind != "f":
        raise ShapeError(f"probabilities are {probabilities.dtype} {probabilities.shape}; give floats (N, classes)")
    if probabilities.size and not (probabilities.min() >= 0 and probabilities.max() <= 1 + _ROUNDING):  # nor NaN
        raise DataError(
            f"the probabilities run from {probabilities.min():g} to {probabilities.max():g}; give numbers from 0 to 1, "
            "such as out_of_fold's; of scores the softmax"
        )
    count, classes = probabilities.shape
    labels = check_labels(labels, count, classes)
    p = probabilities.astype(np.float64)
    # fsum is rounded once, so that the mean is the same on every machine.
    own = [p[labels == c, c] for c in range(classes)]
    least = np.array([math.fsum(values) / len(values) if len(values) else np.inf for values in own])
    possible = np.where(p >= least, p, -1.0)
    suggested = possible.argmax(axis=1)
    best = possible.max(axis=1)
    doubted = np.flatnonzero((best >= 0) & (possible[np.arange(count), labels] < best))
    margins = p[doubted, labels[doubted]] - p[doubted, suggested[doubted]]
    return [
        Doubt(int(i), int(labels[i]), int(suggested[i]), float(p[i, labels[i]]), float(p[i, suggested[i]]))
        for i in doubted[np.argsort(margins, kind="stable")]
    ]


def out_of_fold(
    make_model: Callable[[], Model], images, labels, epochs: int, *, folds: int = 4, seed: int = 0, **settings: Any
) -> np.ndarray:
    """Probabilities (N, classes) of images by networks that have not seen them: `folds` trainings, each without one
    part of the images, which it then predicts.

    `make_model` makes a new model; `settings` are the Trainer's. Each class is spread evenly over the parts. Raises
    what `Trainer.fit` raises.
    """
    from gpucnn.training.trainer import Trainer

    folds, seed = integer("folds", folds, 2), check_seed(seed)
    images, labels = array("images", images), array("labels", labels)
    if images.ndim < 2 or labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ShapeError(f"labels are {labels.dtype} {labels.shape}; give an integer for each of {len(images)} images")
    if isinstance(make_model, Model) or not callable(make_model):
        raise refuse("make_model", make_model, "a function that makes a new model, such as lambda: lenet5()")
    if len(images) < folds:
        raise ConfigurationError(f"{len(images)} images make no {folds} parts; give fewer folds, or more images")
    if settings.get("run") is not None:
        raise ConfigurationError(f"{folds} trainings do not fit into one run folder; leave out run")
    models = [make_model() for _ in range(folds)]
    if len(set(map(id, models))) < folds:
        raise ConfigurationError(
            "make_model returned the same model twice, which would predict images that it has trained on; return a new "
            "one in each call, such as lambda: lenet5()"
        )
    part = _parts(labels, folds, seed)
    result: Any = None
    for fold, model in enumerate(models):
        trainer = Trainer(model, seed=seed, **settings)
        trainer.fit(images[part != fold], labels[part != fold], epochs)
        predicted = trainer.predict(images[part == fold])
        if result is None:
            result = np.zeros((len(images), *predicted.shape[1:]), predicted.dtype)
        result[part == fold] = predicted
    return result


def _parts(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The part of each image: those of a class take turns, in the order of the draws of `split` (contract rule 10)."""
    draws = arithmetic.draws64(seed, np.arange(len(labels), dtype=np.uint64), 0, arithmetic.SPLIT)
    order = np.lexsort((np.arange(len(labels)), draws, labels))
    part = np.empty(len(labels), np.int64)
    part[order] = np.arange(len(labels)) % folds
    return part
