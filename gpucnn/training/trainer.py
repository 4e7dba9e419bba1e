"""The training loop."""

import hashlib
import json
from time import perf_counter

import numpy as np

from gpucnn import arithmetic
from gpucnn.backends import get_backend
from gpucnn.backends.protocol import Backend
from gpucnn.errors import ConfigurationError, NonFiniteError
from gpucnn.layers.settings import positive
from gpucnn.losses import Loss, SoftmaxCrossEntropy
from gpucnn.models.files import describe
from gpucnn.models.inputs import check_images
from gpucnn.models.model import Model
from gpucnn.optimizers import Adam, Optimizer
from gpucnn.schedules import Constant, Schedule
from gpucnn.training.clipping import Clipping
from gpucnn.training.history import History
from gpucnn.training.progress import Quiet, default_progress
from gpucnn.training.run import RunFolder, first_not_finite, host_state
from gpucnn.training.steps import EvaluationSteps, Resident, TrainingSteps

EVALUATION_BATCH = 256
_CURVES_EVERY = 30.0  # seconds; drawing takes a third of one


class Trainer:
    """Trains `model` on one backend: shuffled epochs, a loss, checkpoints.

    `backend` is a name or a Backend (None: the fastest usable one), `math` "exact" or "fast" (None: the backend's own),
    `optimizer` one of gpucnn.optimizers (None: Adam()), `schedule` one of gpucnn.schedules (None: Constant()). `seed`
    decides the shuffles, shifts, dropout and, if the model has no weights yet, the first weights. In training each
    image moves by up to `shift` pixels along each axis. `run` is a folder for configuration, metrics, curves and
    checkpoints (None: nothing is written); `about` is added to its config.json. `progress` is None for a bar or lines
    on stderr, False for silence, or an object like those in gpucnn.training.progress. `loss` is one of gpucnn.losses
    (None: SoftmaxCrossEntropy()); `clip_norm` and `clip_value` limit the gradient, see gpucnn.training.clipping.

    In exact math the trained weights depend on model, data and settings alone, not on the backend or its threads.
    """

    def __init__(
        self, model: Model, *, backend: str | Backend | None = None, math: str | None = None,
        optimizer: Optimizer | None = None, schedule: Schedule | None = None, seed: int = 0, batch_size: int = 64,
        shift: int = 0, run=None, threads: int | None = None, progress: Quiet | bool | None = None,
        about: dict | None = None, loss: Loss | None = None, clip_norm: float | None = None,
        clip_value: float | None = None,
    ):  # fmt: skip
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise ConfigurationError(f"seed is {seed!r}; give an integer from 0 to 2**64 - 1")
        room = min(model.input_shape[1:], default=1)
        if isinstance(shift, bool) or not isinstance(shift, int) or not 0 <= shift < room:
            raise ConfigurationError(f"shift is {shift!r}; give a number of pixels from 0 to {room - 1}")
        if len(model.output_shape) != 1:
            raise ConfigurationError(f"the model's output is {model.output_shape}, not (classes,): end it with Dense")
        self.model, self.seed, self.shift, self.run = model, seed, shift, run
        self.batch_size = positive("batch_size", batch_size)
        self.optimizer, self.schedule = optimizer or Adam(), schedule or Constant()
        if loss is not None and not isinstance(loss, Loss):
            raise ConfigurationError(f"loss is {loss!r}; give one of gpucnn.losses, such as Huber(), or None")
        self.loss, self.clip = loss or SoftmaxCrossEntropy(), Clipping(clip_norm, clip_value)
        self.progress = default_progress() if progress is None or progress is True else progress or Quiet()
        self.about = dict(about or {})
        self.backend = backend if isinstance(backend, Backend) else get_backend(backend, math, threads=threads)
        if not model.initialized:
            model.initialize(seed)
        model.place(self.backend)
        self.loss.place(self.backend, model.output_shape[0])  # refuses weights for other classes

    # ---- training ----------------------------------------------------------------------------------------------------

    def fit(self, images, labels, epochs: int, *, validation: tuple | None = None, resume: bool = False) -> History:
        """Train until `epochs` epochs are done, starting from the model's weights with a fresh optimiser.

        images (N, *input_shape); labels integers (N,), or for a loss of values those, (N, *output_shape) in the backend's
        type. `validation` is another (images, labels) pair, evaluated after each epoch; it changes no weight. With `resume` training continues from the run folder's checkpoint and ends in
        the same bits as a run that was never interrupted, on whichever backend; without a checkpoint yet it starts from
        the beginning. The run folder is in order at any moment: a process may be killed, or interrupted with Ctrl-C.

        Raises ShapeError, DTypeError or DataError for unfit data before any work, CheckpointError for a checkpoint of
        another model or other settings, NonFiniteError once the loss or a weight is no longer finite (the last good
        checkpoint stays).
        """
        model = self.model
        positive("epochs", epochs)
        images, labels = self._checked(images, labels)
        if resume and self.run is None:
            raise ConfigurationError("resume needs the run folder to continue: Trainer(..., run=folder)")

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
        try:
            data = Resident(self.backend, images, labels, self.batch_size)
            steps = TrainingSteps(model, self.optimizer, data, self.shift, self.seed, self.loss, self.clip)
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
            record["validation_loss"], accuracy = validation.run()
            if accuracy is not None:
                record["validation_accuracy"] = accuracy
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
        data = hashlib.sha256(images)
        data.update(labels)
        settings = {
            "optimizer": self.optimizer.settings(),
            "schedule": self.schedule.settings(),
            # Rates that depend on the run's length fix it; a run with others can be extended.
            "epochs": epochs if self.schedule.uses_steps else None,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "shift": self.shift,
            "loss": self.loss.settings(),
            "clip": self.clip.settings(),
            "math": self.backend.math,
            "dtype": np.dtype(self.backend.dtype).name,
            "images": len(images),
            "data_sha256": data.hexdigest(),
        }
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

    def evaluate(self, images, labels) -> tuple[float, float | None]:
        """(loss, accuracy): the mean loss, and the part of images whose first largest output is right.

        The accuracy is None for a loss of values, which knows no right and wrong.
        """
        return self._evaluation(images, labels).run()

    def predict(self, images) -> np.ndarray:
        """What the model makes of images (N, *input_shape), in the backend's type.

        Class probabilities (N, classes) after training with softmax cross-entropy, probabilities of each output after
        binary cross-entropy, the outputs themselves after other losses.
        """
        model, backend = self.model, self.backend
        images = check_images(images, model.input_shape, backend.dtype)
        model.place(backend)
        model.mode.training = False
        parts = (images[start : start + EVALUATION_BATCH] for start in range(0, len(images), EVALUATION_BATCH))
        return np.concatenate([backend.unpack(self.loss.predict(model(backend.pack(part))[0])) for part in parts])

    def _checked(self, images, labels) -> tuple[np.ndarray, np.ndarray]:
        images = check_images(images, self.model.input_shape, self.backend.dtype)
        return images, self.loss.check(labels, len(images), self.model.output_shape, self.backend.dtype)

    def _evaluation(self, images, labels) -> EvaluationSteps:
        images, labels = self._checked(images, labels)
        self.model.place(self.backend)
        data = Resident(self.backend, images, labels, min(EVALUATION_BATCH, len(images)))
        return EvaluationSteps(self.model, data, self.loss)


def _not_finite(what: str, epoch: int, step: int) -> NonFiniteError:
    return NonFiniteError(
        f"{what} became infinite or NaN in epoch {epoch}, step {step}; training stopped and the last good checkpoint, "
        "if there is one, stays. A smaller learning rate often helps",
        epoch,
        step,
    )
