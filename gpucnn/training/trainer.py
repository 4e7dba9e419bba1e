"""A trainer: a model, and all the settings of its training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from gpucnn import arguments
from gpucnn.arguments import instance, integer, number, truth
from gpucnn.backends import get_backend
from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.protocol import Backend
from gpucnn.data.dataset import shown_before
from gpucnn.data.mapped import Mapped
from gpucnn.errors import ConfigurationError
from gpucnn.losses import Loss, MeanSquared, SoftmaxCrossEntropy
from gpucnn.metrics import make as make_metrics
from gpucnn.models.heads import REGRESSOR
from gpucnn.models.inputs import check_images
from gpucnn.models.model import Model
from gpucnn.optimizers import Adam, Optimizer
from gpucnn.parallel import Alone, Division, Processes, join
from gpucnn.parallel.processes import how_different
from gpucnn.schedules import Constant, Schedule, factor_of
from gpucnn.training import mixing, remarks
from gpucnn.training.average import Average
from gpucnn.training.callbacks import Callback
from gpucnn.training.checks import (
    balanced,
    check_balance,
    check_callbacks,
    check_head,
    check_last_batch,
    check_room,
    check_some_count,
    check_subnormals,
    larger_images,
    not_finite,
)
from gpucnn.training.clipping import Clipping
from gpucnn.training.data import Fed, Resident, digest, placed
from gpucnn.training.history import History
from gpucnn.training.loop import Fit, Loop, Standing
from gpucnn.training.normalization import channel_statistics
from gpucnn.training.own_loop import OwnLoop
from gpucnn.training.progress import Quiet, progress_of
from gpucnn.training.run import RunFolder, run_folder
from gpucnn.training.settings import config_of, identity_of, settings_of
from gpucnn.training.steps import EvaluationSteps, TrainingSteps
from gpucnn.training.together import check_sharing, how_fed
from gpucnn.training.validation import check_stopping, part

EVALUATION_BATCH = 256


class Trainer:
    """Trains `model` on one backend: shuffled epochs, a loss, checkpoints.

    `backend` is a name or a Backend (None: the fastest usable one), `math` "exact" or "fast" (None: the backend's own),
    `optimizer` one of gpucnn.optimizers (None: Adam()), `schedule` one of gpucnn.schedules (None: Constant()). `seed`
    decides the shuffles, augmentation, validation images, dropout and, if the model has no weights yet, the first ones.
    `run` is a folder for configuration, metrics, curves and checkpoints (None:
    nothing is written); `about` is added to its config.json. `progress` is None for a bar or lines on stderr, False for
    silence, or an object like those in gpucnn.training.progress. `loss` is one of gpucnn.losses (None:
    SoftmaxCrossEntropy(), for a regressor MeanSquared()); `clip_norm` and `clip_value` limit the gradient, see
    gpucnn.training.clipping. `metrics` are measured in training and validation beside the loss: names such as "top3"
    and "f1", objects, functions (gpucnn.metrics). `callbacks` are objects of classes like gpucnn.training.Callback,
    called at the moments that it names.

    In training each image moves by up to `shift` pixels along each axis, is mirrored left to right every other time
    with `flip`, and loses a square of `cutout` pixels a side around a random pixel. With `crop` images may be larger
    than the model's input: a random part of that size in training (up to `shift` pixels over the border), the middle
    otherwise. `normalize` subtracts each channel's mean over the training images and divides by its standard deviation,
    in evaluation and prediction too; the model keeps both. What is empty after that is 0.

    `augment(images, rng)` is your own change of each training batch, after those: it gets a Batch on the device and a
    numpy.random.Generator that depends on the seed and the step alone, and returns a Batch. Labels stay. Draw numbers
    of each image's own in the shape images.shape and bring them in with images.backend.pack: images.data is laid out
    otherwise on each backend. Shift, crop and flip move label maps with the images.
    `mixup` mixes each image, and its loss, with another one of the batch (the alpha of its beta distribution, such as
    0.2), and `erase` blanks a random rectangle in that part of the images: see gpucnn.training.mixing. `ema`, such as
    0.99, keeps an exponential moving average of the weights: validation and the best epoch are those of the average,
    run folders keep it, and `restore_average` gives it to the model. `lr_factors` maps names or patterns of layers to
    factors of the learning rate, {"0.*": 0.1}; the first that matches counts. Frozen layers (`Model.freeze`) stay as
    they are.

    Several processes that mpirun started train together, each on its part of every batch: `processes` is their number,
    None for as many as there are, 1 for this one alone. The first of them writes the run folder and reports progress.
    `pieces` divides a batch in so many parts, one after the other, for batches whose activations do not fit in memory.

    All of this stays, but `batch_size`, `callbacks`, `clip`, `progress`, `run` and `schedule`, which may be assigned
    between fits, and for the settings of optimizer, schedule and loss (gpucnn.training.Callback).

    In exact math the trained weights depend on model, data and settings alone, not on the backend, its threads, the
    number of processes or pieces.
    """

    def __init__(
        self,
        model: Model,
        *,
        backend: str | Backend | None = None,
        math: str | None = None,
        optimizer: Optimizer | None = None,
        schedule: Schedule | None = None,
        seed: int = 0,
        batch_size: int = 64,
        shift: int = 0,
        crop: bool = False,
        flip: bool = False,
        cutout: int = 0,
        normalize: bool = False,
        run=None,
        threads: int | None = None,
        progress: Quiet | bool | None = None,
        about: dict | None = None,
        loss: Loss | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        callbacks: Sequence[Callback] = (),
        metrics: Sequence | dict = (),
        augment: Callable | None = None,
        mixup: float = 0.0,
        erase: float = 0.0,
        ema: float | None = None,
        lr_factors: dict[str, float] | None = None,
        processes: int | Processes | None = None,
        pieces: int = 1,
    ):
        self.model: Model = instance("model", model, Model, "a gpucnn.Model, such as gpucnn.models.lenet5()")
        instance("optimizer", optimizer, Optimizer, "one of gpucnn.optimizers, such as SGD(lr=0.1)", optional=True)
        instance("loss", loss, Loss, "one of gpucnn.losses, such as Huber()", optional=True)
        room = min(model.input_shape[1:], default=1)
        self.seed, self.run = arguments.seed(seed), run
        self.shift, self.cutout = integer("shift", shift, 0, room - 1), integer("cutout", cutout, 0, room)
        self.crop, self.flip, self.normalize = truth("crop", crop), truth("flip", flip), truth("normalize", normalize)
        check_room(model, self.shift, self.crop, self.flip)
        self.batch_size, self.optimizer = batch_size, optimizer or Adam()
        self.schedule = Constant() if schedule is None else schedule
        self.loss = loss or (MeanSquared() if model.head == REGRESSOR else SoftmaxCrossEntropy())
        check_head(model.head, self.loss)
        self.clip = Clipping(clip_norm, clip_value)
        taken, outputs = self.loss.measure(np.ones(self.loss.counts), 1, 1), model.output_shape[0]
        self.metrics = make_metrics(metrics, self.loss.targets, outputs, taken)
        self.mixup, self.erase = number("mixup", mixup, least=0, most=1), number("erase", erase, least=0, most=1)
        self.ema = None if ema is None else number("ema", ema, above=0, below=1)
        expected = "a dictionary of patterns and factors, such as {'0.*': 0.1}"
        factors = instance("lr_factors", lr_factors, dict, expected, optional=True) or {}
        model.pieces(factors)  # refuses patterns that match nothing
        self.lr_factors = {name: number(f"lr_factors[{name!r}]", f, above=0) for name, f in factors.items()}
        self.callbacks = callbacks
        if augment is not None and not callable(augment):
            raise arguments.refuse("augment", augment, "a function (images, rng) that returns a Batch")
        self.augment = augment
        if processes is not None and not isinstance(processes, Processes):
            processes = integer("processes", processes)
        self.processes = processes if isinstance(processes, Processes) else join(processes)
        self.pieces, self.record = integer("pieces", pieces), True
        self.progress = progress_of(progress) if self.processes.first else Quiet()
        self.about = dict(instance("about", about, dict, "a dictionary", optional=True) or {})
        self.backend = backend if isinstance(backend, Backend) else get_backend(backend, math, threads=threads)
        model.initialize_new(seed)
        model.place(self.backend)
        self.history = self._new_history()  # of all fits
        self.average = None if self.ema is None else Average(self.ema)
        self._standing = Standing()
        self._loop: OwnLoop | None = None
        self.loss.place(self.backend, model.output_shape[0])  # refuses weights for other classes
        self._fitting, self._turn = False, [True]
        self._made = sorted(name for name in vars(self) if name[0] != "_")

    def __setattr__(self, name: str, value: Any) -> None:
        if "_made" in vars(self) and name[0] != "_":
            arguments.refuse_attribute(self, name, f"it has {', '.join(self._made)}")
            if name in self._made and (self._fitting or name not in (*_ASSIGNABLE, *_OWN)):
                raise ConfigurationError(
                    f"a Trainer's {name} cannot be changed"
                    + (
                        " while it trains; change the settings of its optimizer, schedule or loss"
                        if self._fitting
                        else f"; make another Trainer, or assign {', '.join(_ASSIGNABLE)}"
                    )
                )
            self._loop = None  # its steps have the settings from before
        object.__setattr__(self, name, _ASSIGNABLE[name](value) if name in _ASSIGNABLE else value)

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy, which trains nothing yet; it records its steps anew."""
        return {**vars(self), "_loop": None, "_fitting": False, "_turn": [True]}

    # ---- training ----------------------------------------------------------------------------------------------------

    def fit(
        self,
        images,
        labels,
        epochs: int,
        *,
        validation: tuple | float | None = None,
        monitor: str = "loss",
        patience: int | None = None,
        resume: bool = False,
    ) -> History:
        """Train for `epochs` epochs, starting from the model's weights.

        Called again, it continues: `epochs` more, with the next epoch numbers and shuffles, the optimizer's state and
        the history of all fits, so that two calls give the bits of one of as many epochs. A schedule that depends on
        the run's length, such as Cosine(), starts anew in each call. A new Trainer starts with a fresh optimizer.

        images (N, *input_shape), whose values are taken as they are: divide bytes by 255 first, or let the Trainer
        `normalize`. labels are integers (N,), or (N, *spatial) where the model's outputs are maps (classes, *spatial);
        for a loss of values those, (N, *output_shape) in the backend's type. `validation` is another (images, labels)
        pair, or the part of the images to keep out of training for it, such as 0.1: the same part of each class, chosen
        by the seed. It is evaluated after each epoch and changes no weight. `monitor`, its "loss", "accuracy" or the
        name of a metric, tells which epoch is the best: `restore_best` goes back to it, and the run folder keeps it as
        best.safetensors. With `patience` training stops after so many epochs in a row that brought nothing better. The
        model ends with the last epoch's weights.

        With `resume` training continues from the run folder's checkpoint and ends in the same bits as a run that was
        never interrupted, on whichever backend; without a checkpoint yet it starts from the beginning, and `epochs`
        counts those done before. The run folder is in order at any moment: a process may be killed, or interrupted with
        Ctrl-C.

        Raises ShapeError, DTypeError or DataError for unfit data before any work, CheckpointError for a checkpoint of
        another model or other settings, NonFiniteError once the loss or a weight is no longer finite (the last good
        checkpoint stays).
        """
        with self._alone(), ExitStack() as stack:
            with self._as_it_was_if_refused():
                fit, images, labels = self.processes.agreed(
                    lambda: self._prepare(images, labels, epochs, validation, monitor, patience, resume)
                )
                begun = self._begun(fit, resume, images)
                folder = self.processes.agreed(lambda: stack.enter_context(begun))
                self._meet({**fit.settings, "resume": resume}, fit.epochs, patience)
                if resume:
                    self._resume(folder, fit)
                # What mixes images, or is the user's own, needs all of a batch in each process.
                division = Division() if self.mixup or self.augment else self._division()
                data = placed(self.backend, images, labels, min(self.batch_size, len(images)), division)
            chosen = fit.kept if isinstance(validation, (tuple, list)) and not fit.first else None  # by the user
            if chosen and (remark := shown_before(images, chosen[0], "validation")):
                self.progress.say(remark)
            return self._train(folder, fit, data, images)

    def _prepare(self, images, labels, epochs, validation, monitor, patience, resume) -> tuple:
        """Check everything; the fit, and the images and labels to train on."""
        model = self.model
        epochs, resume = integer("epochs", epochs), truth("resume", resume)
        if self.crop:
            model.image_shape = larger_images(images, model.input_shape)
        images, labels = self._checked(images, labels)
        self._check_ready(resume)
        model.check_trainable()
        check_stopping(validation, monitor, patience, self.loss, self.metrics)
        if resume and self.run is None:
            raise ConfigurationError("resume needs the run folder to continue: Trainer(..., run=folder)")

        everything, kept, validated_by = (images, labels), None, {}
        if isinstance(validation, (tuple, list)):
            if len(validation) != 2:
                raise ConfigurationError(f"validation has {len(validation)} entries; give a pair (images, labels)")
            kept = self._checked(*validation)
            validated_by = self._validated_by(kept, monitor)
        elif validation is not None:
            (images, labels), kept = part(images, labels, validation, self.seed)
            validated_by = {"validation": f"{float(validation)} by {monitor}"}
        check_last_batch(model, len(images), self.batch_size)
        check_some_count(self.loss, "training", labels)
        if kept:
            check_some_count(self.loss, "validation", kept[1])
        if resume:  # back to the checkpoint, whatever this trainer has done since
            self.history = self._new_history()
            self._standing = Standing(within_epoch=self._standing.within_epoch)  # said if there is no checkpoint yet
        self.loss.learn(labels, model.output_shape[0])
        self._standing.balanced = balanced(self.loss)
        first = len(self.history)
        settings = settings_of(self, epochs, *everything) | validated_by
        config_of(self, epochs, {**settings, "patience": patience})  # refuses an `about` before there is a folder
        self._note_validation(validated_by)
        if self.normalize and model.mean is None:
            model.mean, model.std = channel_statistics(images)
        return Fit(settings, first + epochs, first, monitor, patience, kept), images, labels

    def _validated_by(self, kept: tuple[Any, Any], monitor: str) -> dict[str, str]:
        """What settings say of images and labels for validation."""
        return {"validation": f"{digest(*kept, self.backend.dtype)} by {monitor}"}

    def _note_validation(self, validated_by: dict[str, str]) -> None:
        """Raises ConfigurationError where the fits before, of which there are epochs, were validated otherwise."""
        before = self._standing.validated_by
        if len(self.history) and validated_by and before not in ({}, validated_by):
            raise ConfigurationError(
                "validation or monitor are not those of the fit before, so no epoch could be called the best; a new "
                "Trainer starts anew"
            )
        self._standing.validated_by = validated_by or before

    def _check_ready(self, resume: bool = False) -> None:
        """Raises ConfigurationError or BackendError where nothing could be trained, before a run folder is made."""
        check_sharing(self)
        state = self._standing.state
        if not (resume or state is None or self.optimizer.state is state):
            raise ConfigurationError(
                "this trainer's optimizer has been used by another trainer since, so its state is lost; give each "
                "Trainer an optimizer of its own"
            )
        if state is not None:
            self.optimizer._check_state()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Raises ConfigurationError within another call of it, in a callback or another thread, and where another one
        trains its weights.
        """
        try:
            turn = self._turn.pop()  # looks and takes in one go
        except IndexError:
            raise ConfigurationError(
                "this trainer is training already, around this callback or in another thread; make another Trainer"
            ) from None
        try:
            with self.model._weights.turn.taken(self.backend):
                yield
        finally:
            self._turn.append(turn)

    @contextmanager
    def _as_it_was_if_refused(self) -> Iterator[None]:
        """What is refused within it leaves model and trainer as they were."""
        model = self.model
        prepared, state = (model.image_shape, model.mean, model.std), model.state_dict()
        history, standing, optimizer = self.history, replace(self._standing), self.optimizer.state
        loss, average = dict(vars(self.loss)), dict(vars(self.average)) if self.average else {}
        try:
            yield
        except BaseException:
            vars(self).update(history=history, _standing=standing)
            self.optimizer.state = optimizer
            vars(self.loss).update(loss)  # it may have balanced its class weights
            if self.average:
                vars(self.average).update(average)
            model.image_shape, model.mean, model.std = prepared
            model._write(state)  # Whitening2d may have learned its filters
            raise

    @contextmanager
    def _begun(self, fit: Fit, resume: bool, images) -> Iterator[RunFolder | None]:
        """Everything in its place before the first step, or still there later; within it the run folder, if this
        process writes one.
        """
        with nullcontext() if self.run is None or not self.processes.first else run_folder(self.run) as folder:
            if folder and not resume and not fit.first:
                folder.refuse_if_used()
            self._begin(images)
            yield folder

    def _begin(self, images) -> None:
        model = self.model.place(self.backend)  # where another trainer may have taken it
        if self._standing.state is None:
            check_subnormals(self.backend)
            model.learn(images)
            self.optimizer.place(self.backend, model.values.size)
            self._standing.state = self.optimizer.state
            if self.average:
                self.average.place(model)

    def fit_batches(
        self,
        batches,
        epochs: int,
        *,
        steps: int | None = None,
        validation: tuple | None = None,
        monitor: str = "loss",
        patience: int | None = None,
    ) -> History:
        """`fit` on batches that you make: `batches` gives pairs (images, labels), each of them one step.

        An iterable with a length, such as a list or a PyTorch DataLoader, is gone through once an epoch. Of a generator
        or another iterator `steps` batches make an epoch; of a DataLoader, its first `steps`. No batch may have more
        images than the first. Shift, crop, flip and cutout apply; `normalize` and "balanced" class weights need all
        images at once, and a run cannot be resumed, since nobody can make the same batches again. Each of several
        processes makes the same batches and computes its part of them. Otherwise as `fit`.

        Raises ProcessError where the processes' batches differ: before the first step, or before an epoch is kept.
        """
        with self._alone(), ExitStack() as stack:
            with self._as_it_was_if_refused():
                fit, data = self.processes.agreed(
                    lambda: self._prepare_batches(batches, epochs, steps, validation, monitor, patience)
                )
                begun = self._begun(fit, False, data.first[0])
                folder = self.processes.agreed(lambda: stack.enter_context(begun))
                self._meet(fit.settings, fit.epochs, patience)
                self.processes.same(data.fingerprint(), how_fed)
            return self._train(folder, fit, data, data.first[0])

    def _prepare_batches(self, batches, epochs, steps, validation, monitor, patience) -> tuple:
        """Check everything, the first batch too; the fit, and the batches to train on."""
        model, first, epochs = self.model, len(self.history), integer("epochs", epochs)
        self._check_ready()
        model.check_trainable()
        check_stopping(validation, monitor, patience, self.loss, self.metrics)
        if self.normalize and model.mean is None:
            raise ConfigurationError("normalize takes the mean of all images; with batches set model.mean and std")
        if getattr(self.loss, "class_weights", None) == "balanced":
            raise ConfigurationError('class_weights="balanced" counts all labels; with batches give the numbers')

        def check(images, labels) -> tuple:
            if self.crop:
                model.image_shape = larger_images(images, model.input_shape)
            images, labels = self._checked(images, labels)
            check_last_batch(model, len(images), len(images))
            return images, labels

        if validation is not None and (not isinstance(validation, (tuple, list)) or len(validation) != 2):
            raise arguments.refuse("validation", validation, "a pair (images, labels)")
        data = Fed(self.backend, batches, steps, check, compared=self.processes.size > 1)
        kept, validated_by = None, {}
        if validation is not None:
            kept = self._checked(*validation)
            check_some_count(self.loss, "validation", kept[1])
            validated_by = self._validated_by(kept, monitor)
        settings = settings_of(self, epochs, *data.first) | {"images": data.count, "data_sha256": "batches"}
        settings |= validated_by
        config_of(self, epochs, {**settings, "patience": patience})
        self._note_validation(validated_by)
        return Fit(settings, first + epochs, first, monitor, patience, kept), data

    def _new_history(self) -> History:
        smaller = (metric.name for metric in self.metrics if metric.larger_is_better is False)
        return History(smaller={"loss", *smaller})

    def _division(self) -> Division:
        return Division(self.processes.size, self.processes.rank, self.pieces)

    def _meet(self, settings: dict, epochs: int, patience: int | None) -> None:
        """Raises ProcessError where one of the processes would train something else."""
        if self.processes.size > 1:
            self.processes.same(identity_of(self, settings, epochs, patience), how_different)
            if len(set(self.processes.everyone(self.backend.exchanges_on))) > 1:
                self.processes = self.processes.exchanging_on_host()
        self.record = len(set(self.processes.everyone((self.backend.name, self.backend.graph)))) == 1

    def _resume(self, folder: RunFolder | None, fit: Fit) -> None:
        """Go back to the run's checkpoint, if it has one; what is refused has changed nothing."""

        def read() -> tuple | None:
            if folder is None or not folder.checkpoint.exists():
                return None
            found = folder.read_checkpoint(self.model, self.optimizer, fit.settings)
            done = len(found.history)
            if done > fit.epochs:
                raise ConfigurationError(f"this run has done {done} epochs already, more than {fit.epochs}")
            found.history.smaller = self._new_history().smaller
            best = found.history.best_epoch(fit.monitor)
            return found, None if best is None else folder.read_best(self.model, best, done)

        checkpoint = self.processes.on_first(read)
        if checkpoint is None:
            return
        found, self._standing.best = checkpoint
        found.restore(self.model, self.optimizer, self.average)
        for (owner, name), value in found.changed.items():
            setattr(getattr(self, owner), name, value)
        self.history, self._standing.steps = found.history, found.history.last["step"]
        self._standing.within_epoch = False

    def _train(self, folder: RunFolder | None, fit: Fit, data: Resident, images: np.ndarray | Mapped) -> History:
        """The epochs of a fit on `data`, of which `images` are some."""
        self._standing.stopping, self._loop = False, None
        evaluation = self._evaluation(fit.kept[0], fit.kept[1], shared=True) if fit.kept else None
        try:
            self._fitting = True
            Loop(self, self._standing, fit, self._training(data), evaluation, folder).run(images)
        finally:
            data.close()
            if evaluation:
                evaluation.data.close()
            self.model.layer.need_input_gradient(True)
            self.model.mode.training = False
            self._fitting = False
            self.progress.close()
        return self.history

    def stop_training(self) -> None:
        """End `fit` after the epoch at hand; for callbacks."""
        self._standing.stopping = True

    def _training(self, data: Resident) -> TrainingSteps:
        """Steps with all settings of this trainer."""
        mixup, erasing = mixing.make(self.mixup, self.erase)
        return TrainingSteps(
            self.model,
            self.optimizer,
            data,
            self._augmentation(),
            self.seed,
            self.loss,
            self.clip,
            metrics=self.metrics,
            augment=self.augment,
            lr_factors=self.lr_factors,
            average=self.average,
            mixup=mixup,
            erasing=erasing,
            processes=self.processes,
            division=self._division(),
            record=self.record,
        )

    def train_step(self, images, labels) -> dict[str, float]:
        """One step on a batch of your own: for loops that choose their batches themselves.

        images (N, *image_shape) and labels as in `fit`. Returns "step" (how many are done), "loss", "accuracy" if the
        loss has one, and "learning_rate". The model is in training mode during the step alone, so a forgotten switch
        cannot spoil `predict` or `evaluate`. Steps continue those of `fit`, and the other way round. Augmentation is
        the trainer's; there are no epochs, validation, callbacks or run folder. Each of several processes gives the
        same batch and computes its part of it.

        Raises what `fit` raises for unfit data, NonFiniteError if the loss or a weight is not finite, and
        ConfigurationError for what only a whole run knows: a schedule that depends on its length, the statistics of
        `normalize`.
        """
        with self._alone():
            return self._train_step(images, labels)

    def _train_step(self, images, labels) -> dict[str, float]:
        if self.schedule.uses_steps:
            raise ConfigurationError(
                f"{type(self.schedule).__name__} depends on the length of the run, which train_step does not know; use "
                "Constant() and set trainer.optimizer.lr"
            )
        if self.normalize and self.model.mean is None:
            raise ConfigurationError("normalize needs all training images; set model.mean and model.std, or call fit")
        images, labels = self.processes.agreed(lambda: self._step_on(images, labels))
        self._begin(images)
        if self._loop is None or not self._loop.fits(images, labels):
            if self._loop is None:
                self._meet(settings_of(self, 1, images, labels) | {"data_sha256": "batches"}, 1, None)
            data = Resident(self.backend, images, labels, len(images))
            self._loop = OwnLoop(self._training(data))
        if self.processes.size > 1:
            self.processes.same(digest(images, labels, self.backend.dtype), how_fed)
        epoch, done = len(self.history), self._standing.steps
        record = self._loop.step(images, labels, done, factor_of(self.schedule, done, 0, epoch))
        self._standing.steps += 1
        if not record.pop("good"):
            raise not_finite("the loss or a weight", epoch + 1, self._standing.steps)
        return record

    def _step_on(self, images, labels) -> tuple[np.ndarray, np.ndarray]:
        """Both checked, and in memory."""
        self._check_ready()
        check_balance(self.loss, self._standing.balanced)
        images, labels = self._checked(images, labels)
        check_last_batch(self.model, len(images), len(images))
        return (images.take(np.arange(len(images))) if isinstance(images, Mapped) else images), labels

    def _augmentation(self) -> Augmentation:
        return replace(self.model.preparation, shift=self.shift, flip=self.flip, cutout=self.cutout)

    # ---- averaged weights --------------------------------------------------------------------------------------------

    def restore_average(self) -> None:
        """Give the model the average of its weights (`ema`).

        Raises ConfigurationError without one, and before the first step.
        """
        if self.average is None or self._standing.state is None:
            raise ConfigurationError("there is no average yet: Trainer(..., ema=0.99) keeps one while it trains")
        self.model.load_state_dict(self.average.state_dict(self.model))

    def restore_best(self) -> int:
        """Give the model the weights of the epoch that did best in the validation of the last `fit`; returns the epoch.

        Raises ConfigurationError if nothing was validated.
        """
        if self._standing.best is None:
            why = "nothing was validated; fit(..., validation=0.1) does"
            if "validation_loss" in self.history:
                why = "what `monitor` names could not be computed of the validation images"
            raise ConfigurationError(f"no epoch is known as the best: {why}")
        epoch, state = self._standing.best
        self.model.load_state_dict(state)
        return epoch

    # ---- inference ---------------------------------------------------------------------------------------------------

    def evaluate(self, images, labels) -> tuple[float, float | None]:
        """(loss, accuracy): the mean loss, and the part of images whose first largest output is right.

        The accuracy is None for a loss of values, which knows no right and wrong.
        """
        measured = self.measure(images, labels)
        return measured["loss"], measured.get("accuracy")

    def measure(self, images, labels) -> dict[str, Any]:
        """evaluate's results and the metrics', by name: "loss", "accuracy" if the loss has one, "f1" and so on.

        Raises DataError where the loss ignores all of the labels.
        """
        images, labels = self._checked(images, labels)
        check_some_count(self.loss, "the", labels)
        self._say_if_other(images)
        return self._evaluation(images, labels).run()

    def predict(self, images, batch_size: int = EVALUATION_BATCH, *, flips: bool = False) -> np.ndarray:
        """What the model makes of images (N, *image_shape), in the backend's type, `batch_size` of them at a time.

        Class probabilities (N, classes) after training with softmax cross-entropy, probabilities of each output after
        binary cross-entropy, the outputs themselves after other losses. `flips` as in `Model.predict`.
        """
        images, model = self._images(images), self.model.place(self.backend)
        self._say_if_other(images)
        return model.predict(images, batch_size, self.loss.predict, flips=flips)

    def _say_if_other(self, images: np.ndarray | Mapped) -> None:
        """Once, that images were prepared otherwise than those of the last fit."""
        if remark := remarks.other_values(images, self._standing.usual):
            self._standing.usual = None
            self.progress.say(remark)

    def _checked(self, images, labels) -> tuple[np.ndarray | Mapped, np.ndarray]:
        images, outputs = self._images(images), self.model.output_shape
        if outputs[1:] == self.model.input_shape[1:]:  # maps, cut as the images are
            outputs = outputs[0], *self.model.image_shape[1:]
        return images, self.loss.check(labels, len(images), outputs, self.backend.dtype)

    def _images(self, images) -> np.ndarray | Mapped:
        """Images (N, *image_shape), checked; mapped ones stay where they are."""
        if isinstance(images, np.memmap):
            images = Mapped(images)
        self._augmentation()  # refuses a mean without a std
        return check_images(images, self.model.image_shape, self.backend.dtype)

    def _evaluation(self, images, labels, shared: bool = False) -> EvaluationSteps:
        """Of images and labels that were checked; `shared`: all processes compute it together."""
        check_balance(self.loss, self._standing.balanced)
        self.model.place(self.backend)
        processes: Processes = self.processes if shared else Alone()
        division = Division(processes.size, processes.rank)
        data = placed(self.backend, images, labels, min(EVALUATION_BATCH, len(images)), division)
        record = not shared or self.record
        return EvaluationSteps(self.model, data, self.loss, self.metrics, processes, division, record)


# What may be assigned between fits, with its check; the Trainer itself assigns _OWN.
_ASSIGNABLE: dict[str, Callable[[Any], Any]] = {
    "batch_size": partial(integer, "batch_size"),
    "callbacks": check_callbacks,
    "clip": lambda value: instance("clip", value, Clipping, "a gpucnn.training.clipping.Clipping"),
    "progress": progress_of,
    "run": lambda value: value if value is None else arguments.path("run", value),
    "schedule": lambda value: instance("schedule", value, Schedule, "one of gpucnn.schedules, such as Cosine()"),
}
_OWN = ("history", "processes", "record")
