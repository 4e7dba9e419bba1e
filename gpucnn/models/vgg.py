"""A small network in the style of VGG (Simonyan and Zisserman 2015): 3x3 convolutions in pairs."""

from gpucnn.layers import BatchNorm, Conv2d, Dense, Flatten, MaxPool2d, Sequential
from gpucnn.models.heads import check_size, ending
from gpucnn.models.model import Model

_LEAST = 8  # three poolings by 2


def vgg_small(
    input_shape: tuple[int, int, int] = (3, 32, 32), classes: int | None = None, *, outputs: int | None = None
) -> Model:
    """Three pairs of padded 3x3 convolutions of 32, 64 and 128 filters, a 2x2 max pool after each, one dense layer.

    Each convolution is followed by batch norm and ReLU, so it has no bias of its own. `outputs` instead of
    `classes` (default 10) makes a regressor of so many values. Images of 8x8 at least; raises ShapeError for
    smaller ones.
    """
    shape = check_size("vgg_small", input_shape, _LEAST)
    units, head, about = ending(classes, outputs)
    layers = []
    for filters in (32, 64, 128):
        for _ in range(2):
            layers += [Conv2d(filters, 3, padding=1, bias=False), BatchNorm(activation="relu")]
        layers.append(MaxPool2d(2))
    return Model(
        Sequential(*layers, Flatten(), Dense(units)),
        shape,
        "vgg_small",
        {"input_shape": list(shape), **about},
        head,
    )
