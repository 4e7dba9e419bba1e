"""One set of weights for images of several sizes."""

import copy

from gpucnn.arguments import image_shape, instance
from gpucnn.errors import GpucnnError, ShapeError
from gpucnn.models.model import Model
from gpucnn.models.registry import MODELS, build_model


def at_size(model: Model, input_shape: tuple[int, ...]) -> Model:
    """A model with the layers of `model` for images of another size, which shares its weights: training either changes
    both, and they are always on the same backend.

    Raises ShapeError if the weights depend on the size, as those of a Dense after Flatten do.
    """
    instance("model", model, Model, "a gpucnn.Model, such as gpucnn.models.resnet20()")
    shape = image_shape("input_shape", input_shape)
    name, arguments, layer, refusal = model.name, dict(model.arguments), copy.deepcopy(model.layer), None
    if name in MODELS:
        arguments["input_shape"] = list(shape)
        try:
            same = build_model(name, **arguments).structure == repr(model.layer)
        except GpucnnError as error:
            same, refusal = False, error
        if not same:  # no file could name it
            name, arguments = "custom", {}
    try:
        other = Model(layer, shape, name, arguments, model.head)
    except ShapeError as error:
        raise refusal or error from None  # the network's own reason, such as the multiples that it takes
    for here, there in zip(model.parameters, other.parameters, strict=True):
        if here.shape != there.shape:
            raise ShapeError(
                f"{here.name} has shape {here.shape} for images of {model.input_shape} and {there.shape} for {shape}; "
                "only a network whose weights do not depend on the size can share them: end it with GlobalAvgPool2d, "
                "or see gpucnn.models.fully_convolutional"
            )
    other.mean, other.std, other.class_names = model.mean, model.std, model.class_names
    other.frozen = model.frozen
    model.adopt(other)
    return other
