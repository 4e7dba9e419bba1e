"""A model: a layer with its parameters, gradients and running statistics in three flat buffers."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn import arguments as check
from gpucnn.backends import get_backend
from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.errors import CheckpointError, ConfigurationError
from gpucnn.initializers import draw
from gpucnn.layers import whitening
from gpucnn.layers.base import Backward, Layer, Mode, Parameter, Statistic, label
from gpucnn.layers.whitening import Whitening2d
from gpucnn.models.heads import CLASSIFIER, REGRESSOR
from gpucnn.models.inputs import check_images
from gpucnn.models.plans import Plans, softmax, values
from gpucnn.recordable import Recordable

# Every parameter starts at a multiple of 16 floats, 64 bytes, so that kernels may load vectors from its start. The gaps
# stay zero because their gradient is zero.
_ALIGN = 16


class Model(Recordable):
    """`layer` built for images of `input_shape` (C, H, W).

    `values`, `grads` and `statistics` are flat arrays, float32 on the host until `place` moves them to a backend; every
    Parameter and Statistic holds a view of its part. `build_model(name, **arguments)` makes the model again; files
    store `name` and `arguments`, and `class_names` if set. `structure` is the layers with their settings as text.
    `head` is "classifier" if the outputs are scores of classes, "regressor" if they are values.

    `image_shape`, `mean` and `std` set how images are prepared: larger ones are center-cropped, and with one mean and
    one std per channel they are normalized, (x - mean) * (1 / std). Training sets them, files store them. By default
    images are of `input_shape` and taken unchanged.

    Raises ShapeError, naming the layer, if sizes do not fit.
    """

    recordable = True

    def __init__(
        self,
        layer: Layer,
        input_shape: tuple[int, ...],
        name: str = "custom",
        arguments: dict | None = None,
        head: str = CLASSIFIER,
    ):
        self.head = check.one_of("head", head, (CLASSIFIER, REGRESSOR))
        if isinstance(layer, (list, tuple)):
            raise ConfigurationError("a model is made of one layer: of a list write Model(Sequential(*layers), ...)")
        self.layer = check.instance("layer", layer, Layer, "a layer, such as Sequential(...)")
        self.name = check.text("name", name)
        self.arguments = dict(check.instance("arguments", arguments, dict, "a dictionary", optional=True) or {})
        self.input_shape = check.image_shape("input_shape", input_shape)
        self.class_names: list[str] | None = None
        self.image_shape = self.input_shape
        self.mean: tuple[float, ...] | None = None
        self.std: tuple[float, ...] | None = None
        self._checked_layers()
        layer.name = ""
        self.output_shape = layer.connect(self.input_shape)
        # As built: a user-defined layer may change its attributes later.
        self.structure = repr(layer)
        self.mode = Mode()
        self.parameters: list[Parameter] = []
        self.running: list[Statistic] = []
        self._collect()
        self.initialized = False
        self.backend: Any = None  # a Backend once placed
        self._plans = Plans()
        self._bind(*(np.zeros(size, np.float32) for size in self._sizes()))
        for statistic in self.running:
            statistic.value[...] = statistic.initial

    def _checked_layers(self) -> list[Layer]:
        """All layers. Raises ConfigurationError for one that occurs twice or is part of another model."""
        layers, seen = list(self.layer.walk()), set()
        for layer in layers:
            if id(layer) in seen:
                raise ConfigurationError(
                    f"{layer!r} is in the model twice; layers write their gradients, so none can be shared: make two"
                )
            if layer._in_model:
                raise ConfigurationError(
                    f"{label(layer)} is part of a model already, whose weights it holds; make a new one for another "
                    "model, or take copy.deepcopy of it"
                )
            seen.add(id(layer))
        return layers

    def _collect(self) -> None:
        for number, layer in enumerate(self._checked_layers()):
            layer.mode, layer.number, layer._in_model = self.mode, number, True
            layer.name_children()
            prefix = f"{layer.name}." if layer.name else ""
            for name, part in (*layer.parameters(), *layer.statistics()):
                part.name = prefix + name
            self.parameters += (parameter for _, parameter in layer.parameters())
            self.running += (statistic for _, statistic in layer.statistics())

    def _sizes(self) -> tuple[int, int, int]:
        weights, statistics = (sum(map(_padded, parts)) for parts in (self.parameters, self.running))
        return weights, weights, statistics

    def _bind(self, values, grads, statistics) -> None:
        self.values, self.grads, self.statistics = values, grads, statistics
        for p, value, grad in zip(self.parameters, self.split(values).values(), self.split(grads).values()):
            p.value, p.grad = value, grad
        for s, value in zip(self.running, _views(statistics, self.running).values()):
            s.value = value

    def split(self, flat) -> dict:
        """Views of a flat array as long as `values`, such as an optimizer's state: one per parameter, by name."""
        return _views(flat, self.parameters)

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(p.shape) for p in self.parameters)

    @property
    def preparation(self) -> Augmentation:
        """The preprocessing of every image before the first layer."""
        crop = None if self.image_shape == self.input_shape else self.input_shape[1:]
        return Augmentation(crop=crop, mean=self.mean, std=self.std)

    def initialize(self, seed: int) -> "Model":
        """Draw the initial weights (contract rule 10) and reset the running statistics; returns the model itself."""
        seed = check.seed(seed)
        values = {
            p.name: draw(p.initializer, p.shape, p.fan_in, p.fan_out, seed, ordinal)
            for ordinal, p in enumerate(self.parameters)
        }
        values |= {s.name: np.full(s.shape, s.initial, np.float32) for s in self.running}
        self.load_state_dict(values)
        return self

    def learn(self, images) -> "Model":
        """Give a Whitening2d at the start that has no filters yet those of images (N, *image_shape); returns the model
        itself. The Trainer calls it before the first step.
        """
        first = next(self.layer.leaves(), None)
        if isinstance(first, Whitening2d):
            state = self.state_dict()
            if not state[first.weight.name].any():
                self.load_state_dict(state | first.learned(self.batch(images[: whitening.IMAGES]).numpy()))
        return self

    def __repr__(self) -> str:
        """One line per layer."""
        layers = [layer for layer in self.layer.walk() if not layer.chain]
        width = max((len(layer.name) for layer in layers), default=0)
        lines = [f"  {layer.name:{width}}  {layer.describe()}" for layer in layers]
        size = "x".join(map(str, self.image_shape))
        return "\n".join([f"{self.name}, images of {size}, {self.parameter_count:,} parameters", *lines])

    def place(self, backend) -> "Model":
        """Move the buffers to `backend` with their values; returns the model itself."""
        if backend is self.backend:
            return self
        values = self.state_dict()
        self._bind(*(backend.zeros((size,)) for size in self._sizes()))
        self.backend = backend
        self.mode.step = backend.zeros((1,), np.uint32)
        self._write(values)
        return self

    def __call__(self, x) -> tuple[Batch, Backward]:
        """(y, backward). x is a Batch of the model's backend, or a plain array (N, *image_shape) from the host.

        Arrays are preprocessed (`preparation`), Batches are not. A model not yet placed goes to the fastest usable
        backend.
        """
        if not isinstance(x, Batch):
            x = self.batch(x)
        if x.backend is not self.backend:
            raise ConfigurationError("the batch is on another backend than the model; call model.place(x.backend)")
        return self.layer(x)

    def batch(self, images) -> Batch:
        """Plain images (N, *image_shape), checked and preprocessed, as a batch on the model's backend."""
        if self.backend is None:
            self.place(get_backend())
        images = check_images(images, self.image_shape, self.backend.dtype)
        if self.preparation == NO_AUGMENTATION:
            return self.backend.pack(images)
        indices = self.backend.array(np.arange(len(images), dtype=np.int64))
        return self.backend.load_images(self.backend.array(images), indices, len(images), self.preparation)

    def predict(self, images, batch_size: int = 256, finish: Callable[[Batch], Batch] | None = None) -> np.ndarray:
        """Class probabilities (N, classes) of images (N, *image_shape), or a regressor's values (N, outputs), on the
        host.

        In inference mode, `batch_size` images at a time, in the backend's type. `finish` maps the outputs to
        the result (None: softmax for a classifier). Raises what a call raises for images that do not fit.
        """
        batch_size = check.integer("batch_size", batch_size)
        if self.backend is None:
            self.place(get_backend())
        images = check_images(images, self.image_shape, self.backend.dtype, finite=False)
        if finish is not None and not callable(finish):
            raise check.refuse("finish", finish, "a function of a batch, or None")
        if finish is None:
            finish = softmax if self.head == CLASSIFIER else values
        return self._plans.predict(self, images, batch_size, finish)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies on the host of all parameters, then all running statistics, by name."""
        host = np.array if self.backend is None else self.backend.host
        # Two transfers from the device, not one per parameter.
        return {
            name: view.copy()
            for flat, parts in ((host(self.values), self.parameters), (host(self.statistics), self.running))
            for name, view in _views(flat, parts).items()
        }

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Set parameters and running statistics from `state`; raises CheckpointError unless names and shapes agree."""
        expected = {part.name: part.shape for part in (*self.parameters, *self.running)}
        shapes = {name: np.shape(value) for name, value in state.items()}
        if shapes != expected:
            wrong = next(name for name in (*expected, *shapes) if shapes.get(name) != expected.get(name))
            raise CheckpointError(
                f"these are not the weights of this model ({self.name}): {wrong} is {shapes.get(wrong, 'missing')} in "
                f"the weights and {expected.get(wrong, 'missing')} in the model"
            )
        self._write(state)
        self.initialized = True

    def _write(self, state: dict[str, np.ndarray]) -> None:
        for flat, parts in ((self.values, self.parameters), (self.statistics, self.running)):
            host = np.zeros(flat.shape, flat.dtype)
            for name, view in _views(host, parts).items():
                view[...] = state[name]
            if self.backend is None:
                flat[...] = host
            else:
                self.backend.assign(flat, host)

    def weights_sha256(self) -> str:
        """SHA-256 in hex of all parameters, little-endian, in order, then all running statistics (contract rule 11)."""
        digest = hashlib.sha256()
        for value in self.state_dict().values():
            digest.update(value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes())
        return digest.hexdigest()


def _padded(part: Parameter | Statistic) -> int:
    return -(-math.prod(part.shape) // _ALIGN) * _ALIGN


def _views(flat, parts) -> dict:
    views, start = {}, 0
    for part in parts:
        views[part.name] = flat[start : start + math.prod(part.shape)].reshape(part.shape)
        start += _padded(part)
    return views
