"""ResNet-20 for small images (He et al. 2015, section 4.2)."""

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


def resnet20(
    input_shape: tuple[int, int, int] = (3, 32, 32), classes: int | None = None, *, outputs: int | None = None
) -> Model:
    """A 3x3 convolution, then three stages of three residual blocks with 16, 32 and 64 filters, global average, dense.

    Where a stage halves the map, the shortcut is a 1x1 convolution of stride 2 with batch norm (the paper's option B;
    its own CIFAR nets pad with zeros, option A): 272,474 parameters for (3, 32, 32) and ten classes, 2,752 more.
    `outputs` instead of `classes` (default 10) makes a regressor of so many values. Images of any size.
    """
    shape = check_size("resnet20", input_shape, 1)
    units, head, about = ending(classes, outputs)
    blocks = [_block(filters, stride) for filters, first in ((16, 1), (32, 2), (64, 2)) for stride in (first, 1, 1)]
    return Model(
        Sequential(
            Conv2d(16, 3, padding=1, bias=False),
            BatchNorm(activation="relu"),
            *blocks,
            GlobalAvgPool2d(),
            Dense(units),
        ),
        shape,
        "resnet20",
        {"input_shape": list(shape), **about},
        head,
    )
