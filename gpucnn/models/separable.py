"""A small network of depthwise separable convolutions, in the manner of MobileNet (Howard et al. 2017)."""

from gpucnn.layers import BatchNorm, Conv2d, Dense, GlobalAvgPool2d, Layer, Sequential
from gpucnn.models.heads import check_size, ending
from gpucnn.models.model import Model

_FIRST, _BLOCKS = 32, ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1))  # (filters, stride)


def separable_small(
    input_shape: tuple[int, int, int] = (3, 32, 32), classes: int | None = None, *, outputs: int | None = None
) -> Model:
    """A 3x3 convolution of 32 filters, five separable blocks of 64, 128, 128, 256 and 256, global average, dense.

    A block is a depthwise 3x3 convolution, a filter a channel, and a 1x1 convolution that mixes the channels; each
    is followed by batch norm and ReLU. The second and fourth block halve the map: 136,778 parameters for (3, 32, 32)
    and ten classes. `outputs` instead of `classes` (default 10) makes a regressor of so many values. Images of any
    size.
    """
    shape = check_size("separable_small", input_shape, 1)
    units, head, about = ending(classes, outputs)
    layers: list[Layer] = [Conv2d(_FIRST, 3, padding=1, bias=False), BatchNorm(activation="relu")]
    channels = _FIRST
    for filters, stride in _BLOCKS:
        layers += [
            Conv2d(channels, 3, stride=stride, padding=1, groups=channels, bias=False),
            BatchNorm(activation="relu"),
            Conv2d(filters, 1, bias=False),
            BatchNorm(activation="relu"),
        ]
        channels = filters
    return Model(
        Sequential(*layers, GlobalAvgPool2d(), Dense(units)),
        shape,
        "separable_small",
        {"input_shape": list(shape), **about},
        head,
    )
