"""Shared by the ready-made networks: the last layer's size and the check of the image size."""

from gpucnn.arguments import integer, sequence
from gpucnn.errors import ConfigurationError, ShapeError

CLASSIFIER, REGRESSOR = "classifier", "regressor"
CLASSES = 10  # if neither classes nor outputs are set


def ending(classes: int | None, outputs: int | None) -> tuple[int, str, dict]:
    """(units of the last layer, head, the model's arguments for it).

    `classes` makes a classifier, with one score per class; `outputs` a regressor of so many values. Raises
    ConfigurationError for both at once and unless they are positive integers.
    """
    if outputs is None:
        units = integer("classes", CLASSES if classes is None else classes)
        return units, CLASSIFIER, {"classes": units}
    if classes is not None:
        raise ConfigurationError(
            f"classes = {classes} and outputs = {outputs} exclude each other: classes make a classifier, outputs a "
            "regressor of so many values"
        )
    units = integer("outputs", outputs)
    return units, REGRESSOR, {"outputs": units}


def check_size(name: str, input_shape, least: int) -> tuple[int, int, int]:
    """`input_shape` as (C, H, W); raises ShapeError for another rank, or fewer than `least` pixels per side."""
    shape = tuple(sequence("input_shape", input_shape, "the shape of one image, such as (3, 32, 32)"))
    if len(shape) != 3:
        raise ShapeError(f"{name} takes images of shape (C, H, W), not {shape}")
    names = ("channels", "height", "width")
    channels, height, width = (integer(name, size) for name, size in zip(names, shape, strict=True))
    if min(height, width) < least:
        raise ShapeError(
            f"{name} takes images of {least}x{least} pixels at least, not {height}x{width}; enlarge them, or take "
            "another network: mlp and resnet20 take any size"
        )
    return channels, height, width
