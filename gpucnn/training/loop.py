"""The epochs of one `Trainer.fit`: what is done in each, and in which order."""

import hashlib
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from time import perf_counter
from typing import Any

import numpy as np

from gpucnn import arithmetic
from gpucnn.backends import compilation
from gpucnn.data.mapped import Mapped
from gpucnn.errors import ConfigurationError
from gpucnn.models.files import describe
from gpucnn.schedules import factor_of
from gpucnn.training import remarks, unkept
from gpucnn.training.ahead import is_known
from gpucnn.training.average import judged, judged_state
from gpucnn.training.callbacks import Callback
from gpucnn.training.checks import check_balance, check_subnormals, not_finite
from gpucnn.training.run import RunFolder, first_not_finite, host_state
from gpucnn.training.settings import changes, config_of
from gpucnn.training.steps import EvaluationSteps, TrainingSteps
from gpucnn.training.together import how_diverged, how_fed
from gpucnn.training.validation import why_stop

_CURVES_EVERY = 30.0  # seconds; drawing takes a third of one

# Of the class in trainer.py, which imports this module.
Trainer = Any


@dataclass
class Standing:
    """How far a trainer has come, in all its fits and steps."""

    steps: int = 0  # done
    within_epoch: bool = False  # the last of them is in an epoch that is not over
    best: tuple[int, dict[str, np.ndarray]] | None = None  # epoch and weights
    state: dict | None = None  # the optimizer's, once this trainer has placed it
    validated_by: dict[str, str] = field(default_factory=dict)  # the images and the monitor that chose the best
    balanced: Any = None  # the loss's class weights, counted from this trainer's labels
    usual: float | None = None  # the largest value of an image of the last fit, see remarks.py
    remarked: bool = False  # on the speed of steps
    stopping: bool = False  # a callback has asked for it


@dataclass
class Fit:
    """What one fit was asked for, checked: `epochs` counts those of earlier fits too, of which there are `first`."""

    settings: dict
    epochs: int
    first: int
    monitor: str
    patience: int | None
    kept: tuple[Any, Any] | None  # images and labels for validation


