"""One training step and one evaluation step, on the images that gpucnn.training.data provides.

A step runs in Python only the first times: the backend records it, if everything in it is recordable, and repeats the
recording for every further batch of the same size (gpucnn.training.recording). What changes from batch to batch (which
images, the step's number, the learning rate) is written to device arrays before.
"""

import math
from time import perf_counter

import numpy as np

from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.losses import Loss, SoftmaxCrossEntropy
from gpucnn.models.model import Model
from gpucnn.optimizers import Optimizer
from gpucnn.recordable import Recordable
from gpucnn.training.average import Average
from gpucnn.training.clipping import Clipping
from gpucnn.training.data import Resident
from gpucnn.training.mixing import Erasing, MixUp
from gpucnn.training.recording import RecordedStep


class TrainingSteps:
    """Training steps of `model`.

    On the device: `totals` accumulates an epoch's loss and correct predictions, `status` is the first bad step or -1.
    `loss` defaults to SoftmaxCrossEntropy(); without `clip` gradients are not clipped. `lr_factors`: see Model.pieces.
    `average` takes in the weights after each step; `mixup` and `erasing` change the images.
    """

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        data: Resident,
        augmentation: Augmentation = NO_AUGMENTATION,
        seed: int = 0,
        loss: Loss | None = None,
        clip: Clipping | None = None,
        lr_factors: dict[str, float] | None = None,
        average: Average | None = None,
        mixup: MixUp | None = None,
        erasing: Erasing | None = None,
    ):
        self.model, self.optimizer, self.data = model, optimizer, data
        self.backend = model.backend
        self.loss, self._clip = loss or SoftmaxCrossEntropy(), clip or Clipping()
        self.loss.place(self.backend, model.output_shape[0])
        self.totals = self.backend.zeros((self.loss.counts,), np.float64)
        self.status = self.backend.zeros((1,), np.int64)
        self.backend.assign(self.status, np.array([-1], np.int64))
        self._augmentation, self._seed = augmentation, seed
        self._average, self._mixup, self._erasing = average, mixup, erasing
        if mixup:
            mixup.place(self.backend, max(model.input_shape[0], model.output_shape[0]), data.batch_size)
        if erasing:
            erasing.place(self.backend, data.batch_size, model.input_shape[1:])
        self._factors, self._freezes = lr_factors or {}, -1
        self._notice_freezes()
        self.recorded = RecordedStep(self.backend, self._work, self._parts, [self.totals, self.status])
        self.start_epoch()

    def _parts(self) -> list[Recordable]:
        own = [self.model, *self.model.layer.walk(), self.loss, self._clip, self.optimizer]
        return own + [part for part in (self._average, self._mixup, self._erasing) if part]

    def _work(self, count: int) -> None:
        backend, data, model = self.backend, self.data, self.model
        step = model.mode.step
        load = {"augmentation": self._augmentation, "seed": self._seed, "step": step}
        images = backend.load_images(data.images, data.indices, count, **load)
        if self._mixup:
            partners = self._mixup.partners
            images = self._mixup(images, backend.load_images(data.images, partners, count, **load))
        if self._erasing:
            images = self._erasing(images)
        targets = self.loss.load(backend, data.labels, data.indices, count)
        outputs, backward = model(images)
        loss, doutputs = self.loss(outputs, targets, self.totals)
        if self._mixup:
            _, other = self.loss(outputs, self.loss.load(backend, data.labels, partners, count))
            doutputs = self._mixup(doutputs, other)
        backward(doutputs)
        self._clip(backend, model.grads)
        self.optimizer.step(model.values, model.grads)
        if self._average:
            self._average.update(model)
        backend.watch(self.status, step, loss, model.values)

    def _notice_freezes(self) -> None:
        """Compute and change what is not frozen, as it is now."""
        if self._freezes != self.model.mode.freezes:
            self.model.prepare_training()
            self.optimizer.divide(self.model.pieces(self._factors))
            self._freezes = self.model.mode.freezes

    def start_epoch(self) -> None:
        """Reset the totals."""
        self.backend.assign(self.totals, np.zeros(self.loss.counts))
        self.images = self._timed_images = 0
        self._started, self._untimed_seconds = perf_counter(), 0.0

    def run(self, indices: np.ndarray, step: int, factor: float) -> float:
        """Step number `step` (from 0) on the images at `indices`; returns the learning rate."""
        self.model.mode.training = True
        self._notice_freezes()
        self.data.choose(indices)
        self.backend.assign(self.model.mode.step, np.array([step], np.uint32))
        if self._mixup:
            self._mixup.draw(self.backend, self._seed, step, self.data.places(indices), self.data.batch_size)
        if self._erasing:
            self._erasing.draw(self.backend, self._seed, step, len(indices), self.data.batch_size)
        rate = self.optimizer.set_rates(factor, step + 1)
        if self.recorded.settled(len(indices)):
            self.recorded(len(indices))
            self._timed_images += len(indices)
        else:  # the first may compile kernels, the second is proved: their speed means nothing
            self.backend.synchronize()
            started = perf_counter()
            self.recorded(len(indices))
            self.backend.synchronize()
            self._untimed_seconds += perf_counter() - started
        self.images += len(indices)
        return rate

    @property
    def timed(self) -> bool:
        """Whether the epoch has had a step whose speed is meaningful: one that recorded and compiled nothing."""
        return self._timed_images > 0

    def measure(self) -> dict[str, float]:
        """loss, accuracy if the loss has one, and images_per_second of the epoch so far; waits for the device."""
        totals = self.backend.host(self.totals)
        seconds = perf_counter() - self._started
        images = self._timed_images
        if images:
            seconds -= self._untimed_seconds
        else:
            images = self.images
        return {
            **self.loss.measure(totals, self.images, math.prod(self.model.output_shape)),
            "images_per_second": images / seconds,
        }

    def bad_step(self) -> int:
        """The first step whose loss or new weights were not finite, or -1."""
        return int(self.backend.host(self.status)[0])


class EvaluationSteps:
    """Mean loss and accuracy of `model` on images with their targets, in inference mode."""

    def __init__(self, model: Model, data: Resident, loss: Loss | None = None):
        self.model, self.data, self.loss = model, data, loss or SoftmaxCrossEntropy()
        self.loss.place(model.backend, model.output_shape[0])
        self._totals = model.backend.zeros((self.loss.counts,), np.float64)
        self._recorded = RecordedStep(model.backend, self._work, self._parts, [self._totals])

    def _parts(self) -> list[Recordable]:
        return [self.model, *self.model.layer.walk(), self.loss]

    def _work(self, count: int) -> None:
        backend, data = self.model.backend, self.data
        outputs, _ = self.model(backend.load_images(data.images, data.indices, count, self.model.preparation))
        self.loss(outputs, self.loss.load(backend, data.labels, data.indices, count), self._totals)

    def run(self) -> tuple[float, float | None]:
        """(loss, accuracy) over all images; the accuracy is None if the loss has none."""
        self.model.mode.training = False
        self.model.backend.assign(self._totals, np.zeros(self.loss.counts))
        for indices in self.data.batches(np.arange(self.data.count)):
            self.data.choose(indices)
            self._recorded(len(indices))
        totals = self.model.backend.host(self._totals)
        measured = self.loss.measure(totals, self.data.count, math.prod(self.model.output_shape))
        return measured["loss"], measured.get("accuracy")
