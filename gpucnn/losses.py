"""Losses, which training minimizes.

Each loss is an object that the Trainer takes, `Trainer(model, loss=Huber(0.5))`, and that is called on a batch:
`loss, doutputs = MeanSquared()(outputs, targets)`. Your own loss is a class with the methods of `Loss`.
"""

from functools import partial
from typing import Any, ClassVar

import numpy as np

from gpucnn import arguments
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array, Backend
from gpucnn.errors import ConfigurationError, DataError, ShapeError
from gpucnn.layers.own import check_batch
from gpucnn.recordable import Recordable
from gpucnn.targets import check_classes, check_values

UNBALANCED = (
    'class_weights is "balanced", but no training labels were seen yet; train first, call learn(labels, classes), or '
    "give the numbers"
)


def balanced_weights(labels: np.ndarray, classes: int) -> list[float]:
    """The weight of each class that makes all classes count equally: N / (classes * its images).

    Raises DataError for a class without images.
    """
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise DataError(f"class {int(np.argmin(counts))} has no images, so no weight balances it; give the weights")
    return [float(len(labels) / (classes * count)) for count in counts]


class Loss(Recordable):
    """Base of all losses. `__call__` returns the loss, a device array (1,), and its gradient.

    Your own loss declares `recordable = True` if it computes with backend operations alone (gpucnn.recordable).

    `totals`, a float64 device array of `counts` numbers, accumulates what `measure` averages.
    """

    counts = 1
    live = ("__call__",)
    loads_labels = False  # whether `load` is the backend's load_labels
    # What its targets are, for metrics and the methods below: "classes", whole numbers; "labels", 0 to 1 for each
    # output; or "values". The model's head is "classifier" for classes and "regressor" for others.
    targets = "values"
    ignore_index: int | None = None  # of classes: the label that does not count

    def __init_subclass__(cls, **settings: Any):
        super().__init_subclass__(**settings)
        if isinstance(cls.targets, str):  # no property
            arguments.one_of(f"{cls.__name__}.targets", cls.targets, ("classes", "labels", "values"))

    def settings(self) -> dict:
        """Name and settings, for checkpoints."""
        return {"name": type(self).__name__, **{k: v for k, v in vars(self).items() if not k.startswith("_")}}

    def check(self, targets, images: int, output_shape: tuple[int, ...], dtype) -> np.ndarray:
        """The targets of so many images, checked, as the host array that `load` takes once it is on the device."""
        if self.targets == "classes":
            return check_classes(targets, images, output_shape, self.ignore_index)
        return check_values(targets, (images, *output_shape), dtype)

    def learn(self, targets: np.ndarray, outputs: int) -> None:
        """Take what the loss needs from the checked targets of all training images, before a run's first step."""

    def place(self, backend: Backend, outputs: int) -> None:
        """Put what a call needs on the device: a recorded call copies nothing from the host."""

    def load(self, backend: Backend, targets: Array, indices: Array, count: int, **motion):
        """The targets of a batch from those of the whole set on the device, as `load_images` gathers images.

        `motion` is there for maps only, which move with the images: `load_images`' further arguments. A class an image
        is int32 (block, lane); maps of classes are class + 1, or 0 where ignored.
        """
        if targets.ndim == 1:
            return backend.load_labels(targets, indices, count)
        return backend.load_images(targets, indices, count, **motion)

    def truth(self, targets: Any, outputs: Batch) -> np.ndarray:
        """What `load` gave, on the host as metrics take it: classes (N, *spatial), -1 where ignored, or values."""
        if not isinstance(targets, Batch):
            return outputs.backend.host(targets).reshape(-1)[: outputs.images]
        return targets.numpy()[:, 0].astype(np.int64) - 1 if self.targets == "classes" else targets.numpy()

    def __call__(self, outputs: Batch, targets, totals: Array | None = None) -> tuple[Array, Batch]:
        raise NotImplementedError(
            f"{type(self).__name__} has no __call__(outputs, targets, totals) -> (loss, gradient)"
        )

    def label_weight(self, backend: Backend, targets: Any, images: int) -> Array | None:
        """The sum over the batch by which the loss of `targets`, as `load` gives them, is divided; None: a number that
        the labels do not change. A batch that is computed in pieces has to know it before the first.
        """
        return None

    def measure(self, totals: np.ndarray, images: int, outputs: int) -> dict[str, float]:
        """From the totals over so many images of so many outputs: "loss", and "accuracy" if the loss has one."""
        return {"loss": float(totals[0]) / (images * outputs)}

    def predict(self, outputs: Batch) -> Batch:
        """Predictions from the model's outputs: class probabilities, or the outputs themselves."""
        return outputs.backend.softmax(outputs) if self.targets == "classes" else outputs


