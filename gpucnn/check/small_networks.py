"""Four networks of at most a few hundred weights, which Numba's CUDA simulator can train in seconds."""

import numpy as np

from gpucnn.backends.protocol import Backend
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


def _plain() -> tuple[Model, dict]:
    layer = Sequential(
        Conv2d(2, 3, padding=1, activation="relu"), MaxPool2d(2), Dropout(0.25), Conv2d(2, 2), Flatten(), Dense(3)
    )
    optimizer = SGD(0.05, momentum=0.9, weight_decay=1e-3)
    return Model(layer, (1, 4, 4), "small plain"), {"optimizer": optimizer, "shift": 1, "batch_size": 33}


def _normed() -> tuple[Model, dict]:
    layer = Sequential(
        Conv2d(2, 3, stride=2, padding=1, bias=False),
        BatchNorm(activation="relu"),
        Residual(Conv2d(2, 1, groups=2, activation="tanh")),
        AvgPool2d(2),
        Flatten(),
        Dense(3),
    )
    return Model(layer, (1, 4, 4), "small batch norm"), {"optimizer": Adam(0.01), "batch_size": 18}


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
    return Model(layer, (1, 4, 4), "small smoothed"), {
        "optimizer": Adam(0.01),
        "batch_size": 33,
        "loss": loss,
        "clip_norm": 0.05,
        "clip_value": 0.02,
    }


def _regression() -> tuple[Model, dict]:
    layer = Sequential(Conv2d(2, 3), Softmax(), GELU(), Flatten(), Dense(2))
    optimizer = SGD(0.05, momentum=0.9)
    return Model(layer, (1, 4, 4), "small regression", head="regressor"), {
        "optimizer": optimizer,
        "batch_size": 18,
        "loss": Huber(0.25),
        "clip_norm": 0.1,
    }


SMALL_NETWORKS = {
    "small plain": _plain,
    "small batch norm": _normed,
    "small smoothed": _smoothed,
    "small regression": _regression,
}


def train_small(network: str, backend: Backend) -> str:
    """Train one of SMALL_NETWORKS for two steps, with a short last batch; return the SHA-256 of its weights."""
    random = np.random.default_rng(4)
    images: np.ndarray = random.random((35, 1, 4, 4), np.float32)
    targets: np.ndarray = random.integers(0, 3, 35)
    if network == "small regression":
        targets = random.standard_normal((35, 2), np.float32)
    model, settings = SMALL_NETWORKS[network]()
    Trainer(model, backend=backend, seed=2, progress=False, **settings).fit(images, targets, 1)
    return model.weights_sha256()
