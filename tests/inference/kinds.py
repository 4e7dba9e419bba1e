"""Networks of every kind, and random ones, for tests of inference."""

import copy

import numpy as np

from gpucnn import layers as L
from gpucnn.models import Model, lenet5, mlp, resnet20, vgg_small


def _block(filters: int, stride: int = 1) -> L.Residual:
    body = L.Sequential(
        L.Conv2d(filters, 3, stride=stride, padding=1, bias=False),
        L.BatchNorm(activation="relu"),
        L.Conv2d(filters, 3, padding=1, bias=False),
        L.BatchNorm(),
    )
    return L.Residual(body, L.Sequential(L.Conv2d(filters, 1, stride=stride), L.BatchNorm()) if stride > 1 else None)


def _depthwise(filters: int, channels: int, stride: int = 1) -> list:
    return [
        L.Conv2d(channels, 3, stride=stride, padding=1, groups=channels, bias=False),
        L.BatchNorm(activation="relu"),
        L.Conv2d(filters, 1, bias=False),
        L.BatchNorm(activation="relu"),
    ]


def unbound(model: Model) -> list:
    """Copies of the layers of a Sequential model, as parts of none."""
    return copy.deepcopy(model.layer).layers


# name -> (the layers, the images' shape)
KINDS = {
    "3x3": lambda: (
        [
            L.Conv2d(20, 3, activation="relu"),
            L.Conv2d(32, 3, activation="relu"),
            L.MaxPool2d(2),
            L.Flatten(),
            L.Dense(40, activation="relu"),
            L.Dense(10),
        ],
        (1, 14, 14),
    ),
    "3x3, each pooled": lambda: (
        [
            L.Conv2d(16, 3, activation="relu", padding=1),
            L.MaxPool2d(2),
            L.Conv2d(24, 3, padding="same"),
            L.ReLU(),
            L.MaxPool2d(2),
            L.Flatten(),
            L.Dense(10),
        ],
        (3, 13, 12),
    ),
    "5x5": lambda: (
        [
            L.Conv2d(6, 5, activation="relu"),
            L.MaxPool2d(2),
            L.Conv2d(16, 5, activation="relu"),
            L.MaxPool2d(2),
            L.Flatten(),
            L.Dense(20, activation="relu"),
            L.Dense(7),
        ],
        (3, 20, 20),
    ),
    "depthwise separable": lambda: (
        [
            L.Conv2d(20, 3, padding=1, bias=False),
            L.BatchNorm(activation="relu"),
            *_depthwise(40, 20, 2),
            *_depthwise(33, 40),
            L.GlobalAvgPool2d(),
            L.Dense(5),
        ],
        (3, 12, 12),
    ),
    "depthwise first": lambda: (
        [L.Conv2d(3, 3, groups=3), L.ReLU(), L.Conv2d(12, 3, groups=3), L.GlobalMaxPool2d(), L.Dense(4)],
        (3, 9, 9),
    ),
    "groups": lambda: (
        [
            L.Conv2d(24, 3, padding=1, groups=2),
            L.BatchNorm(),
            L.Conv2d(32, 3, groups=4, activation="relu"),
            L.Conv2d(64, 1, groups=2),
            L.GlobalAvgPool2d(),
            L.Dense(3),
        ],
        (4, 8, 8),
    ),
    "1D": lambda: (
        [
            L.Conv1d(16, 7, padding=3, activation="relu"),
            L.MaxPool1d(2),
            L.Conv1d(32, 5, padding=2),
            L.ReLU(),
            L.MaxPool1d(4),
            L.Conv1d(33, 3, dilation=2),
            L.GlobalAvgPool1d(),
            L.Dense(6),
        ],
        (2, 150),
    ),
    "3D": lambda: (
        [
            L.Conv3d(8, 3, padding=1, activation="relu"),
            L.MaxPool3d(2),
            L.Conv3d(17, 3, padding=1),
            L.BatchNorm(activation="relu"),
            L.MaxPool3d(2),
            L.Flatten(),
            L.Dense(5),
        ],
        (1, 8, 9, 8),
    ),
    "MLP": lambda: (
        [L.Flatten(), L.Dense(300, activation="relu"), L.Dense(100, activation="relu"), L.Dense(10)],
        (1, 28, 28),
    ),
    "rows 4 KiB apart": lambda: ([L.Flatten(), L.Dense(40, activation="relu"), L.Dense(3)], (1, 32, 32)),
    "flat": lambda: ([L.Dense(17, activation="tanh"), L.BatchNorm(), L.Dense(3)], (21,)),
    "VGG": lambda: (
        [
            L.Conv2d(16, 3, padding=1, bias=False),
            L.BatchNorm(activation="relu"),
            L.Conv2d(16, 3, padding=1, bias=False),
            L.BatchNorm(activation="relu"),
            L.MaxPool2d(2),
            L.Conv2d(48, 3, padding=1, bias=False),
            L.BatchNorm(activation="relu"),
            L.MaxPool2d(2),
            L.Flatten(),
            L.Dense(10),
        ],
        (3, 16, 16),
    ),
    "ResNet": lambda: (
        [
            L.Conv2d(16, 3, padding=1, bias=False),
            L.BatchNorm(activation="relu"),
            _block(16),
            _block(32, 2),
            _block(32),
            _block(64, 2),
            L.GlobalAvgPool2d(),
            L.Dense(10),
        ],
        (3, 12, 12),
    ),
    "64x64": lambda: (
        [L.Conv2d(64, 3, activation="relu"), L.MaxPool2d(2), L.Conv2d(20, 3, stride=2), L.GlobalAvgPool2d()],
        (3, 64, 64),
    ),
    "upsampling": lambda: (
        [
            L.Conv2d(20, 3, padding=1, activation="relu"),
            L.Upsample(2),
            L.Conv2d(8, 3, padding=1, padding_mode="reflect"),
            L.Upsample(size=(13, 11), mode="linear"),
            L.Conv2d(2, 1),
        ],
        (3, 5, 6),
    ),
    "transposed": lambda: (
        [
            L.Conv2d(20, 3, stride=2, padding=1, activation="relu"),
            L.ConvTranspose2d(18, 3, stride=2, padding=1, activation="relu"),
            L.ConvTranspose2d(4, 4, stride=2, padding=1, groups=2),
            L.ConvTranspose2d(3, 2, stride=3, bias=False, activation="relu"),
        ],
        (3, 7, 8),
    ),
    "group norm": lambda: (
        [
            L.Conv2d(24, 3, padding=1),
            L.GroupNorm(3, activation="relu"),
            L.Conv2d(32, 3),
            L.LayerNorm(),
            L.ReLU(),
            L.GroupNorm(32, affine=False),
            L.GlobalAvgPool2d(),
            L.LayerNorm(),
            L.Dense(4),
        ],
        (3, 9, 9),
    ),
    "concat": lambda: (
        [
            L.Conv2d(12, 3, padding=1),
            L.Concat(L.Conv2d(5, 1), L.Conv2d(16, 3, padding=1, activation="relu"), L.Sequential()),
            L.BatchNorm(activation="relu"),
            L.Concat(L.MaxPool2d(3, stride=1, padding=1), L.AvgPool2d(3, stride=1, padding=1)),
            L.AdaptiveAvgPool2d((3, 2)),
            L.Flatten(),
            L.Dropout(0.5),
            L.Dense(4),
        ],
        (3, 8, 7),
    ),
    "activations": lambda: (
        [
            L.Conv2d(17, 3, activation="gelu"),
            L.Conv2d(16, 3, activation="silu"),
            L.LeakyReLU(0.2),
            L.AvgPool2d(2),
            L.Conv2d(4, 1, activation="sigmoid"),
            L.Tanh(),
            L.Softmax(),
            L.AdaptiveMaxPool2d(3),
            L.Flatten(),
            L.Dense(3),
        ],
        (2, 14, 14),
    ),
    "unrectified residual": lambda: (
        [
            L.Residual(L.Conv2d(3, 3, padding=1), activation=None),
            L.Residual(L.Sequential(L.BatchNorm(), L.ReLU()), activation="tanh"),
            L.Residual(L.Sequential(), activation="relu"),
            L.Conv2d(5, 2, stride=2),
            L.MaxPool2d(2, ceil_mode=True),
        ],
        (3, 9, 9),
    ),
    "large flattened map": lambda: (
        [L.Conv2d(20, 3, padding=1), L.BatchNorm(activation="relu"), L.Flatten(), L.Dense(17), L.Dense(3)],
        (2, 13, 12),
    ),
    "flattened map with a border": lambda: (
        [
            L.Conv2d(18, 1, activation="relu"),
            L.Concat(
                L.Sequential(L.Flatten(), L.ReLU(), L.Dense(5)),
                L.Sequential(L.Conv2d(4, (3, 1), padding=(1, 0)), L.GlobalMaxPool2d()),
                L.Sequential(L.Flatten(), L.Dense(33)),
            ),
            L.Dense(3),
        ],
        (3, 9, 19),
    ),
    "narrow flattened map with a border": lambda: (
        [
            L.Conv3d(17, 1),
            L.Concat(
                L.Sequential(L.Flatten(), L.Dense(5)),
                L.Sequential(L.Conv3d(4, 3, padding=1), L.GlobalAvgPool3d()),
            ),
        ],
        (2, 9, 5, 3),
    ),
    "layer norm with a border": lambda: (
        [L.Conv2d(20, 1), L.LayerNorm(), L.Conv2d(4, 3, padding=1), L.LayerNorm(), L.Conv2d(4, (1, 3), padding=(0, 1))],
        (2, 6, 18),
    ),
    "weights 4 KiB apart": lambda: (
        [L.Conv2d(16, 3, activation="relu"), L.Flatten(), L.Dense(40, activation="relu"), L.Dense(3)],
        (1, 10, 10),
    ),
    "nothing": lambda: ([L.Flatten()], (3, 4, 5)),
    "lenet5": lambda: (unbound(lenet5((1, 28, 28))), (1, 28, 28)),
    "lenet5 of 1998": lambda: (unbound(lenet5((1, 28, 28), variant="1998")), (1, 28, 28)),
}


def settle(model: Model, seed: int) -> Model:
    """Weights, and statistics as after some training."""
    model.initialize(seed)
    random = np.random.default_rng(seed)
    state = model.state_dict()
    for name, value in state.items():
        if name.endswith(("bias", "beta", "running_mean")):
            state[name] = random.normal(0, 0.3, value.shape).astype(np.float32)
        elif name.endswith(("gamma", "running_var")):
            state[name] = random.uniform(0.5, 2, value.shape).astype(np.float32)
    model.load_state_dict(state)
    return model


def made(kind: str, seed: int = 0) -> Model:
    """A network of KINDS."""
    layers, shape = KINDS[kind]()
    return settle(Model(L.Sequential(*layers), shape, head="regressor"), seed)


__all__ = ["KINDS", "made", "mlp", "resnet20", "settle", "vgg_small"]
