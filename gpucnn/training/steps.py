"""One training step and one evaluation step, on the images that gpucnn.training.data provides.

A step runs in Python only the first times: the backend records it, if everything in it is recordable, and repeats the
recording for every further batch of the same size (gpucnn.training.recording). What changes from batch to batch (which
images, the step's number, the learning rate) is written to device arrays before.
"""

import math
from collections.abc import Callable
from time import perf_counter

import numpy as np

from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.backends.protocol import Array
from gpucnn.backends.shares import Share, sharing
from gpucnn.losses import Loss, SoftmaxCrossEntropy
from gpucnn.models.model import Model
from gpucnn.optimizers import Optimizer
from gpucnn.parallel.division import Division
from gpucnn.parallel.exchange import StepExchange
from gpucnn.parallel.processes import Alone, Processes
from gpucnn.recordable import Recordable
from gpucnn.training.clipping import Clipping
from gpucnn.training.data import Resident
from gpucnn.training.recording import RecordedStep


class TrainingSteps:
    """Training steps of `model`.

    On the device: `totals` accumulates an epoch's loss and correct predictions, `status` is the first bad step or -1.
    `loss` defaults to SoftmaxCrossEntropy(); without `clip` gradients are not clipped.
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
        processes: Processes | None = None,
        record: bool = True,
    ):
        self._processes = processes or Alone()
        self.model, self.optimizer, self.data = model, optimizer, data
        self.backend = model.backend
        self.loss, self._clip = loss or SoftmaxCrossEntropy(), clip or Clipping()
        self.loss.place(self.backend, model.output_shape[0])
        self.totals = self.backend.zeros((self.loss.counts,), np.float64)
        self.status = self.backend.zeros((1,), np.int64)
        self.backend.assign(self.status, np.array([-1], np.int64))
        self._augmentation, self._seed = augmentation, seed
        record = record and data.division.pieces == 1  # a recording keeps the memory of all pieces
        self.recorded = RecordedStep(self.backend, self._work, self._parts, [self.totals, self.status], record)
        self.start_epoch()

    def _parts(self) -> list[Recordable]:
        return [self.model, *self.model.layer.walk(), self.loss, self._clip, self.optimizer]

    def _work(self, count: int) -> None:
        """A step on a batch of `count` images, of which this process computes its part."""
        model = self.model
        loss = shared_work(self.data.division, self._processes, model, count, self._gradients)
        self._clip(self.backend, model.grads)
        self.optimizer.update(model.values, model.grads)
        self.backend.watch(self.status, model.mode.step, loss, model.values)

    def _gradients(self, first: int, count: int) -> Array:
        """Forward and backward on `count` of the images that are here, from `first` on; returns the loss."""
        backend, data, model = self.backend, self.data, self.model
        indices, step = data.indices[first:], model.mode.step
        images = backend.load_images(data.images, indices, count, self._augmentation, seed=self._seed, step=step)
        targets = self.loss.load(backend, data.labels, indices, count)
        outputs, backward = model(images)
        loss, doutputs = self.loss(outputs, targets, self.totals)
        backward(doutputs)
        return loss

    def start_epoch(self) -> None:
        """Reset the totals."""
        self.backend.assign(self.totals, np.zeros(self.loss.counts))
        self.images = self._timed_images = 0
        self._started, self._untimed_seconds = perf_counter(), 0.0

    def run(self, indices: np.ndarray, step: int, factor: float) -> float:
        """Step number `step` (from 0) on the images at `indices`; returns the learning rate."""
        self.model.mode.training = True
        self.data.choose(indices)
        self.backend.assign(self.model.mode.step, np.array([step], np.uint32))
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


def shared_work(
    division: Division, processes: Processes, model: Model, count: int, work: Callable[[int, int], Array]
) -> Array:
    """`work(first, count)` on each piece of this process's part of a batch of `count` images, and the sums over all.

    `first` counts from the part's first image. Returns what the last piece's `work` did, the loss.
    """
    if processes.size == division.pieces == 1:
        return work(0, count)
    pieces = list(division.in_pieces(count))
    exchange = StepExchange(processes, division.nodes(count), division.pieces, count, model.grads)
    for number, (first, own) in enumerate(pieces):
        if number:
            exchange.next_piece(model.backend)
        with sharing(Share(first, count, exchange)):
            loss = work(first - pieces[0][0], own)
    exchange.finish(model.backend)
    return loss


class EvaluationSteps:
    """Mean loss and accuracy of `model` on images with their targets, in inference mode."""

    def __init__(
        self,
        model: Model,
        data: Resident,
        loss: Loss | None = None,
        processes: Processes | None = None,
        record: bool = True,
    ):
        self._processes = processes or Alone()
        self.model, self.data, self.loss = model, data, loss or SoftmaxCrossEntropy()
        self.loss.place(model.backend, model.output_shape[0])
        self._totals = model.backend.zeros((self.loss.counts,), np.float64)
        self._recorded = RecordedStep(model.backend, self._work, self._parts, [self._totals], record)

    def _parts(self) -> list[Recordable]:
        return [self.model, *self.model.layer.walk(), self.loss]

    def _work(self, count: int) -> None:
        shared_work(self.data.division, self._processes, self.model, count, self._evaluate)

    def _evaluate(self, first: int, count: int) -> Array:
        backend, data = self.model.backend, self.data
        indices = data.indices[first:]
        outputs, _ = self.model(backend.load_images(data.images, indices, count, self.model.preparation))
        loss, _ = self.loss(outputs, self.loss.load(backend, data.labels, indices, count), self._totals)
        return loss

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
