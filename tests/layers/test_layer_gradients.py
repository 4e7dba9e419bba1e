"""Whole layers against central differences in float64, along random directions.

With f(t) = sum(c * layer(x + t*d)) the difference quotient (f(h) - f(-h)) / 2h is off by h**2/6 * |f'''| and by
rounding of about 2**-52 * |f| / h: with h = 1e-5 and values around 1 both lie near 1e-10. The bound 1e-7 leaves room
for sums.
"""

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.layers import (
    GELU, LeakyReLU, SiLU, Softmax,
    AvgPool2d, BatchNorm, Conv2d, Dense, Dropout, Flatten, GlobalAvgPool2d, MaxPool2d, ReLU, Residual, Sequential,
    Sigmoid, Tanh,
)
from gpucnn.models import Model  # fmt: skip

H = 1e-5
BOUND = 1e-7

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
    "global average": (lambda: GlobalAvgPool2d(), (2, 6, 5)),
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
    "batch norm": (lambda: BatchNorm(), (3, 4, 3)),
    "batch norm relu": (lambda: BatchNorm(activation="relu"), (3, 4, 3)),
    "batch norm tanh, flat": (lambda: BatchNorm(activation="tanh"), (5,)),
    "residual": (lambda: Residual(Conv2d(2, 3, padding=1)), (2, 4, 4)),
    "residual with shortcut": (
        lambda: Residual(
            Sequential(Conv2d(4, 3, stride=2, padding=1), BatchNorm()), Conv2d(4, 1, stride=2), activation="sigmoid"
        ),
        (2, 6, 6),
    ),
    "a small network": (
        lambda: Sequential(
            Conv2d(3, 3, padding=1, bias=False), BatchNorm(activation="relu"), MaxPool2d(2),
            Residual(Conv2d(3, 3, padding=1)), Flatten(), Dense(5, activation="tanh"), Dense(3),
        ),
        (2, 6, 6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_backward_agrees_with_central_differences(name, training):
    make, shape = CASES[name]
    rng = np.random.default_rng(len(name))
    model = Model(make(), shape).initialize(3).place(get_backend("numpy", dtype=np.float64))
    model.mode.training = training
    for parameter in model.parameters:
        parameter.value[...] += 0.3 * rng.standard_normal(parameter.shape)
    for statistic in model.running:
        statistic.value[...] = rng.uniform(0.5, 1.5, statistic.shape)
    x = rng.standard_normal((5, *shape))
    y, backward = model(x)
    c = rng.standard_normal(y.shape)
    dx = backward(model.backend.pack(c)).numpy()
    running = model.statistics.copy()
    gradients = {p.name: p.grad.copy() for p in model.parameters}

    def loss():
        model.statistics[...] = running  # training moves them; in inference they are constants
        return float(np.sum(c * model(x)[0].numpy()))

    for array, gradient in [(x, dx), *((p.value, gradients[p.name]) for p in model.parameters)]:
        for _ in range(2):
            direction = rng.standard_normal(array.shape)
            start = array.copy()
            array[...] = start + H * direction
            above = loss()
            array[...] = start - H * direction
            below = loss()
            array[...] = start
            slope = (above - below) / (2 * H)
            assert abs(slope - np.sum(gradient * direction)) <= BOUND * max(1, np.sum(np.abs(gradient * direction)))


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
