"""ResNets for small images (He et al. 2015, section 4.2)."""

from gpucnn.layers import BatchNorm, Conv2d, Dense, GlobalAvgPool2d, Residual, Sequential
from gpucnn.models.heads import check_size, ending
from gpucnn.models.model import Model


def _block(filters: int, stride: int) -> Residual:
    body = Sequential(
        Conv2d(filters, 3, stride=stride, padding=1, bias=False),
        BatchNorm(activation="relu"),
        Conv2d(filters, 3, padding=1, bias=False),
        BatchNorm(),
    )
    shortcut = Sequential(Conv2d(filters, 1, stride=stride, bias=False), BatchNorm()) if stride > 1 else None
    return Residual(body, shortcut)


def _resnet(name: str, blocks: int, input_shape, classes: int | None, outputs: int | None) -> Model:
    """Three stages of so many residual blocks, two convolutions each."""
    shape = check_size(name, input_shape, 1)
    units, head, about = ending(classes, outputs)
    stages = ((16, 1), (32, 2), (64, 2))
    return Model(
        Sequential(
            Conv2d(16, 3, padding=1, bias=False),
            BatchNorm(activation="relu"),
            *(_block(filters, stride) for filters, first in stages for stride in (first, *[1] * (blocks - 1))),
            GlobalAvgPool2d(),
            Dense(units),
        ),
        shape,
        name,
        {"input_shape": list(shape), **about},
        head,
    )


def resnet20(
    input_shape: tuple[int, int, int] = (3, 32, 32), classes: int | None = None, *, outputs: int | None = None
) -> Model:
    """A 3x3 convolution, then three stages of three residual blocks with 16, 32 and 64 filters, global average, dense.

    Where a stage halves the map, the shortcut is a 1x1 convolution of stride 2 with batch norm (the paper's option B;
    its own CIFAR nets pad with zeros, option A): 272,474 parameters for (3, 32, 32) and ten classes, 2,752 more.
    `outputs` instead of `classes` (default 10) makes a regressor of so many values. Images of any size.
    """
    return _resnet("resnet20", 3, input_shape, classes, outputs)


def resnet56(
    input_shape: tuple[int, int, int] = (3, 32, 32), classes: int | None = None, *, outputs: int | None = None
) -> Model:
    """resnet20 with nine residual blocks a stage: 855,770 parameters for (3, 32, 32) and ten classes."""
    return _resnet("resnet56", 9, input_shape, classes, outputs)