def checked(loss: Loss, result: Any, outputs: Batch) -> tuple[Array, Batch]:
    """What `loss` returned, if it is an array (1,) and a gradient of the outputs' shape and type.

    Raises ConfigurationError, ShapeError or DTypeError.
    """
    kind = type(loss).__name__
    pair = result if isinstance(result, (tuple, list)) and len(result) == 2 else (result, None)
    if pair[1] is None or getattr(pair[0], "shape", None) != (1,):
        what = "" if pair[1] is None else f" of {type(pair[0]).__name__} and {type(pair[1]).__name__}"
        raise ConfigurationError(
            f"{kind} returned {arguments.a_kind(result)}{what}; return (loss, gradient), an array of shape (1,) and "
            "outputs.like(array)"
        )
    check_batch(kind, " as gradient", result[1], outputs.shape[1:], outputs.images)
    return result


class SoftmaxCrossEntropy(Loss):
    """The mean over the images of -log(softmax(logits)[label]); logits (N, classes), labels integers (N,).

    With logits (N, classes, *spatial) labels are maps, (N, *spatial), and the mean is over all positions: a loss per
    pixel. Images or positions whose label is `ignore_index`, such as 255 or -1, do not count.

    With `label_smoothing` s the target is 1 - s for the label plus s / classes for each class (Szegedy et al. 2016).
    With `class_weights`, a number above 0 for each class, an image counts with its label's weight, and the sum is
    divided by the sum of the images' weights. Both together as torch.nn.functional.cross_entropy defines them.
    "balanced" weights make all classes of the training images count equally; the Trainer has them computed (`learn`)
    once it knows which images it trains on.
    """

    recordable = loads_labels = True
    targets = "classes"
    # The sum of the losses, the hits; of weighted losses the sum of the weights; of maps the number of labels.
    counts = 4
    _checks: ClassVar = {"label_smoothing": partial(arguments.number, least=0, below=1)}
    _fixed = ("class_weights", "ignore_index")

    def __init__(self, label_smoothing: float = 0.0, class_weights=None, ignore_index: int | None = None):
        self.label_smoothing = label_smoothing
        balanced = isinstance(class_weights, str) and class_weights == "balanced"
        self.class_weights = class_weights if balanced or class_weights is None else _positive_weights(class_weights)
        self._weights = None if balanced else self.class_weights
        self.ignore_index = _ignore_index(ignore_index)
        self._placed: dict[tuple[Backend, int], Array] = {}  # for models of so many classes

    def settings(self) -> dict:
        weights = self.class_weights if self._weights is None else self._weights
        return super().settings() | {"class_weights": weights}

    def check(self, targets, images: int, output_shape: tuple[int, ...], dtype) -> np.ndarray:
        self._check_classes(output_shape[0])
        return super().check(targets, images, output_shape, dtype)

    def learn(self, targets: np.ndarray, outputs: int) -> None:
        if self.class_weights == "balanced":
            labels = targets if targets.ndim == 1 else targets[targets > 0].astype(np.int64) - 1
            self._weights, self._placed = balanced_weights(labels, outputs), {}

    def place(self, backend: Backend, outputs: int) -> None:
        self._check_classes(outputs)
        if (backend, outputs) not in self._placed and (self.class_weights is None or self._weights is not None):
            weights = np.ones(outputs) if self._weights is None else np.array(self._weights)
            self._placed[backend, outputs] = backend.array(weights.astype(backend.dtype))

    def __call__(self, outputs: Batch, targets, totals: Array | None = None) -> tuple[Array, Batch]:
        """`targets` are integers (N,) or (N, *spatial) on the host, or what `load` made of them, not checked again.

        totals (4,) gains the sum of the losses and the number of labels whose logit is the first largest; with
        smoothing or weights the labels' weights too, and of maps the number of labels that are not ignored.
        """
        backend, maps = outputs.backend, bool(outputs.spatial) or self.ignore_index is not None
        if isinstance(targets, Batch):
            _check_stored(targets, outputs, 1)
        elif maps or not _is_loaded(targets, outputs):
            targets = self.check(targets, outputs.images, outputs.shape[1:], backend.dtype)
            targets = backend.pack(targets.astype(backend.dtype)) if maps else backend.pack_labels(targets)
        if self._plain() and not maps:
            return backend.softmax_cross_entropy(outputs, targets, _room(totals, 2))
        self.place(backend, outputs.channels)
        weights = self._on(backend, outputs.channels)
        if maps:
            return backend.map_cross_entropy(outputs, targets, weights, self.label_smoothing, _room(totals, 4))
        return backend.weighted_cross_entropy(outputs, targets, weights, self.label_smoothing, _room(totals, 3))

    def label_weight(self, backend: Backend, targets: Any, images: int) -> Array | None:
        maps = isinstance(targets, Batch)
        if not maps and self._plain():
            return None
        weights = self._on(backend, max((classes for there, classes in self._placed if there is backend), default=0))
        return backend.label_map_weights(targets, weights) if maps else backend.label_weights(targets, weights, images)

    def measure(self, totals: np.ndarray, images: int, outputs: int) -> dict[str, float]:
        losses, hits, weight, labels = map(float, totals)
        if self.class_weights is None and not labels:
            weight = images  # without smoothing, which may begin within an epoch, nothing is added to it
        return {"loss": losses / (weight or images), "accuracy": hits / (labels or images)}

    def _plain(self) -> bool:
        return self.label_smoothing == 0 and self.class_weights is None

    def _on(self, backend: Backend, classes: int) -> Array:
        """The weights of so many classes on the device, where `place` put them."""
        if (backend, classes) not in self._placed:
            raise ConfigurationError(UNBALANCED)
        return self._placed[backend, classes]

    def _check_classes(self, classes: int) -> None:
        if self._weights is not None and len(self._weights) != classes:
            raise ConfigurationError(
                f"class_weights holds {len(self._weights)} numbers, but the model has {classes} classes"
            )


