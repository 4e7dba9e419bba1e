"""Networks and trainings for processes that share a batch."""

import functools

import numpy as np

import gpucnn
from gpucnn.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, GroupNorm, MaxPool2d, Sequential
from gpucnn.losses import Huber, SoftmaxCrossEntropy
from gpucnn.models import Model, build_model
from gpucnn.optimizers import Adam
from gpucnn.schedules import Cosine
from gpucnn.training import Trainer

COUNTS = 1, 2, 3, 4, 5, 8


def everything(batch_norm: bool = True) -> Model:
    """Each operation that sums over the batch or draws by an image's position in it."""
    first = BatchNorm(activation="relu") if batch_norm else GroupNorm(2, activation="relu")
    second = BatchNorm(activation="tanh") if batch_norm else GroupNorm(4, activation="tanh")
    return Model(
        Sequential(
            Conv2d(4, 3, bias=False),
            first,
            MaxPool2d(2),
            Conv2d(4, 3, padding=1),
            second,
            Dropout(0.25),
            GroupNorm(2),
            Conv2d(8, 3, activation="relu"),
            Flatten(),
            Dense(10),
        ),
        (1, 8, 8),
        "everything",
    )


@functools.cache
def digits(size: int):
    """(images, labels) of the digits with so many pixels a side."""
    train, _ = gpucnn.data.load("digits")
    step = 32 // size if size < 32 else 1
    return np.ascontiguousarray(train.images[:, :, ::step, ::step]), train.labels


def network(name: str) -> Model:
    if name in ("everything", "no batch norm"):
        return everything(name == "everything")
    return build_model(name, (1, 32, 32), 10)


def train(
    name: str, backend, processes=1, *, images: int, batch: int, epochs: int = 2, fit: dict | None = None, **more
):
    """(SHA-256 of the weights, losses, validation losses, best epoch)."""
    model = network(name)
    pixels, labels = digits(model.input_shape[1])
    settings = {
        "optimizer": Adam(0.01),
        "schedule": Cosine(),
        "seed": 3,
        "batch_size": batch,
        "progress": False,
        **more,
    }
    trainer = Trainer(model, backend=backend, processes=processes, **settings)
    history = trainer.fit(pixels[:images], labels[:images], epochs, **(fit or {}))
    return model.weights_sha256(), history["loss"], history["validation_loss"], history.best_epoch()


WEIGHTED = SoftmaxCrossEntropy(0.1, [1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.0, 0.25, 1.0, 1.0])
SMOOTHED = SoftmaxCrossEntropy(0.1)
VALUES = Huber(0.5)
