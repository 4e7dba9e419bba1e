"""What the ready-made networks share: how they end, and which images fit."""

from gpucnn.arguments import integer, sequence
from gpucnn.errors import ConfigurationError, ShapeError

CLASSIFIER, REGRESSOR = "classifier", "regressor"
CLASSES = 10  # where neither classes nor outputs are given


def ending(classes: int | None, outputs: int | None) -> tuple[int, str, dict]:
    """(units of the last layer, head, what the model's arguments say of it).

    `classes` makes a classifier, whose outputs are a score a class; `outputs` a regressor of so many values. Raises
    ConfigurationError for both at once and for what is no positive integer.
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
    """`input_shape` as (C, H, W); raises ShapeError for another rank, or fewer than `least` pixels along a side."""
    shape = tuple(sequence("input_shape", input_shape, "the shape of one image, such as (3, 32, 32)"))
    if len(shape) != 3:
        raise ShapeError(f"{name} takes images of shape (C, H, W), not {shape}")
    sizes = tuple(integer(what, size) for what, size in zip(("channels", "height", "width"), shape, strict=True))
    if min(sizes[1:]) < least:
        raise ShapeError(
            f"{name} takes images of {least}x{least} pixels at least, not {sizes[1]}x{sizes[2]}; enlarge them, or take "
            "another network: mlp and resnet20 take any size"
        )
    return sizes
