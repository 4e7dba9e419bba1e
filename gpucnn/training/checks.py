"""What a trainer refuses, before it trains or once an epoch is over."""

from typing import Any

import numpy as np

from gpucnn import arguments, arithmetic
from gpucnn.arguments import instance
from gpucnn.backends.protocol import Backend
from gpucnn.errors import ConfigurationError, DataError, NonFiniteError, ShapeError
from gpucnn.layers.norm import BatchNorm
from gpucnn.losses import UNBALANCED, Loss, SoftmaxCrossEntropy
from gpucnn.models.heads import REGRESSOR
from gpucnn.models.model import Model
from gpucnn.recordable import is_ours
from gpucnn.training.callbacks import Callback


def check_head(head: str, loss: Loss) -> None:
    """Raises ConfigurationError where `Model.predict` would make of the outputs what they are not. A loss of the user's
    with a `predict` of its own is believed.
    """
    kind = type(loss).__name__
    if type(loss).predict.__module__ != Loss.__module__:
        return
    if head == REGRESSOR and loss.targets == "classes":
        raise ConfigurationError(f"{kind} is for classes, but the model gives values; use MeanSquared()")
    if head != REGRESSOR and loss.targets != "classes":
        raise ConfigurationError(
            f"{kind} compares {loss.targets}, but the model is a classifier, whose predictions are the softmax of its "
            'outputs; make it with head="regressor", or outputs= in gpucnn.models, or set model.head to that'
        )


def check_room(model: Model, shift: int, crop: bool, flip: bool) -> None:
    """Raises ConfigurationError where images cannot be moved so."""
    if (crop or flip) and len(model.input_shape) == 1:
        raise ConfigurationError(f"crop and flip need images; this model takes (N, {model.input_shape[0]})")
    if (crop or flip or shift) and model.output_shape[1:] not in ((), model.input_shape[1:]):
        raise ConfigurationError(
            f"shift, crop and flip move label maps with the images, but the model makes maps of "
            f"{model.output_shape[1:]} from images of {model.input_shape[1:]}; they must be of one size"
        )


def check_callbacks(values: Any) -> list[Callback]:
    """`values` as a list."""
    callbacks = arguments.sequence("callbacks", values, "a list of callbacks")
    for callback in callbacks:
        instance("each of callbacks", callback, Callback, "an object of a subclass of gpucnn.training.Callback")
    return callbacks


def check_last_batch(model: Model, images: int, batch_size: int) -> None:
    """Raises ShapeError where an epoch's last batch, the smallest, is too small for batch norm."""
    if (last := images % batch_size or batch_size) > 1:
        return  # two images are never too few
    layers = [*model.layer.walk()]
    if not all(map(is_ours, layers)):
        return  # a layer of the user's may pass over its batch norm
    for layer in layers:
        if isinstance(layer, BatchNorm) and layer.trainable:
            layer.check_count(last)


def check_some_count(loss: Loss, part: str, labels: np.ndarray) -> None:
    """Raises DataError where `loss` ignores all of these labels, which check_label_maps has stored as floats."""
    if loss.ignore_index is not None and labels.dtype.kind == "f" and not labels.any():
        raise DataError(
            f"all {part} labels are {loss.ignore_index}, which ignore_index leaves out; some must be classes"
        )


def larger_images(images: Any, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of images that a model of `input_shape` can be cropped out of; raises ShapeError for others."""
    shape = tuple(np.shape(images)[1:])
    fits = len(shape) == len(input_shape) and shape[0] == input_shape[0]
    if not fits or any(there < cut for there, cut in zip(shape, input_shape, strict=True)):
        sizes = ", ".join(map(str, input_shape))
        raise ShapeError(
            f"images have shape {np.shape(images)}; to crop them to this model's (N, {sizes}) they must be larger"
        )
    return shape


def balanced(loss: Loss) -> Any:
    """The class weights of a loss that counted them."""
    return loss.settings().get("class_weights") if getattr(loss, "class_weights", None) == "balanced" else None


def check_balance(loss: Loss, counted: Any) -> None:
    """Raises ConfigurationError where another trainer's labels have balanced the loss since this one has `counted`, and
    where none have.
    """
    now = balanced(loss)
    if now == "balanced" and isinstance(loss, SoftmaxCrossEntropy):
        raise ConfigurationError(UNBALANCED)
    if counted is not None and counted != now:
        raise ConfigurationError(
            "this trainer's loss has balanced its class weights for other labels since, in another trainer; give "
            "each Trainer a loss of its own"
        )


def check_subnormals(backend: Backend) -> None:
    """Raises BackendError where a library that was loaded since flushes subnormal numbers to zero."""
    if backend.math == "exact":
        arithmetic.assert_subnormals()


def not_finite(what: str, epoch: int, step: int) -> NonFiniteError:
    """The error for `what` in epoch `epoch` and step `step`, both from 1."""
    error = NonFiniteError(
        f"{what} became infinite or NaN in epoch {epoch}, step {step}; training stopped and the last good checkpoint, "
        "if there is one, stays. A smaller learning rate often helps",
        epoch,
        step,
    )
    error.shared = True  # the loss and the weights are the same in all processes
    return error
