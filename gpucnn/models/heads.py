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


_AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def check_size(name: str, input_shape, least: int, axes: int = 2) -> tuple[int, ...]:
    """`input_shape` as (C, *spatial) with `axes` spatial axes; raises ShapeError for another rank, or fewer than
    `least` pixels along an axis.
    """
    shape = tuple(sequence("input_shape", input_shape, "the shape of one image, such as (3, 32, 32)"))
    if len(shape) != axes + 1:
        letters = ", ".join(axis[0].upper() for axis in _AXES[axes])
        raise ShapeError(f"{name} takes images of shape (C, {letters}), not {shape}")
    names = ("channels", *_AXES[axes])
    channels, *sizes = (integer(name, size) for name, size in zip(names, shape, strict=True))
    if min(sizes) < least:
        pixels, size = "x".join([str(least)] * axes), "x".join(map(str, sizes))
        others = "; enlarge them, or take another network: mlp and resnet20 take any size" if axes == 2 else ""
        raise ShapeError(f"{name} takes images of {pixels} pixels at least, not {size}{others}")
    return (channels, *sizes)
