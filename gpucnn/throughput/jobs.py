"""What is timed of ours: the training step and `Model.predict`, just as users run them.

In training the images are on the device; each step gathers its batch there, in another order each time, and is recorded
after the first. Inference goes from one array on the host to another.
"""

import itertools
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from gpucnn import arithmetic
from gpucnn.arguments import integer, one_of
from gpucnn.backends.protocol import Backend
from gpucnn.models import MODELS, Model, build_model
from gpucnn.optimizers import SGD
from gpucnn.summary import summary
from gpucnn.throughput.timing import Contender
from gpucnn.training.steps import Resident, TrainingSteps

JOBS = ("training", "inference")
SHAPES = {"lenet5": (1, 28, 28), "mlp": (1, 28, 28)}
SHAPE, CLASSES = (3, 32, 32), 10
# Small enough that thousands of steps on random labels leave the weights in the range of a network in training.
LEARNING_RATE, MOMENTUM = 1e-4, 0.9
# The data set holds so many batches, and no fewer images than this.
_BATCHES, _IMAGES = 2, 1024


@dataclass(frozen=True, order=True)
class Case:
    """What is compared among backends. Raises ConfigurationError for wrong names and sizes."""

    model: str
    job: str
    batch: int

    def __post_init__(self):
        one_of("model", self.model, MODELS)
        one_of("job", self.job, JOBS)
        integer("batch", self.batch)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return SHAPES.get(self.model, SHAPE)

    def build(self) -> Model:
        """The model with its first weights."""
        return build_model(self.model, self.input_shape, CLASSES).initialize(0)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Random images (M, C, H, W) float32, as if normalised, and labels (M,) int32; M a multiple of the batch."""
        batches = max(_BATCHES, _IMAGES // self.batch)
        random = np.random.default_rng(1)
        images = random.standard_normal((batches * self.batch, *self.input_shape), np.float32)
        return images, random.integers(CLASSES, size=len(images), dtype=np.int32)

    def operations(self) -> int:
        """Floating-point operations an image, two a multiply-add of a convolution or dense layer, padding included.

        Training counts each layer three times (forward and both gradients), the first twice: images need no gradient.
        """
        model = self.build()
        total = summary(model).total.multiply_adds
        if self.job == "inference":
            return 2 * total
        first = next(row for row in summary(model).rows if row.multiply_adds)
        return 2 * (3 * total - first.multiply_adds)

    def __str__(self) -> str:
        return f"{self.model} {self.job}, batch {self.batch}"


@dataclass(frozen=True)
class Prepared:
    """A contender ready to be timed, and what came before: seconds of `transfer` (model and data to the device) and of
    `first` (the first repetition, which compiles or loads kernels and records)."""

    contender: Contender
    transfer: float
    first: float


def prepare(case: Case, backend: Backend) -> Prepared:
    """Our side of a case on one backend; runs the first repetition."""
    images, labels = case.data()
    model, data = case.build(), None

    def transfer() -> None:
        nonlocal data
        model.place(backend)
        if case.job == "training":
            data = Resident(backend, images, labels, case.batch)

    transferred = backend.elapsed(transfer)
    # Kernels are compiled by the host, so its clock tells how long that took.
    started = perf_counter()
    call = _inference(model, images, case.batch) if data is None else _training(model, data)
    call()
    backend.synchronize()
    first = perf_counter() - started
    # A CPU's time is the host's: only a GPU has a clock of its own.
    elapsed = None if backend.threads else backend.elapsed
    return Prepared(Contender(call, backend.synchronize, elapsed=elapsed), transferred, first)


def _training(model: Model, data: Resident):
    optimizer = SGD(LEARNING_RATE, momentum=MOMENTUM)
    optimizer.place(data.backend, model.values.size)
    steps = TrainingSteps(model, optimizer, data)
    batches = data.batches(arithmetic.permutation(0, data.count, 0))
    number = 0

    def call() -> None:
        nonlocal number
        if number % len(batches) == 0:
            steps.look_ahead(batches, number, [1.0] * len(batches))
        steps.run(batches[number % len(batches)], number, 1.0)
        number += 1

    return call


def _inference(model: Model, images: np.ndarray, batch: int):
    turn = itertools.cycle(images.reshape(-1, batch, *images.shape[1:]))
    return lambda: model.predict(next(turn), batch)