class Loop:
    """Trains up to epoch `fit.epochs`, keeps each in the run folder, if there is one, and reports it."""

    def __init__(
        self,
        trainer: Trainer,
        standing: Standing,
        fit: Fit,
        steps: TrainingSteps,
        evaluation: EvaluationSteps | None,
        folder: RunFolder | None,
    ):
        self.trainer, self.standing, self.fit = trainer, standing, fit
        self.steps, self.evaluation, self.folder = steps, evaluation, folder
        self.data = steps.data

    def run(self, images: np.ndarray | Mapped) -> None:
        """All epochs; `images` are some of those to train on."""
        trainer, standing, fit, folder = self.trainer, self.standing, self.fit, self.folder
        history, say = trainer.history, trainer.progress.say
        if folder:
            if not history.epochs:
                folder.forget_best()
            folder.write_config(config_of(trainer, fit.epochs, {**fit.settings, "patience": fit.patience}))
        self._announce(images)
        drawn, memory = perf_counter(), unkept.memory(trainer, fit.settings) if folder else None
        untrained = remarks.weights_to_change(trainer)
        for callback in trainer.callbacks:
            callback.on_train_begin(trainer)
        for epoch in range(len(history), fit.epochs):
            if reason := why_stop(history, fit.monitor, fit.patience, fit.first):
                say(reason)
                break
            for callback in trainer.callbacks:
                callback.on_epoch_begin(trainer, epoch + 1)
            with compilation.counting(trainer.progress.compiling):
                record = self._epoch(epoch)
            if remark := remarks.unchanged(trainer, untrained, record["learning_rate"]):
                say(remark)
            untrained = None
            self._end(epoch, record)
            if memory is not None and (remark := unkept.remark(memory, unkept.memory(trainer, fit.settings))):
                memory = None
                say(remark)
            if folder and perf_counter() - drawn > _CURVES_EVERY:
                folder.write_curves(history)
                drawn = perf_counter()
            trainer.progress.end_epoch(history.last)
            if standing.stopping:
                say(f"a callback stopped training after epoch {epoch + 1}")
                break
        if folder:
            folder.write_curves(history)
        for callback in trainer.callbacks:
            callback.on_train_end(trainer, history)

    def _announce(self, images: np.ndarray | Mapped) -> None:
        """What is said before the first epoch."""
        trainer, standing, kept = self.trainer, self.standing, self.fit.kept
        title = remarks.title(trainer, self.steps) + (f"; {len(kept[0]):,} images for validation" if kept else "")
        trainer.progress.begin(title, self.fit.epochs, self.data.count, len(trainer.history))
        sizes = remarks.sizes(images)
        standing.usual = remarks.usual(sizes)
        for remark in (
            remarks.channels_last(trainer),
            remarks.large_values(trainer, sizes),
            remarks.unfit_end(trainer),
            remarks.other_values(kept[0], standing.usual) if kept else None,
            remarks.unvalidated(trainer, kept[1]) if kept else None,
            remarks.rates_unread(trainer),
            trainer.schedule.remark(self.fit.epochs * self.data.an_epoch),
        ):
            if remark:
                trainer.progress.say(remark)
        if standing.within_epoch:
            trainer.progress.say("the epoch that was interrupted begins again, with the weights as they are")

    def _epoch(self, epoch: int) -> dict:
        """Train epoch `epoch` (from 0); returns its record."""
        trainer, standing, steps, schedule = self.trainer, self.standing, self.steps, self.trainer.schedule
        standing.within_epoch = True
        started = shown = perf_counter()
        batches = self.data.batches(arithmetic.permutation(trainer.seed, self.data.count, epoch))
        steps.start_epoch()
        first, past = 0, 0
        if schedule.uses_steps:  # others go on where they were
            first = self.fit.first
            past = standing.steps - (epoch - first) * len(batches)
        total = (self.fit.epochs - first) * len(batches)
        if steps.looks_ahead and is_known(schedule):
            places = range(standing.steps - past, standing.steps - past + len(batches))
            factors = [factor_of(schedule, place, total, epoch - first) for place in places]
            steps.look_ahead(batches, standing.steps, factors)
        begin, end = (
            [one for one in trainer.callbacks if getattr(type(one), name) is not getattr(Callback, name)]
            for name in ("on_train_batch_begin", "on_train_batch_end")
        )
        for indices in batches:
            for callback in begin:
                callback.on_train_batch_begin(trainer, standing.steps + 1)
            number = standing.steps
            rate = steps.run(indices, number, factor_of(schedule, number - past, total, epoch - first))
            standing.steps += 1
            for callback in end:
                callback.on_train_batch_end(trainer, standing.steps)
            if steps.images == len(indices) and not standing.remarked:
                standing.remarked = True
                slowness = remarks.slowness(trainer.backend, (perf_counter() - started) * len(batches))
                for remark in filter(None, (slowness, steps.misreport())):
                    trainer.progress.say(remark)
            if steps.timed and perf_counter() - shown > trainer.progress.interval:
                if trainer.processes.size == 1:  # several find it together, at the end of the epoch
                    self._stop_if_not_finite(epoch)
                trainer.progress.update(epoch + 1, steps.images, steps.measure(running=True))
                shown = perf_counter()
        measured = steps.measure()
        self._stop_if_not_finite(epoch)
        check_subnormals(trainer.backend)
        check_balance(trainer.loss, standing.balanced)  # which a trainer in another thread may have changed
        record = {"epoch": epoch + 1, "step": standing.steps, **measured, "learning_rate": rate}
        record |= self._validate(epoch)
        record["seconds"] = perf_counter() - started
        return record

    def _stop_if_not_finite(self, epoch: int) -> None:
        bad = self.steps.bad_step()
        if bad >= 0:
            raise not_finite("the loss or a weight", epoch + 1, bad + 1)

    def _validate(self, epoch: int) -> dict:
        """What validation measured, by the names in the epoch's record."""
        if self.evaluation is None:
            return {}
        with judged(self.trainer.model, self.trainer.average):
            measured = self.evaluation.run()
        if not isfinite(measured["loss"]):
            raise not_finite("the validation loss", epoch + 1, self.standing.steps)
        return {f"validation_{name}": value for name, value in measured.items()}

    def _end(self, epoch: int, record: dict) -> None:
        """Callbacks, the history, the best epoch so far, what processes must agree on, and the run folder."""
        trainer, standing, history = self.trainer, self.standing, self.trainer.history
        measured = dict(record)
        for callback in trainer.callbacks:
            callback.on_epoch_end(trainer, record)
        unfit, standing.within_epoch = history.add(measured, record), False
        better = history.best_epoch(self.fit.monitor) == epoch + 1
        if better:
            standing.best = epoch + 1, judged_state(trainer.model, trainer.average)
        self._agree()
        trainer.processes.agreed(partial(self._keep, better, unfit))

    def _agree(self) -> None:
        """Raises ProcessError unless all processes have the same weights and optimizer state, to the bit, and have been
        given the same batches.
        """
        trainer, standing, processes = self.trainer, self.standing, self.trainer.processes
        if processes.size == 1:
            return
        processes.same(self.data.fingerprint(), how_fed)
        state = hashlib.sha256()
        for value in host_state(trainer.model, trainer.optimizer, trainer.average).values():
            state.update(np.ascontiguousarray(value).data)
        standing.stopping = any(processes.everyone(standing.stopping))
        processes.same(state.hexdigest(), how_diverged)

    def _keep(self, better: bool, unfit: ConfigurationError | None) -> None:
        """Metrics first: resuming ignores a line too many, but could not invent a missing one. Then raises `unfit`."""
        trainer, history, folder, settings = self.trainer, self.trainer.history, self.folder, self.fit.settings
        model, optimizer, host = trainer.model, trainer.optimizer, trainer.backend.host
        last, unwatched = history.last, (model.statistics, *optimizer.state.values())
        if folder or not all(np.isfinite(host(array)).all() for array in unwatched):
            state = host_state(model, optimizer, trainer.average)
            if bad := first_not_finite(state):
                raise not_finite(bad, last["epoch"], last["step"])
        if folder:
            folder.refuse_taken()
            folder.write_metrics(history)
            if better and self.standing.best:
                folder.write_best(model, last, self.standing.best[1])
            about = {**describe(model), "settings": settings, "backend": trainer.backend.name}
            changed = changes(trainer, settings)
            folder.write_checkpoint(state, {**about, **({"changed": changed} if changed else {})}, history)
        if unfit:
            raise unfit
