"""Small networks for signals and for volumes: one and three spatial axes."""

from typing import Any

from gpucnn.layers import (
    BatchNorm,
    Conv1d,
    Conv3d,
    Dense,
    GlobalAvgPool1d,
    GlobalAvgPool3d,
    MaxPool1d,
    MaxPool3d,
    Sequential,
)
from gpucnn.models.heads import check_size, ending
from gpucnn.models.model import Model

_LEAST = 4  # two poolings by 2


def signal_small(
    input_shape: tuple[int, int] = (1, 128), classes: int | None = None, *, outputs: int | None = None
) -> Model:
    """For signals (C, L): convolutions of 32, 64 and 128 filters, 7, 5 and 3 wide, global average, dense.

    Batch norm and ReLU follow each convolution, and a max pooling by 2 the first two. The kernels are almost those of
    Wang, Yan and Oates 2017 (8, 5 and 3). `outputs` instead of `classes` (default 10) makes a regressor of so many
    values. Signals of 4 samples at least; raises ShapeError for shorter ones.
    """
    return _small("signal_small", 1, ((32, 7), (64, 5), (128, 3)), input_shape, classes, outputs)


def volume_small(
    input_shape: tuple[int, int, int, int] = (1, 16, 16, 16), classes: int | None = None, *, outputs: int | None = None
) -> Model:
    """For volumes (C, D, H, W): 3x3x3 convolutions of 16, 32 and 64 filters, global average, dense.

    Batch norm and ReLU follow each convolution, and a max pooling by 2 the first two. `outputs` instead of `classes`
    (default 10) makes a regressor of so many values. Volumes of 4 pixels a side at least; raises ShapeError for
    smaller ones.
    """
    return _small("volume_small", 3, ((16, 3), (32, 3), (64, 3)), input_shape, classes, outputs)


def _small(name: str, axes: int, convolutions, input_shape, classes: int | None, outputs: int | None) -> Model:
    shape = check_size(name, input_shape, _LEAST, axes)
    units, head, about = ending(classes, outputs)
    conv, pool, average = {1: (Conv1d, MaxPool1d, GlobalAvgPool1d), 3: (Conv3d, MaxPool3d, GlobalAvgPool3d)}[axes]
    layers: list[Any] = []
    for filters, size in convolutions:
        layers += [conv(filters, size, padding=size // 2, bias=False), BatchNorm(activation="relu"), pool(2)]
    layers[-1] = average()
    return Model(Sequential(*layers, Dense(units)), shape, name, {"input_shape": list(shape), **about}, head)
