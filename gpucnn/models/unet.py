"""A small U-Net (Ronneberger, Fischer and Brox 2015), which gives a class to each pixel."""

from collections.abc import Iterable

from gpucnn.arguments import integer, sequence
from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.layers import BatchNorm, Concat, Conv2d, ConvTranspose2d, Layer, MaxPool2d, Sequential
from gpucnn.models.heads import check_size, ending
from gpucnn.models.model import Model

WIDTHS = (16, 32, 64)


def unet_small(
    input_shape: tuple[int, int, int] = (1, 32, 32),
    classes: int | None = None,
    *,
    outputs: int | None = None,
    widths: Iterable[int] = WIDTHS,
) -> Model:
    """Images (C, H, W) to scores of each pixel, (classes, H, W).

    At each level but the last, two 3x3 convolutions, whose maps are kept; a 2x2 max pooling, the next level, and a
    transposed convolution that doubles the map's sides again; kept and enlarged maps side by side, and two more
    convolutions. `widths` are the levels' filters. Convolutions are padded and followed by batch norm and ReLU; the
    last is 1x1. 117,226 parameters for (1, 32, 32) and ten classes. `outputs` instead of `classes` (default 10) makes
    so many values a pixel.

    Raises ShapeError unless height and width are multiples of 2**(levels - 1).
    """
    sizes = sequence("widths", widths, "the filters of each level, such as (16, 32, 64)")
    filters = [integer("each of widths", size) for size in sizes]
    if not filters:
        raise ConfigurationError("widths is empty; give the filters of each level, such as (16, 32, 64)")
    shape, multiple = check_size("unet_small", input_shape, 1), 2 ** (len(filters) - 1)
    if any(size % multiple for size in shape[1:]):
        raise ShapeError(
            f"unet_small with {len(filters)} levels takes heights and widths that are multiples of {multiple}, not "
            f"{shape[1]}x{shape[2]}; pad or crop the images"
        )
    units, head, about = ending(classes, outputs)
    about = {"input_shape": list(shape), **about, "widths": filters}
    return Model(Sequential(*_level(filters), Conv2d(units, 1)), shape, "unet_small", about, head)


def _level(filters: list[int]) -> list[Layer]:
    width, deeper = filters[0], filters[1:]
    if not deeper:
        return _pair(width)
    below = Sequential(MaxPool2d(2), *_level(deeper), ConvTranspose2d(width, 2, stride=2))
    return [*_pair(width), Concat(Sequential(), below), *_pair(width)]


def _pair(width: int) -> list[Layer]:
    return [
        layer for _ in range(2) for layer in (Conv2d(width, 3, padding=1, bias=False), BatchNorm(activation="relu"))
    ]
