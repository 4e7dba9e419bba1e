"""Losses, each with its gradient."""

from typing import Any

import numpy as np

from gpucnn import arguments, losses
from gpucnn.errors import ShapeError
from gpucnn.functional.arrays import Name, backend_for, channeled, floats

__all__ = ["binary_cross_entropy", "dice", "huber", "mean_absolute", "mean_squared", "softmax_cross_entropy"]


LossAndGradient = tuple[np.floating, np.ndarray]


def softmax_cross_entropy(
    logits,
    labels,
    *,
    label_smoothing: float = 0.0,
    class_weights=None,
    ignore_index: int | None = None,
    backend: Name = None,
    math: Name = None,
) -> LossAndGradient:
    """(loss, dlogits): the mean over the batch of -log softmax(logits)[label], and its gradient (softmax - onehot) / N.

    logits are (N, classes), labels integers (N,) from 0 to classes - 1; or (N, classes, *spatial) and (N, *spatial),
    whose mean is over all positions. The loss is a NumPy scalar of the logits' type. label_smoothing, class_weights
    (classes,) and ignore_index, a label that does not count, as in gpucnn.losses.SoftmaxCrossEntropy; "balanced"
    weights are those of these labels. Raises DataError for a label out of range.
    """
    (logits,) = floats(logits=logits)
    if logits.ndim < 2:
        raise ShapeError(f"logits have shape {logits.shape}; expected (N, classes) or (N, classes, *spatial)")
    labels = arguments.array("labels", labels)
    criterion = losses.SoftmaxCrossEntropy(label_smoothing, class_weights, ignore_index)
    criterion.learn(criterion.check(labels, len(logits), logits.shape[1:], logits.dtype), logits.shape[1])
    return _loss(criterion, logits, labels, backend, math)


def dice(
    logits, labels, *, smooth: float = 1.0, ignore_index: int | None = None, backend: Name = None, math: Name = None
) -> LossAndGradient:
    """(loss, dlogits): the mean over images and classes of 1 - (2 * I + smooth) / (P + T + smooth), and its gradient.

    logits are (N, classes, *spatial), labels integers (N, *spatial); I, P, T and ignore_index as in
    gpucnn.losses.Dice.
    """
    (logits,) = floats(logits=logits)
    if logits.ndim < 3:
        raise ShapeError(f"logits have shape {logits.shape}; expected (N, classes, *spatial)")
    return _loss(losses.Dice(smooth, ignore_index), logits, arguments.array("labels", labels), backend, math)


def mean_squared(x, targets, *, backend: Name = None, math: Name = None) -> LossAndGradient:
    """(loss, dx): the mean of (x - targets)**2 over all values, and its gradient. x is (N, C) or (N, C, *spatial)."""
    return _value_loss(losses.MeanSquared(), x, targets, backend, math)


def mean_absolute(x, targets, *, backend: Name = None, math: Name = None) -> LossAndGradient:
    """(loss, dx): the mean of |x - targets| over all values, and its gradient. x is (N, C) or (N, C, *spatial)."""
    return _value_loss(losses.MeanAbsolute(), x, targets, backend, math)


def huber(x, targets, *, delta: float = 1.0, backend: Name = None, math: Name = None) -> LossAndGradient:
    """(loss, dx): the mean of d**2 / 2 if |d| <= delta, else delta * (|d| - delta / 2), with d = x - targets.

    x is (N, C) or (N, C, *spatial), targets have its shape; dx is the loss's gradient.
    """
    return _value_loss(losses.Huber(delta), x, targets, backend, math)


def binary_cross_entropy(logits, targets, *, backend: Name = None, math: Name = None) -> LossAndGradient:
    """(loss, dlogits): the mean of -(t * log(p) + (1 - t) * log(1 - p)), p = sigmoid(logits), t the targets from 0 to
    1.

    logits are (N, C) or (N, C, *spatial), targets have their shape. Raises DataError for a target out of range.
    """
    return _value_loss(losses.BinaryCrossEntropy(), logits, targets, backend, math)


def _value_loss(criterion: losses.Loss, x: Any, targets: Any, backend: Name, math: Name) -> LossAndGradient:
    x, targets = channeled(x=x, targets=targets)
    return _loss(criterion, x, targets, backend, math)


def _loss(criterion: losses.Loss, x: np.ndarray, targets: Any, backend: Name, math: Name) -> LossAndGradient:
    engine = backend_for(x, backend, math)
    loss, dx = criterion(engine.pack(x), targets)
    return engine.host(loss)[0], engine.unpack(dx)
