"""The part of `check` that is small enough for Numba's CUDA simulator, which starts a Python thread for each CUDA
thread: some of the cases, and four networks of a few hundred weights at most."""

from collections.abc import Iterator

import numpy as np

from gpucnn.backends.protocol import Backend
from gpucnn.check.cases import Case, cases
from gpucnn.layers import (
    GELU,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    LeakyReLU,
    MaxPool2d,
    Residual,
    Sequential,
    Softmax,
)
from gpucnn.losses import Huber, SoftmaxCrossEntropy
from gpucnn.models import Model
from gpucnn.optimizers import SGD, Adam
from gpucnn.training import Trainer

# The cases that take few threads, a few thousand at most, by the words that describe them.
_SMALL = {
    "convolution": ["1 images of 1x1x1", "17 images of 4x3x3", "19 images of 2x13"],
    "convolution with max pool": ["2 images of 2x(10,)"],
    "dense": ["1 images", "100 images"],
    "max pool": ["2 images of 2x7x8", "1 images of 1x1x1"],
    "average pool": ["2 images of 2x7x8", "1 images of 1x1x1"],
    "global average pool": ["3 images of 1x4x5x4", "1 images of 1x1x1"],
    "map along an axis": ["3 images of 1x5x4"],
    "padding": ["3 images of 1x4x6", "2 images of 3x5x6", "1 images of 1x1x1", "2 images of 1x3x2x4"],
    "upsampling": ["3 images of 1x7x5", "2 images of 1x9x8", "1 images of 1x1x1", "5 images of 2x6"],
    "padded convolution": ["3 images of 2x7"],
    **{key: ["3 images of 1x5x5", "1 images of 1x1x1"] for key in ("adaptive average pool", "adaptive max pool")},
    "global max pool": ["2 images of 1x4x3x5", "1 images of 1x1x1"],
    "batch norm": ["(2, 1, 1, 1)", "(33, 5)", "(48, 2, 3, 3)"],
    "group norm": ["(2, 1, 1, 1)", "(33, 4)", "(2, 2, 5, 7)"],
    **{key: ["(1, 1, 1, 1)", "(33, 7)"] for key in ("relu", "tanh", "sigmoid", "addition", "dropout")},
    **{key: ["(1, 1, 1, 1)", "(33, 7)"] for key in ("leaky relu", "gelu", "silu", "softmax")},
    **{key: ["(17, 3)", "(3, 2, 9, 8)"] for key in ("mean squared", "mean absolute", "huber", "binary cross entropy")},
    **{key: [""] for key in ("softmax cross-entropy", "weighted cross-entropy", "SGD", "Adam", "AdamW")},
    "gradient clipping": ["70 values", "5000 values"],
    **{key: [""] for key in ("loading with random shift", "watch for non-finite numbers")},
    "loading with augmentation": ["33 images of 1x", "3 images of", "2 images of"],
    "transposed convolution": ["1 images of", "3 images of 2x3x2", "40 images of 2x1"],
    "bias addition": ["(1, 1, 1, 1)", "(33, 7)"],
    "concatenation": ["1 images of", "33 images of"],
}
# Numbers that are subnormal or cancel, where order and rounding show, go through fewer shapes still.
_SMALLEST = {
    "convolution": ["3 images of 1x5x4"],
    "dense": ["100 images"],
    "batch norm": ["(33, 5)"],
    "transposed convolution": ["3 images of 2x3x2"],
    "bias addition": ["(33, 7)"],
    **{key: ["5 images"] for key in ("max pool", "average pool", "global average pool", "global max pool")},
    **{key: ["5 images"] for key in ("adaptive average pool", "adaptive max pool")},
    "map along an axis": ["2 images of 1x2x3x4"],
    "padding": ["2 images of 3x5x6"],
    "upsampling": ["5 images"],
    "padded convolution": ["3 images of 2x7"],
    "group norm": ["(33, 4)"],
    **{key: ["(33, 7)"] for key in ("tanh", "sigmoid", "gelu", "silu", "softmax")},
    **{key: ["(17, 3)"] for key in ("mean squared", "huber", "binary cross entropy")},
    **{key: [""] for key in ("softmax cross-entropy", "weighted cross-entropy", "SGD", "Adam", "AdamW")},
    "gradient clipping": ["70 values"],
}


def small_cases() -> Iterator[Case]:
    """The small ones of `check`'s cases; every operation is among them."""
    for case in cases():
        kind, _, about = case.about.partition(", ")
        chosen = _SMALLEST if kind in ("subnormal", "cancelling") else _SMALL
        if any(about.startswith(words) for words in chosen.get(case.operation, ())):
            yield case


def _plain() -> tuple[Model, dict]:
    layer = Sequential(
        Conv2d(2, 3, padding=1, activation="relu"), MaxPool2d(2), Dropout(0.25), Conv2d(2, 2), Flatten(), Dense(3)
    )
    optimizer = SGD(0.05, momentum=0.9, weight_decay=1e-3)
    return Model(layer, (1, 4, 4), "toy"), {"optimizer": optimizer, "shift": 1, "batch_size": 33}


def _normed() -> tuple[Model, dict]:
    layer = Sequential(
        Conv2d(2, 3, stride=2, padding=1, bias=False),
        BatchNorm(activation="relu"),
        Residual(Conv2d(2, 1, groups=2, activation="tanh")),
        AvgPool2d(2),
        Flatten(),
        Dense(3),
    )
    return Model(layer, (1, 4, 4), "toy batch norm net"), {"optimizer": Adam(0.01), "batch_size": 18}


def _smoothed() -> tuple[Model, dict]:
    layer = Sequential(
        Conv2d(2, 3, padding=1, activation="gelu"),
        AvgPool2d(2),
        LeakyReLU(0.1),
        Flatten(),
        Dense(4, activation="silu"),
        Dense(3),
    )
    loss = SoftmaxCrossEntropy(label_smoothing=0.1, class_weights=[1, 2, 0.5])
    return Model(layer, (1, 4, 4), "toy smoothed"), {
        "optimizer": Adam(0.01),
        "batch_size": 33,
        "loss": loss,
        "clip_norm": 0.05,
        "clip_value": 0.02,
    }


def _regression() -> tuple[Model, dict]:
    layer = Sequential(Conv2d(2, 3), Softmax(), GELU(), Flatten(), Dense(2))
    optimizer = SGD(0.05, momentum=0.9)
    return Model(layer, (1, 4, 4), "toy regression"), {
        "optimizer": optimizer,
        "batch_size": 18,
        "loss": Huber(0.25),
        "clip_norm": 0.1,
    }


TOYS = {"toy": _plain, "toy batch norm net": _normed, "toy smoothed": _smoothed, "toy regression": _regression}


def train_toy(network: str, backend: Backend) -> str:
    """Train one of TOYS for an epoch of two steps, the last one short, and return the SHA-256 of its weights."""
    random = np.random.default_rng(4)
    images, targets = random.random((35, 1, 4, 4), np.float32), random.integers(0, 3, 35)
    if network == "toy regression":
        targets = random.standard_normal((35, 2), np.float32)
    model, settings = TOYS[network]()
    Trainer(model, backend=backend, seed=2, progress=False, **settings).fit(images, targets, 1)
    return model.weights_sha256()
