"""Whole layers against central differences in float64, along random directions, with the public
gpucnn.check_gradients.
"""

import numpy as np
import pytest

from gpucnn import check_gradients
from gpucnn.backends import get_backend
from gpucnn.layers import (
    GELU,
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool2d,
    AvgPool3d,
    BatchNorm,
    BatchNorm1d,
    BatchNorm3d,
    Conv1d,
    Conv2d,
    Conv3d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    GroupNorm,
    LayerNorm,
    LeakyReLU,
    MaxPool1d,
    MaxPool2d,
    Pad,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
    Upsample,
)
from gpucnn.models import Model

CASES = {
    "conv": (lambda: Conv2d(3, 3), (2, 6, 5)),
    "conv relu": (lambda: Conv2d(3, 3, activation="relu"), (2, 6, 5)),
    "conv tanh strided padded": (lambda: Conv2d(3, (3, 2), stride=(2, 1), padding=1, activation="tanh"), (2, 6, 5)),
    "conv sigmoid dilated grouped": (lambda: Conv2d(4, 2, dilation=2, groups=2, activation="sigmoid"), (2, 6, 5)),
    "conv same without bias": (lambda: Conv2d(2, 4, padding="same", stride=2, bias=False), (2, 6, 5)),
    "dense": (lambda: Dense(4), (6,)),
    "dense relu": (lambda: Dense(4, activation="relu"), (6,)),
    "dense tanh without bias": (lambda: Dense(4, activation="tanh", bias=False), (6,)),
    "flatten": (lambda: Sequential(Flatten(), Dense(3)), (2, 3, 2)),
    "max pool": (lambda: MaxPool2d(2), (2, 6, 5)),
    "max pool overlapping": (lambda: MaxPool2d(3, stride=2, padding=1), (2, 6, 5)),
    "average pool": (lambda: AvgPool2d(3, stride=2, padding=1), (2, 6, 5)),
    "average pool of pixels alone": (lambda: AvgPool2d(3, stride=2, padding=1, count_include_pad=False), (2, 6, 5)),
    "global average": (GlobalAvgPool2d, (2, 6, 5)),
    "conv 1d, reflected": (lambda: Conv1d(3, 3, padding=2, padding_mode="reflect", activation="tanh"), (2, 7)),
    "conv circular strided": (lambda: Conv2d(3, 3, padding="same", stride=2, padding_mode="circular"), (2, 6, 5)),
    "conv with a constant around": (
        lambda: Conv2d(2, 3, padding=((2, 0), (0, 1)), padding_mode="constant", padding_value=0.7),
        (2, 6, 5),
    ),
    "conv 3d depthwise, replicated": (
        lambda: Conv3d(4, 2, padding=1, padding_mode="replicate", groups=2, activation="relu"),
        (2, 3, 4, 3),
    ),
    "reflected conv relu and max pool in one": (
        lambda: Sequential(Conv2d(3, 3, padding=1, padding_mode="reflect", activation="relu"), MaxPool2d(2)),
        (2, 6, 5),
    ),
    "pad": (lambda: Pad(((1, 0), (2, 2)), "reflect"), (2, 4, 5)),
    "upsample": (lambda: Upsample((2, 3)), (2, 3, 2)),
    "upsample linear": (lambda: Upsample(size=(5, 4), mode="linear"), (2, 3, 6)),
    "upsample trilinear, aligned": (lambda: Upsample(2, mode="linear", align_corners=True), (1, 3, 2, 2)),
    "max pool 1d, ceil": (lambda: MaxPool1d(2, ceil_mode=True), (2, 7)),
    "average pool 3d, ceil": (lambda: AvgPool3d(2, padding=1, stride=3, ceil_mode=True), (1, 4, 3, 5)),
    "adaptive average": (lambda: AdaptiveAvgPool2d((3, 4)), (2, 7, 5)),
    "adaptive average that divides": (lambda: AdaptiveAvgPool1d(3), (2, 6)),
    "adaptive max": (lambda: AdaptiveMaxPool2d((3, 2)), (2, 7, 5)),
    "adaptive max 3d": (lambda: AdaptiveMaxPool3d(2), (1, 3, 4, 5)),
    "global max": (GlobalMaxPool2d, (2, 6, 5)),
    "relu": (ReLU, (2, 3, 3)),
    "tanh": (Tanh, (2, 3, 3)),
    "sigmoid": (Sigmoid, (2, 3, 3)),
    "leaky relu": (lambda: LeakyReLU(0.2), (2, 3, 3)),
    "gelu": (GELU, (2, 3, 3)),
    "silu": (SiLU, (2, 3, 3)),
    "softmax": (Softmax, (5,)),
    "softmax of maps": (Softmax, (4, 3, 2)),
    "conv gelu": (lambda: Conv2d(3, 3, activation="gelu"), (2, 6, 5)),
    "dense silu": (lambda: Dense(4, activation="silu"), (6,)),
    "batch norm leaky relu": (lambda: BatchNorm(activation="leaky_relu"), (3, 4, 3)),
    "dropout": (lambda: Dropout(0.4), (2, 3, 3)),
    "batch norm": (BatchNorm, (3, 4, 3)),
    "batch norm relu": (lambda: BatchNorm(activation="relu"), (3, 4, 3)),
    "batch norm tanh, flat": (lambda: BatchNorm(activation="tanh"), (5,)),
    "batch norm of lines": (BatchNorm1d, (3, 5)),
    "batch norm of volumes": (lambda: BatchNorm3d(activation="relu"), (2, 2, 3, 2)),
    "group norm": (lambda: GroupNorm(2), (4, 4, 3)),
    "group norm relu": (lambda: GroupNorm(3, activation="relu"), (3, 2, 5)),
    "group norm, flat, without gamma": (lambda: GroupNorm(2, affine=False), (6,)),
    "layer norm": (LayerNorm, (2, 3, 4)),
    "layer norm tanh, flat": (lambda: Sequential(Dense(6), LayerNorm(activation="tanh")), (5,)),
    "layer norm without gamma": (lambda: LayerNorm(affine=False), (2, 5)),
    "residual": (lambda: Residual(Conv2d(2, 3, padding=1)), (2, 4, 4)),
    "residual with shortcut": (
        lambda: Residual(
            Sequential(Conv2d(4, 3, stride=2, padding=1), BatchNorm()), Conv2d(4, 1, stride=2), activation="sigmoid"
        ),
        (2, 6, 6),
    ),
    "a small network": (
        lambda: Sequential(
            Conv2d(3, 3, padding=1, bias=False),
            BatchNorm(activation="relu"),
            MaxPool2d(2),
            Residual(Conv2d(3, 3, padding=1)),
            Flatten(),
            Dense(5, activation="tanh"),
            Dense(3),
        ),
        (2, 6, 6),
    ),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_backward_agrees_with_central_differences(name, training):
    make, shape = CASES[name]
    rng = np.random.default_rng(len(name))
    model = Model(make(), shape).initialize(3).place(get_backend("numpy", "fast", dtype=np.float64))
    for parameter in model.parameters:
        parameter.value[...] += 0.3 * rng.standard_normal(parameter.shape)
    for statistic in model.running:
        statistic.value[...] = rng.uniform(0.5, 1.5, statistic.shape)
    report = check_gradients(model, images=5, training=training, directions=2, seed=len(name))
    assert report.passed, str(report)
    assert [tensor.name for tensor in report.tensors] == ["input", *(p.name for p in model.parameters)]


def test_gradients_are_written_not_accumulated():
    model = Model(Sequential(Conv2d(2, 3), BatchNorm(), Flatten(), Dense(3)), (1, 5, 5)).initialize(0)
    model.place(get_backend("numpy", "fast"))
    model.mode.training = True
    x = np.random.default_rng(0).standard_normal((4, 1, 5, 5)).astype(np.float32)
    first = []
    for _ in range(2):
        y, backward = model(x)
        backward(y)
        first.append(model.grads.copy())
    assert np.array_equal(*first)
