"""A wide, shallow network for CIFAR-10 that learns in few epochs, in the manner of the speed records."""

from collections.abc import Iterable

from gpucnn.arguments import integer, sequence
from gpucnn.layers import (
    GELU,
    BatchNorm,
    Conv2d,
    Dense,
    GlobalMaxPool2d,
    Layer,
    MaxPool2d,
    Sequential,
    Whitening2d,
)
from gpucnn.models.heads import check_size, ending
from gpucnn.models.model import Model

WIDTHS = (64, 256, 256)


def cifar_fast(
    input_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int | None = None,
    *,
    outputs: int | None = None,
    widths: Iterable[int] = WIDTHS,
) -> Model:
    """A 2x2 whitening convolution, groups of `widths` (64, 256, 256) filters, the maximum of each map, dense.

    A group is a 3x3 convolution, a max pooling by 2, batch norm, GELU, and another convolution with batch norm and
    GELU. The whitening convolution's filters are fixed, from the training images (gpucnn.layers.Whitening2d). After
    Jordan 2024 ("94% on CIFAR-10 in 3.29 seconds on a single A100 GPU"), without its frozen batch norm scales and its
    scaling of the outputs. `outputs` instead of `classes` (default 10) makes a regressor of so many values. Images of
    9x9 at least; raises ShapeError for smaller ones.
    """
    sizes = sequence("widths", widths, "the filters of each group, such as (64, 256, 256)")
    filters = [integer("each of widths", size) for size in sizes]
    shape = check_size("cifar_fast", input_shape, 1 + 2 ** len(filters))  # the first takes one, each group halves
    units, head, about = ending(classes, outputs)
    layers: list[Layer] = [Whitening2d(2), GELU()]
    for width in filters:
        layers += [
            Conv2d(width, 3, padding=1, bias=False),
            MaxPool2d(2),
            BatchNorm(activation="gelu"),
            Conv2d(width, 3, padding=1, bias=False),
            BatchNorm(activation="gelu"),
        ]
    return Model(
        Sequential(*layers, GlobalMaxPool2d(), Dense(units)),
        shape,
        "cifar_fast",
        {"input_shape": list(shape), **about, "widths": filters},
        head,
    )
