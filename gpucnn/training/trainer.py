"""The training loop."""

import hashlib
import json
from dataclasses import replace
from time import perf_counter

import numpy as np

from gpucnn import arithmetic
from gpucnn.backends import get_backend
from gpucnn.backends.protocol import Backend
from gpucnn.data.mapped import Mapped
from gpucnn.errors import ConfigurationError, NonFiniteError, ShapeError
from gpucnn.layers.settings import positive
from gpucnn.losses import check_labels
from gpucnn.models.files import describe
from gpucnn.models.inputs import check_images
from gpucnn.models.model import Model
from gpucnn.optimizers import Adam, Optimizer
from gpucnn.schedules import Constant, Schedule
from gpucnn.training.data import placed
from gpucnn.training.history import History
from gpucnn.training.normalization import channel_statistics
from gpucnn.training.progress import Quiet, default_progress
from gpucnn.training.run import RunFolder, first_not_finite, host_state
from gpucnn.training.steps import EvaluationSteps, TrainingSteps

EVALUATION_BATCH = 256
_CURVES_EVERY = 30.0  # seconds; drawing takes a third of one


class Trainer:
    """Trains `model` on one backend: shuffled epochs, softmax cross-entropy, checkpoints.

    `backend` is a name or a Backend (None: the fastest usable one), `math` "exact" or "fast" (None: the backend's own),
    `optimizer` one of gpucnn.optimizers (None: Adam()), `schedule` one of gpucnn.schedules (None: Constant()). `seed`
    decides the shuffles, augmentation, dropout and, if the model has no weights yet, the first weights. `run` is a folder
    for configuration, metrics, curves and checkpoints (None: nothing is written); `about` is added to its config.json.
    `progress` is None for a bar or lines on stderr, False for silence, or an object like those in
    gpucnn.training.progress.

    In training each image moves by up to `shift` pixels along each axis, is mirrored left to right every other time with
    `flip`, and loses a square of `cutout` pixels a side around a random pixel. With `crop` images may be larger than the
    model's input: a random part of that size in training (up to `shift` pixels over the border), the middle otherwise.
    `normalize` subtracts each channel's mean over the training images and divides by its standard deviation, in
    evaluation and prediction too; the model keeps both. What is empty after that is 0.

    In exact math the trained weights depend on model, data and settings alone, not on the backend or its threads.
    """

    def __init__(
        self, model: Model, *, backend: str | Backend | None = None, math: str | None = None,
        optimizer: Optimizer | None = None, schedule: Schedule | None = None, seed: int = 0, batch_size: int = 64,
        shift: int = 0, crop: bool = False, flip: bool = False, cutout: int = 0, normalize: bool = False, run=None,
        threads: int | None = None, progress: Quiet | bool | None = None, about: dict | None = None,
    ):  # fmt: skip
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise ConfigurationError(f"seed is {seed!r}; give an integer from 0 to 2**64 - 1")
        room = min(model.input_shape[1:], default=1)
        if isinstance(shift, bool) or not isinstance(shift, int) or not 0 <= shift < room:
            raise ConfigurationError(f"shift is {shift!r}; give a number of pixels from 0 to {room - 1}")
        if len(model.output_shape) != 1:
            raise ConfigurationError(f"the model's output is {model.output_shape}, not (classes,): end it with Dense")
        if isinstance(cutout, bool) or not isinstance(cutout, int) or not 0 <= cutout <= room:
            raise ConfigurationError(f"cutout is {cutout!r}; give the side of a square in pixels, from 0 to {room}")
        if (crop or flip) and len(model.input_shape) == 1:
            raise ConfigurationError(f"crop and flip need images; this model takes (N, {model.input_shape[0]})")
        self.model, self.seed, self.run = model, seed, run
        self.shift, self.crop, self.flip, self.cutout = shift, bool(crop), bool(flip), cutout
        self.normalize = bool(normalize)
        self.batch_size = positive("batch_size", batch_size)
        self.optimizer, self.schedule = optimizer or Adam(), schedule or Constant()
        self.progress = default_progress() if progress is None or progress is True else progress or Quiet()
        self.about = dict(about or {})
        self.backend = backend if isinstance(backend, Backend) else get_backend(backend, math, threads=threads)
        if not model.initialized:
            model.initialize(seed)
        model.place(self.backend)

    # ---- training ----------------------------------------------------------------------------------------------------

    def fit(self, images, labels, epochs: int, *, validation: tuple | None = None, resume: bool = False) -> History:
        """Train until `epochs` epochs are done, starting from the model's weights with a fresh optimiser.

        images (N, *input_shape), labels integers (N,). `validation` is another (images, labels) pair, evaluated after
        each epoch; it changes no weight. With `resume` training continues from the run folder's checkpoint and ends in
        the same bits as a run that was never interrupted, on whichever backend; without a checkpoint yet it starts from
        the beginning. The run folder is in order at any moment: a process may be killed, or interrupted with Ctrl-C.

        Raises ShapeError, DTypeError or DataError for unfit data before any work, CheckpointError for a checkpoint of
        another model or other settings, NonFiniteError once the loss or a weight is no longer finite (the last good
        checkpoint stays).
        """
        model, classes = self.model, self.model.output_shape[0]
        positive("epochs", epochs)
        if self.crop:
            model.image_shape = _larger(images, model.input_shape)
        images = self._images(images)
        labels = check_labels(labels, len(images), classes)
        if resume and self.run is None:
            raise ConfigurationError("resume needs the run folder to continue: Trainer(..., run=folder)")

        if self.normalize and model.mean is None:
            model.mean, model.std = channel_statistics(images)
        settings = self._settings(epochs, images, labels)
        if validation is not None:
            validation = self._evaluation(*validation)
        model.place(self.backend)  # where another trainer may have taken it
        self.optimizer.place(self.backend, model.values.size)
        folder, history = None, History()
        if self.run is not None:
            folder = RunFolder(self.run)
            if not resume:
                folder.refuse_if_used()
            elif folder.checkpoint.exists():
                history = folder.read_checkpoint(model, self.optimizer, settings)
            folder.write_config(self._config(epochs, settings))
        if len(history) > epochs:
            raise ConfigurationError(f"this run has done {len(history)} epochs already, more than {epochs}")

        self.progress.begin(self._title(), epochs, len(images), len(history))
        model.layer.need_input_gradient(False)  # nobody needs the gradient of the images
        data = placed(self.backend, images, labels, self.batch_size)
        try:
            changes = {"shift": self.shift, "flip": self.flip, "cutout": self.cutout}
            steps = TrainingSteps(model, self.optimizer, data, replace(model.preparation, **changes), self.seed)
            drawn = perf_counter()
            for epoch in range(len(history), epochs):
                record = self._epoch(steps, epoch, epochs, validation)
                history.epochs.append(record)
                if folder:
                    self._keep(folder, history, settings)
                    if perf_counter() - drawn > _CURVES_EVERY:
                        folder.write_curves(history)
                        drawn = perf_counter()
                self.progress.end_epoch(record)
            if folder:
                folder.write_curves(history)
        finally:
            data.close()
            model.layer.need_input_gradient(True)
            model.mode.training = False
            self.progress.close()
        return history

    def _epoch(self, steps: TrainingSteps, epoch: int, epochs: int, validation: EvaluationSteps | None) -> dict:
        """Train epoch `epoch` (from 0); returns its record."""
        started = shown = perf_counter()
        batches = steps.data.batches(arithmetic.permutation(self.seed, steps.data.count, epoch))
        steps.start_epoch()
        for number, indices in enumerate(batches, start=epoch * len(batches)):
            rate = steps.run(indices, number, self.schedule(number, epochs * len(batches), epoch))
            if steps.timed and perf_counter() - shown > self.progress.interval:
                self._stop_if_not_finite(steps, len(batches))
                self.progress.update(epoch + 1, steps.images, steps.measure())
                shown = perf_counter()
        measured = steps.measure()
        self._stop_if_not_finite(steps, len(batches))
        record = {"epoch": epoch + 1, "step": (epoch + 1) * len(batches), **measured, "learning_rate": rate}
        if validation:
            record["validation_loss"], record["validation_accuracy"] = validation.run()
        record["seconds"] = perf_counter() - started
        return record

    def _stop_if_not_finite(self, steps: TrainingSteps, steps_an_epoch: int) -> None:
        bad = steps.bad_step()
        if bad >= 0:
            raise _not_finite("the loss or a weight", bad // steps_an_epoch + 1, bad + 1)

    def _keep(self, folder: RunFolder, history: History, settings: dict) -> None:
        """Metrics first: resuming ignores a line too many, but could not invent a missing one."""
        last, state = history.last, host_state(self.model, self.optimizer)
        bad = first_not_finite(state)  # what `watch` does not see: running statistics, optimiser state
        if bad:
            raise _not_finite(bad, last["epoch"], last["step"])
        folder.write_metrics(history)
        about = {
            **describe(self.model),
            "settings": settings,
            "epoch": last["epoch"],
            "step": last["step"],
            "backend": self.backend.name,
            "weights_sha256": self.model.weights_sha256(),
        }
        folder.write_checkpoint(state, about)

    def _settings(self, epochs: int, images: np.ndarray, labels: np.ndarray) -> dict:
        """All that decides the bits beside the model: a run resumes only where these agree."""
        data = images.survey(self.backend.dtype)[0] if isinstance(images, Mapped) else hashlib.sha256(images)
        data.update(labels)
        settings = {
            "optimizer": self.optimizer.settings(),
            "schedule": self.schedule.settings(),
            # Rates that depend on the run's length fix it; a run with others can be extended.
            "epochs": epochs if self.schedule.uses_steps else None,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "shift": self.shift,
            "math": self.backend.math,
            "dtype": np.dtype(self.backend.dtype).name,
            "images": len(images),
            "data_sha256": data.hexdigest(),
        }
        settings |= {name: getattr(self, name) for name in ("crop", "flip", "cutout", "normalize") if getattr(self, name)}
        return json.loads(json.dumps(settings))  # as they come back from a file: lists, not tuples

    def _config(self, epochs: int, settings: dict) -> dict:
        from gpucnn import __version__

        where = {"backend": self.backend.name, "threads": self.backend.threads}
        return {"gpucnn": __version__, **describe(self.model), **settings, "epochs": epochs, **where, **self.about}

    def _title(self) -> str:
        backend, model = self.backend, self.model
        title = f"training {model.name} ({model.parameter_count:,} parameters) on {backend.name}, {backend.math} math"
        if backend.threads:
            title += f", {backend.threads} thread{'s' if backend.threads > 1 else ''}"
        if backend.name != "numpy":
            title += "; the first step compiles kernels that are not in the cache yet, which can take half a minute"
        return title

    # ---- inference ---------------------------------------------------------------------------------------------------

    def evaluate(self, images, labels) -> tuple[float, float]:
        """(loss, accuracy): mean softmax cross-entropy, and the part of images whose first largest output is right."""
        return self._evaluation(images, labels).run()

    def predict(self, images) -> np.ndarray:
        """Class probabilities (N, classes) of images (N, *input_shape), in the backend's type."""
        model, backend = self.model, self.backend
        images = self._images(images)
        model.place(backend)
        model.mode.training = False
        parts = (images[start : start + EVALUATION_BATCH] for start in range(0, len(images), EVALUATION_BATCH))
        return np.concatenate([backend.unpack(backend.softmax(model(part)[0])) for part in parts])

    def _evaluation(self, images, labels) -> EvaluationSteps:
        images = self._images(images)
        labels = check_labels(labels, len(images), self.model.output_shape[0])
        self.model.place(self.backend)
        return EvaluationSteps(self.model, placed(self.backend, images, labels, min(EVALUATION_BATCH, len(images))))

    def _images(self, images) -> np.ndarray | Mapped:
        """Images (N, *image_shape), checked; mapped ones stay where they are."""
        if isinstance(images, np.memmap):
            images = Mapped(images)
        return check_images(images, self.model.image_shape, self.backend.dtype)


def _larger(images, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of images that a model of `input_shape` can be cropped out of; raises ShapeError for others."""
    shape = tuple(np.shape(images)[1:])
    fits = len(shape) == len(input_shape) and shape[0] == input_shape[0]
    if not fits or any(there < cut for there, cut in zip(shape, input_shape, strict=True)):
        sizes = ", ".join(map(str, input_shape))
        raise ShapeError(
            f"images have shape {np.shape(images)}; to crop them to this model's (N, {sizes}) they must be larger"
        )
    return shape


def _not_finite(what: str, epoch: int, step: int) -> NonFiniteError:
    return NonFiniteError(
        f"{what} became infinite or NaN in epoch {epoch}, step {step}; training stopped and the last good checkpoint, "
        "if there is one, stays. A smaller learning rate often helps",
        epoch,
        step,
    )
