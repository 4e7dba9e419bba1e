"""The two networks whose weights `check` hashes after ten training steps."""

import numpy as np

from gpucnn.backends.protocol import Backend
from gpucnn.data import load
from gpucnn.layers import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    GlobalAvgPool2d,
    MaxPool2d,
    Residual,
    Sequential,
)
from gpucnn.models import Model, lenet5
from gpucnn.optimizers import SGD, Adam, Optimizer
from gpucnn.training import Trainer

STEPS = 10
# Not multiples of 16, so that each batch masks images; the small network is cheap enough for more than two blocks.
BATCHES = {"lenet5": 20, "batch norm net": 37}
NETWORKS = tuple(BATCHES)


def _batch_norm_net() -> Model:
    """Every layer that LeNet-5 lacks, on 8x8 images."""
    body = Sequential(Conv2d(8, 3, padding=1, bias=False), BatchNorm(activation="relu"), Conv2d(8, 3, padding="same"))
    layer = Sequential(
        Conv2d(8, 3, padding=1, bias=False),
        BatchNorm(activation="relu"),
        Residual(body),
        AvgPool2d(2),
        Conv2d(12, 3, stride=2, padding=1, groups=4, activation="tanh"),
        MaxPool2d(2, stride=1),
        Residual(Conv2d(12, 1), Conv2d(12, 1), activation="sigmoid"),
        GlobalAvgPool2d(),
        Dropout(0.25),
        Dense(10),
    )
    return Model(layer, (1, 8, 8), "batch norm net")


def train(network: str, backend: Backend) -> str:
    """Train ten steps on the digits and return the SHA-256 of the weights."""
    (digits, _) = load("digits")
    count = BATCHES[network] * STEPS
    images, labels = digits.images[:count], digits.labels[:count]
    optimizer: Optimizer
    if network == "lenet5":
        model, optimizer, shift = lenet5((1, 32, 32), 10), SGD(0.02, momentum=0.9, weight_decay=1e-4), 2
    else:
        images = np.ascontiguousarray(images[:, :, ::4, ::4])
        model, optimizer, shift = _batch_norm_net(), Adam(0.01), 1
    trainer = Trainer(
        model, backend=backend, optimizer=optimizer, seed=1, batch_size=BATCHES[network], shift=shift, progress=False
    )
    trainer.fit(images, labels, 1)
    return model.weights_sha256()
