"""A data set and a model so small that numpy trains an epoch in milliseconds; as a program, a run in a folder."""

import sys

import numpy as np

from gpucnn.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, Sequential
from gpucnn.models import Model
from gpucnn.optimizers import SGD
from gpucnn.schedules import Cosine
from gpucnn.training import Trainer
from gpucnn.training.recording import RecordedStep

IMAGES, CLASSES = 45, 3


def watched_steps(monkeypatch) -> list[bool]:
    """Gains, for each step from now on, whether it repeats a recording."""
    repeated, step = [], RecordedStep.step

    def watched(self, count):
        repeated.append(self._recording and count in self._proved)
        step(self, count)

    monkeypatch.setattr(RecordedStep, "step", watched)
    return repeated


def data(seed=0):
    """Noise with a bright row that tells the class: (images, labels)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, IMAGES)
    images = rng.uniform(0, 0.5, (IMAGES, 1, 8, 8))
    images[np.arange(IMAGES), 0, 1 + 2 * labels] += 1
    return images.astype(np.float32), labels


def model(width=3):
    """Every kind of state that a checkpoint must hold: weights, running statistics, dropout's step."""
    return Model(
        Sequential(
            Conv2d(width, 3, bias=False),
            BatchNorm(activation="relu"),
            MaxPool2d(2),
            Flatten(),
            Dropout(0.25),
            Dense(CLASSES),
        ),
        (1, 8, 8),
    )


def trainer(run=None, backend="numpy", **settings):
    """45 images in batches of 16: two full ones and one of 13."""
    settings = {
        "optimizer": SGD(0.05, weight_decay=0.001, nesterov=True),
        "schedule": Cosine(),
        "seed": 3,
        "batch_size": 16,
        "shift": 1,
        "progress": False,
        **settings,
    }
    return Trainer(settings.pop("model", None) or model(), backend=backend, run=run, **settings)


if __name__ == "__main__":
    folder, epochs = sys.argv[1], int(sys.argv[2])
    images, labels = data()
    it = trainer(folder)
    print("ready", flush=True)
    it.fit(images, labels, epochs, resume=True)
    print(it.model.weights_sha256(), flush=True)
