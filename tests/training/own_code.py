"""What a user writes: one class for each thing that can be written, in plain array code of single roundings, so that
every backend gives the same bits; and the same once more with a claim to be recordable, which is false."""

import numpy as np

from gpucnn.backends import get_backend
from gpucnn.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, Layer, Parameter, ReLU, Sequential
from gpucnn.losses import Loss, MeanSquared, SoftmaxCrossEntropy
from gpucnn.models import Model
from gpucnn.optimizers import SGD, Adam, Optimizer
from gpucnn.schedules import Schedule
from gpucnn.training import Callback, Trainer

HALF = np.float32(0.5)
_REQUIRED = object()


class Scale(Layer):
    def build(self, shape):
        self.factor = Parameter((shape[0],), 0.75)
        return shape

    def __call__(self, x):
        factor = self.factor.value.reshape(-1, *(1,) * (x.data.ndim - 2))

        def backward(dy):
            self.factor.grad[...] = dy.data[0, :, ..., 0].reshape(len(self.factor.value), -1)[:, 0]  # one value: no sum
            return dy.like(dy.data * factor)

        return x.like(x.data * factor), backward


class Doubled(ReLU):
    def __call__(self, x):
        y, backward = super().__call__(x)
        return y.like(y.data + y.data), lambda dy: backward(dy.like(dy.data + dy.data))


class Halved(Sequential):
    def __call__(self, x):
        y, backward = super().__call__(x)
        return y.like(y.data * HALF), lambda dy: backward(dy.like(dy.data * HALF))


class Lifted(Conv2d):
    def __call__(self, x):
        y, backward = super().__call__(x)
        return y.like(y.data + HALF), backward


class Statistics(BatchNorm):
    """Overrides a part that the base class calls within a step."""

    def _with_batch_statistics(self, x, other, relu):
        y, mean, var = super()._with_batch_statistics(x, other, relu)
        return y, mean * HALF, var


class Squared(Loss):
    def __call__(self, outputs, targets, totals=None):
        backend = outputs.backend
        difference = outputs.data - targets.data
        return backend.zeros((1,)), outputs.like(difference * np.float32(2 / outputs.images))


class Steeper(SoftmaxCrossEntropy):
    def __call__(self, outputs, targets, totals=None):
        loss, gradient = super().__call__(outputs, targets, totals)
        return loss, gradient.like(gradient.data + gradient.data)


class Signs(Optimizer):
    def update(self, weights, gradients):
        xp = self.backend.xp
        weights[...] = weights - self.hyper[0] * xp.sign(gradients)


class Gentle(SGD):
    def update(self, weights, gradients):
        gradients *= HALF
        super().update(weights, gradients)


class Rising(Adam):
    """Overrides what runs between the steps, so its steps may be recorded."""

    def rates(self, lr, step):
        return super().rates(lr * (1 + step / 64), step)


class Counting(Rising):
    """Keeps a number that changes with every step: nobody knows whether a step reads it."""

    def rates(self, lr, step):
        self.steps = step
        return super().rates(lr, step)


class Waves(Schedule):
    def __call__(self, step, steps, epoch):
        return 1.0 if step % 2 else 0.5


class Momentum(Schedule):
    """Changes a setting of the optimiser from epoch to epoch."""

    def __init__(self):
        self._optimizer = None

    def __call__(self, step, steps, epoch):
        self._optimizer.momentum = 0.9 - 0.125 * epoch
        return 1.0


class Changes(Callback):
    """Changes settings of a layer and of the optimiser in the middle of training."""

    def on_epoch_end(self, trainer, record):
        trainer.optimizer.weight_decay = 0.125
        for layer in trainer.model.layer.walk():
            if isinstance(layer, Dropout):
                layer.rate = 0.5


def _layers(*, first=None, activation=None, norm=None, whole=Sequential, last=()):
    return whole(
        first or Conv2d(3, 3), norm or BatchNorm(), activation or ReLU(), *last, Dropout(0.25), Flatten(), Dense(3)
    )


def _of(cls, claims: bool):
    """`cls`, or a subclass that claims to be recordable."""
    return type(cls.__name__, (cls,), {"recordable": True}) if claims else cls


TOGETHER = "a subclass of Conv2d, a loss and an optimiser"
# What is written -> (layer, settings of the trainer); `c` makes the class a false claim or leaves it alone.
KINDS = {
    "a layer": lambda c: (_layers(last=(c(Scale)(),)), {}),
    "a subclass of ReLU": lambda c: (_layers(activation=c(Doubled)()), {}),
    "a subclass of Sequential": lambda c: (_layers(whole=c(Halved)), {}),
    "a subclass of Conv2d": lambda c: (_layers(first=c(Lifted)(3, 3)), {}),
    "a helper of a subclass of BatchNorm": lambda c: (_layers(norm=c(Statistics)()), {}),
    "a loss": lambda c: (_layers(), {"loss": c(Squared)()}),
    "a subclass of a loss": lambda c: (_layers(), {"loss": c(Steeper)()}),
    "an optimiser": lambda c: (_layers(), {"optimizer": c(Signs)(0.01)}),
    "a subclass of SGD": lambda c: (_layers(), {"optimizer": c(Gentle)(0.05)}),
    TOGETHER: lambda c: (_layers(first=c(Lifted)(3, 3)), {"loss": c(Squared)(), "optimizer": c(Signs)(0.01)}),
}
# Nothing here computes in a step: it may be recorded.
BESIDE = {
    "rates of an optimiser": lambda: (_layers(), {"optimizer": Rising(0.01)}),
    "an optimiser that counts": lambda: (_layers(), {"optimizer": Counting(0.01)}),
    "a schedule": lambda: (_layers(), {"schedule": Waves()}),
    "a schedule that changes the optimiser": lambda: (_layers(), {"schedule": Momentum()}),
    "a callback that changes settings": lambda: (_layers(), {"callbacks": [Changes()]}),
}


def train(kind: str, backend, claims: bool = False, epochs: int = 3) -> tuple[str, Trainer]:
    """(hash, trainer) of so many epochs: 21 images in batches of 8, so the last has 5."""
    make = KINDS.get(kind)
    layer, settings = make(lambda cls: _of(cls, claims)) if make else BESIDE[kind]()
    settings = {"optimizer": SGD(0.05), **settings}
    rng = np.random.default_rng(5)
    images = rng.random((21, 1, 5, 5)).astype(np.float32)
    classed = not isinstance(settings.get("loss"), (Squared, MeanSquared))
    targets = rng.integers(0, 3, 21) if classed else rng.random((21, 3)).astype(np.float32)
    model = Model(layer, (1, 5, 5), head="classifier" if classed else "regressor")
    trainer = Trainer(model, backend=backend, seed=1, batch_size=8, progress=False, **settings)
    if isinstance(trainer.schedule, Momentum):
        trainer.schedule._optimizer = trainer.optimizer
    trainer.fit(images, targets, epochs)
    return trainer.model.weights_sha256(), trainer


def simulated() -> str:
    """The hash of TOGETHER after an epoch on numba-cuda: the simulator takes half a minute for one."""
    return train(TOGETHER, get_backend("numba-cuda"), epochs=1)[0]