class Dice(Loss):
    """The mean over images and classes of 1 - (2 * I + smooth) / (P + T + smooth), the soft Dice loss.

    Sudre et al. 2017; Milletari et al. 2016 square the numbers in P and T. With p the softmax of logits (N, classes,
    *spatial) and labels (N, *spatial): over the positions of an image I is the sum of p where the label is the class, P
    the sum of p, T the number of such labels. `smooth`, above 0, is what a class counts with that an image lacks.
    Positions whose label is `ignore_index` do not count.
    """

    recordable = True
    targets = "classes"
    _checks: ClassVar = {"smooth": partial(arguments.number, above=0)}
    _fixed = ("ignore_index",)

    def __init__(self, smooth: float = 1.0, ignore_index: int | None = None):
        self.smooth, self.ignore_index = smooth, _ignore_index(ignore_index)

    def check(self, targets, images: int, output_shape: tuple[int, ...], dtype) -> np.ndarray:
        if len(output_shape) == 1:
            raise ShapeError(
                f"Dice compares maps, but the model's output is {tuple(output_shape)}: end it with a convolution, such "
                f"as Conv2d({output_shape[0]}, 1)"
            )
        return super().check(targets, images, output_shape, dtype)

    def __call__(self, outputs: Batch, targets, totals: Array | None = None) -> tuple[Array, Batch]:
        """`targets` are integers (N, *spatial) on the host, or what `load` made of them, not checked again.

        totals (1,) gains the sum of the images' losses.
        """
        backend = outputs.backend
        if not isinstance(targets, Batch):
            targets = self.check(targets, outputs.images, outputs.shape[1:], backend.dtype)
            targets = backend.pack(targets.astype(backend.dtype))
        _check_stored(targets, outputs, 1)
        p = backend.softmax(outputs)
        loss, dp = backend.dice(p, targets, self.smooth, _room(totals, 1))
        return loss, backend.softmax_gradient(dp, p)

    def measure(self, totals: np.ndarray, images: int, outputs: int) -> dict[str, float]:
        return {"loss": float(totals[0]) / images}


class ValueLoss(Loss):
    """A mean over all values of outputs (N, C, *spatial), against targets of the same shape."""

    recordable = True
    kind = ""
    delta = 1.0  # of Huber alone

    def __call__(self, outputs: Batch, targets, totals: Array | None = None) -> tuple[Array, Batch]:
        """`targets` are an array (N, C, *spatial) on the host, or a Batch, which is not checked again.

        totals (1,) gains the sum over all values.
        """
        backend = outputs.backend
        if not isinstance(targets, Batch):
            targets = backend.pack(self.check(targets, outputs.images, outputs.shape[1:], backend.dtype))
        _check_stored(targets, outputs, outputs.channels)
        return backend.value_loss(self.kind, outputs, targets, self.delta, _room(totals, 1))


