"""One training step and one evaluation step, on the images that gpucnn.training.data provides.

A step runs in Python only the first times: the backend records it, if everything in it is recordable, and repeats the
recording for every further batch of the same size (gpucnn.training.recording). What changes from batch to batch (which
images, the step's number, the learning rate) is written to device arrays before.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array
from gpucnn.backends.shares import Share, sharing
from gpucnn.backends.step_end import StepEnd
from gpucnn.losses import Loss, SoftmaxCrossEntropy
from gpucnn.metrics import Metric
from gpucnn.models.model import Model
from gpucnn.optimizers import Optimizer
from gpucnn.parallel.division import WHOLE, Division
from gpucnn.parallel.exchange import StepExchange
from gpucnn.parallel.processes import Alone, Processes
from gpucnn.recordable import Recordable, declaration, is_ours, runs_live
from gpucnn.training import live
from gpucnn.training.ahead import lookahead
from gpucnn.training.average import Average
from gpucnn.training.clipping import Clipping
from gpucnn.training.data import Resident
from gpucnn.training.measuring import Measuring
from gpucnn.training.mixing import Erasing, MixUp
from gpucnn.training.own_loss import misreport
from gpucnn.training.recording import RecordedStep


class TrainingSteps(RecordedStep):
    """Training steps of `model`.

    On the device: `totals` accumulates an epoch's loss and correct predictions, `status` is the first bad step or -1.
    `loss` defaults to SoftmaxCrossEntropy(); without `clip` gradients are not clipped. `lr_factors`: see Model.pieces.
    `average` takes in the weights after each step; `mixup` and `erasing` change the images. Images are normalized as
    the model says when a step runs, whatever `augmentation` has.
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
        metrics: Sequence[Metric] = (),
        augment: Callable | None = None,
        lr_factors: dict[str, float] | None = None,
        average: Average | None = None,
        mixup: MixUp | None = None,
        erasing: Erasing | None = None,
        processes: Processes | None = None,
        division: Division = WHOLE,
        record: bool = True,
    ):
        self._processes, self._division = processes or Alone(), division
        self.model, self.optimizer, self.data = model, optimizer, data
        self.backend = model.backend
        self.loss, self._clip = loss or SoftmaxCrossEntropy(), clip or Clipping()
        self.loss.place(self.backend, model.output_shape[0])
        self.totals = self.backend.zeros((self.loss.counts,), np.float64)
        self.status = self.backend.zeros((1,), np.int64)
        self.forget_bad_step()
        self._augmentation, self._seed = augmentation, seed
        self._average, self._mixup, self._erasing = average, mixup, erasing
        if mixup:
            mixup.place(self.backend, max(model.input_shape[0], model.output_shape[0]), data.batch_size)
        if erasing:
            erasing.place(self.backend, data.batch_size, model.input_shape[1:])
        self._measuring = Measuring(self.loss, list(metrics), self._processes)
        self._own = None if augment is None else live.OwnAugmentation(augment, seed)
        self._motion = motion(model, augmentation)
        if self._motion:
            self._motion |= {"seed": seed, "step": model.mode.step}
        self._factors, self._freezes = lr_factors or {}, -1
        self._notice_freezes()
        self._ahead = lookahead(self.backend, data, optimizer, model.mode.step)
        arrays = [self.totals, self.status, model.mode.step, data.indices]
        arrays += [self._ahead.arrays.row] if self._ahead else []
        record = record and division.pieces == 1  # a recording keeps the memory of all pieces
        super().__init__(self.backend, arrays, record)
        whole = self._processes.size == division.pieces == 1
        # A recorded step of other parts that are the user's is run once more, to prove it.
        once = not self._recording or runs_live(self.loss)
        own = whole and once and not is_ours(self.loss)
        self._judged: list[Any] | None = [] if own else None  # what a loss of the user's own makes of the first step
        self.start_epoch()

    def _parts(self) -> list[Recordable]:
        added = [part for part in (self._own, self._average, self._mixup, self._erasing) if part]
        return [*added, self.model, *self.model.layer.walk(), self.loss, self._clip, self.optimizer]

    def _is_ours(self) -> bool:
        return self._processes.size == 1 and super()._is_ours()

    def _work(self, count: int) -> None:
        """A step on a batch of `count` images, of which this process computes its part."""
        model = self.model
        self._measuring.forget(count)
        # The user's function sees whole batches, since what it does to an image may depend on all.
        changed = live.augmented(self._own, self._batch(0, count)[0]) if self._own else None
        work = partial(self._gradients, count, changed)
        loss = shared_work(self._division, self._processes, model, count, work, self._label_weights)
        self._clip(self.backend, model.grads)
        end = StepEnd(self.status, model.mode.step, loss, None if self._ahead is None else self._ahead.arrays)
        update: Callable[..., None] = self.optimizer.update
        whole = self.optimizer.is_whole(model.values.size) and self._average is None
        if whole and declaration(self.optimizer, "ends_step"):
            update(model.values, model.grads, end=end)
        else:
            live.update(self.optimizer, model)
            if self._average:
                self._average.update(model)
            self.backend.end_step(end, model.values)

    def _gradients(self, whole: int, changed: Batch | None, first: int, count: int) -> Array:
        """Forward and backward on `count` images of a batch of `whole`, from number `first` on; returns the loss.

        `changed` is the batch after the user's augmentation, if there is one.
        """
        if changed is None:
            images, (targets, *others) = self._batch(first, count)
        else:
            images, (targets, *others) = some_images(changed, first, count), self._targets(first, count)
        outputs, backward = self.model(images)
        self._measuring.keep(whole, outputs, targets)
        loss, doutputs = live.loss_of(self.loss, outputs, targets, self.totals)
        if self._judged == []:
            self._judged[:] = loss, outputs, targets
        if self._mixup:
            _, other = live.loss_of(self.loss, outputs, others[0])
            doutputs = self._mixup(doutputs, other)
        backward(doutputs)
        return loss

    def _batch(self, first: int, count: int) -> tuple[Batch, list]:
        """Images number `first` to `first + count` of the batch, augmented, mixed and erased, and `_targets`."""
        backend, data = self.backend, self.data
        now = self.model.preparation  # other weights, with their own, may have been loaded since
        augmentation = replace(self._augmentation, mean=now.mean, std=now.std)
        load = {"augmentation": augmentation, "seed": self._seed, "step": self.model.mode.step}
        if declaration(self.loss, "loads_labels") and data.labels is not None and data.labels.ndim == 1:
            both = [backend.load_batch(data.images, data.labels, i, count, **load) for i in self._indices(first)]
            (images, *others), targets = [one for one, _ in both], [one for _, one in both]
        else:
            images, *others = (backend.load_images(data.images, i, count, **load) for i in self._indices(first))
            targets = self._targets(first, count)
        if self._mixup:
            images = self._mixup(images, others[0])
        return (self._erasing(images, first) if self._erasing else images), targets

    def _targets(self, first: int, count: int) -> list:
        """The targets of these images, and with mix-up those of their partners."""
        load = partial(self.loss.load, self.backend, self.data.labels)
        return [load(indices, count, **self._motion) for indices in self._indices(first)]

    def _indices(self, first: int) -> list[Array]:
        """Where the images from number `first` on are, and with mix-up their partners."""
        return [self.data.chosen(first), *([self._mixup.partners[first:]] if self._mixup else [])]

    def _label_weights(self, first: int, count: int) -> list[Array]:
        """The sums that the losses of a step divide by, where they depend on the labels."""
        weights = [self.loss.label_weight(self.backend, targets, count) for targets in self._targets(first, count)]
        return [weight for weight in weights if weight is not None]

    @property
    def looks_ahead(self) -> bool:
        """Whether the device can be told what the next steps are."""
        return self._ahead is not None

    def look_ahead(self, batches: Sequence[np.ndarray], first_step: int, factors: Sequence[float]) -> None:
        """Tell which steps `run` will do next: their images, the first one's number, and a factor each. What is run
        after all decides; where it agrees, nothing more is copied to the device.
        """
        if self._ahead:
            self._ahead.plan(batches, first_step, factors)

    def _notice_freezes(self) -> None:
        """Compute and change what is not frozen, as it is now."""
        if self._freezes != self.model.mode.freezes:
            self.model.prepare_training()
            self.optimizer.divide(self.model.pieces(self._factors))
            self._freezes = self.model.mode.freezes

    def start_epoch(self) -> None:
        """Reset the totals."""
        self.backend.assign(self.totals, np.zeros(self.loss.counts))
        self._measuring.reset()
        self.images = self._timed_images = 0
        self._started, self._untimed_seconds = perf_counter(), 0.0

    def run(self, indices: np.ndarray, step: int, factor: float) -> float:
        """Step number `step` (from 0) on the images at `indices`; returns the learning rate."""
        self.model.mode.training, self.model.mode.seed = True, self._seed
        self._notice_freezes()
        rates = self.optimizer.rates_at(factor, step + 1) if self._ahead else np.zeros(1, np.float32)
        whole = self.optimizer.is_whole(self.model.values.size)
        if self._ahead and whole and self._ahead.holds(indices, step, rates):
            rate = float(rates[0])
        else:
            self.data.choose(indices)
            self.backend.assign(self.model.mode.step, np.array([step], np.uint32))
            rate = self.optimizer.set_rates(factor, step + 1)
        if self._own:
            vars(self._own)["number"] = step  # not by setattr, which would make every recording look for changes
        if self._mixup:
            self._mixup.draw(self.backend, self._seed, step, self.data.places(indices), self.data.batch_size)
        if self._erasing:
            self._erasing.draw(self.backend, self._seed, step, len(indices), self.data.batch_size)
        if self.settled(len(indices)):
            self._measuring.run(self, len(indices), self._division)
            self._timed_images += len(indices)
        else:  # the first may compile kernels, the second is proved: their speed means nothing
            self.backend.synchronize()
            started = perf_counter()
            self._measuring.run(self, len(indices), self._division)
            self.backend.synchronize()
            self._untimed_seconds += perf_counter() - started
        self.images += len(indices)
        return rate

    @property
    def timed(self) -> bool:
        """Whether the epoch has had a step whose speed is meaningful: one that recorded and compiled nothing."""
        return self._timed_images > 0

    def measure(self, *, running: bool = False) -> dict[str, Any]:
        """loss, accuracy if the loss has one, metrics (with `running` the cheap ones only), and images_per_second of
        the epoch so far; waits for the device.
        """
        totals = self.backend.host(self.totals)
        seconds = perf_counter() - self._started
        images = self._timed_images
        if images:
            seconds -= self._untimed_seconds
        else:
            images = self.images
        return {
            **self.loss.measure(totals, self.images, math.prod(self.model.output_shape)),
            **self._measuring.results(running=running),
            "images_per_second": images / max(seconds, 1e-9),  # a test may have stopped the clock
        }

    def misreport(self) -> str | None:
        """After the first step: how what a loss of the user's own reports differs from what it returned."""
        judged, self._judged = self._judged, None
        return misreport(self.loss, self.backend.host(self.totals), *judged) if judged else None

    def bad_step(self) -> int:
        """The first step whose loss or new weights were not finite, or -1."""
        return int(self.backend.host(self.status)[0])

    def forget_bad_step(self) -> None:
        """From now on no step is known to be bad."""
        self.backend.assign(self.status, np.array([-1], np.int64))