class MeanSquared(ValueLoss):
    """The mean of (output - target)**2."""

    kind = "mean_squared"


class MeanAbsolute(ValueLoss):
    """The mean of |output - target|; where they are equal the gradient is 0."""

    kind = "mean_absolute"


class Huber(ValueLoss):
    """The mean of d**2 / 2 if |d| <= delta, else delta * (|d| - delta / 2), d = output - target (Huber 1964)."""

    kind = "huber"
    _checks: ClassVar = {"delta": partial(arguments.number, above=0)}

    def __init__(self, delta: float = 1.0):
        self.delta = delta


class BinaryCrossEntropy(ValueLoss):
    """The mean of -(t * log(p) + (1 - t) * log(1 - p)), p the sigmoid of an output and t its target, from 0 to 1.

    Outputs are logits: the sigmoid is part of the loss, which therefore stays finite for any of them. The model is made
    with head="regressor": its predictions are logits, above 0 where p > 1/2, and `Trainer.predict` or
    `model.predict(images, finish=BinaryCrossEntropy().predict)` gives p.
    """

    recordable = True
    kind = "binary_cross_entropy"
    targets = "labels"

    def check(self, targets, images: int, output_shape: tuple[int, ...], dtype) -> np.ndarray:
        targets = super().check(targets, images, output_shape, dtype)
        wrong = np.argwhere((targets < 0) | (targets > 1))
        if wrong.size:
            raise DataError(
                f"the targets of image {wrong[0][0]} hold {targets[tuple(wrong[0])]}; give numbers from 0 to 1"
            )
        return targets

    def predict(self, outputs: Batch) -> Batch:
        """Probabilities, each output by itself."""
        return outputs.backend.elementwise("sigmoid", outputs)


def softmax_cross_entropy(
    logits: Batch, labels, totals: Array | None = None, *, label_smoothing: float = 0.0, class_weights=None
) -> tuple[Array, Batch]:
    """(loss, dlogits) of SoftmaxCrossEntropy(label_smoothing, class_weights)."""
    return SoftmaxCrossEntropy(label_smoothing, class_weights)(logits, labels, totals)


def _positive_weights(weights) -> list[float]:
    """The weights as floats; raises ConfigurationError unless all are above 0."""
    expected = 'a number above 0 for each class, or "balanced"'
    numbers = arguments.sequence("class_weights", weights, expected)
    if not numbers:
        raise ConfigurationError(f"class_weights is {arguments.shown(weights)}; give {expected}")
    return [arguments.number(f"class_weights[{i}]", value, above=0) for i, value in enumerate(numbers)]


def _is_loaded(labels: Any, outputs: Batch) -> bool:
    """Whether these are the labels of `outputs` as `load_labels` gives them. Others of two axes are the caller's
    mistake: a column, or one-hot rows.
    """
    lanes = outputs.backend.lanes
    loaded = (-(-outputs.images // lanes), lanes)
    return isinstance(labels, outputs.backend.xp.ndarray) and labels.dtype == np.int32 and labels.shape == loaded


def _check_stored(targets: Batch, outputs: Batch, channels: int) -> None:
    """Raises unless these are targets of so many channels for `outputs`, stored where they are: kernels do not look."""
    expected = outputs.images, channels, *outputs.spatial
    if targets.backend is not outputs.backend:
        raise ConfigurationError("the targets are on another backend than the outputs; pack them on outputs.backend")
    if targets.shape != expected:
        raise ShapeError(f"targets have shape {targets.shape}; the outputs' shape, {outputs.shape}, needs {expected}")


def _room(totals: Array | None, count: int) -> Array | None:
    """The first `count` of totals. Raises ConfigurationError for fewer, which a loss of the user's may hand on: kernels
    write them all.
    """
    if totals is None:
        return None
    if totals.shape < (count,) or totals.dtype != np.float64:
        raise ConfigurationError(
            f"totals is {totals.dtype} of shape {totals.shape}; this loss adds to {count} float64 numbers: a loss that "
            "hands its totals to another one needs its `counts`"
        )
    return totals[:count]


def _ignore_index(index: int | None) -> int | None:
    return None if index is None else arguments.integer("ignore_index", index, -(1 << 31), (1 << 31) - 1)