def shared_work(
    division: Division,
    processes: Processes,
    model: Model,
    count: int,
    work: Callable[[int, int], Array],
    label_weights: Callable[[int, int], list[Array]],
) -> Array:
    """`work(first, count)` on each piece of this process's part of a batch of `count` images, and the sums over all.

    `label_weights(first, count)` gives what the losses in `work` divide by over the whole batch: pieces need it ahead.
    Returns what the last piece's `work` did, the loss.
    """
    if processes.size == division.pieces == 1:
        return work(0, count)
    exchange = StepExchange(processes, division.nodes(count), model.grads)
    if division.pieces > 1:
        first, own = division.part(count)
        with sharing(Share(first, count, exchange)):
            exchange.divide(label_weights(first, own))
    for number, (first, own) in enumerate(division.in_pieces(count)):
        if number:
            exchange.next_piece(model.backend)
        with sharing(Share(first, count, exchange)):
            loss = work(first, own)
    exchange.finish(model.backend)
    return loss


def some_images(batch: Batch, first: int, count: int) -> Batch:
    """Images number `first` to `first + count` of a batch."""
    if (first, count) == (0, batch.images):
        return batch
    return batch.backend.pack(batch.numpy()[first : first + count])


class EvaluationSteps(RecordedStep):
    """Mean loss and accuracy of `model` on images with their targets, in inference mode."""

    def __init__(
        self,
        model: Model,
        data: Resident,
        loss: Loss | None = None,
        metrics: Sequence[Metric] = (),
        processes: Processes | None = None,
        division: Division = WHOLE,
        record: bool = True,
    ):
        self._processes, self._division = processes or Alone(), division
        self.model, self.data, self.loss = model, data, loss or SoftmaxCrossEntropy()
        self.loss.place(model.backend, model.output_shape[0])
        self._measuring = Measuring(self.loss, list(metrics), self._processes)
        self._totals = model.backend.zeros((self.loss.counts,), np.float64)
        super().__init__(model.backend, [self._totals], record)

    def _parts(self) -> list[Recordable]:
        return [self.model, *self.model.layer.walk(), self.loss]

    def _work(self, count: int) -> None:
        self._measuring.forget(count)
        shared_work(self._division, self._processes, self.model, count, partial(self._evaluate, count), lambda *_: [])

    def _evaluate(self, whole: int, first: int, count: int) -> Array:
        backend, data = self.model.backend, self.data
        indices, preparation = data.chosen(first), self.model.preparation
        outputs, _ = self.model(backend.load_images(data.images, indices, count, preparation))
        targets = self.loss.load(backend, data.labels, indices, count, **motion(self.model, preparation))
        self._measuring.keep(whole, outputs, targets)
        loss, _ = live.loss_of(self.loss, outputs, targets, self._totals)
        return loss

    def run(self) -> dict[str, Any]:
        """Over all images: loss, accuracy if the loss has one, metrics."""
        self.model.mode.training = False
        self._measuring.reset()
        self.model.backend.assign(self._totals, np.zeros(self.loss.counts))
        for indices in self.data.batches(np.arange(self.data.count)):
            self.data.choose(indices)
            self._measuring.run(self, len(indices), self._division)
        totals = self.model.backend.host(self._totals)
        measured = self.loss.measure(totals, self.data.count, math.prod(self.model.output_shape))
        return {**measured, **self._measuring.results()}


def motion(model: Model, augmentation: Augmentation) -> dict[str, Any]:
    """What moves target maps as the images move, as arguments of `Loss.load`; nothing for other targets."""
    if len(model.output_shape) == 1:
        return {}
    moving = replace(augmentation, cutout=0, mean=None, std=None)
    return {} if moving == NO_AUGMENTATION else {"augmentation": moving}
