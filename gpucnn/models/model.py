"""A model: a layer with its parameters, gradients and running statistics in three flat buffers."""

import copy
import hashlib
import json
import math
import re
import weakref
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from itertools import accumulate
from typing import Any

import numpy as np

from gpucnn import arguments as check
from gpucnn.backends import get_backend
from gpucnn.backends.augmentation import NO_AUGMENTATION, Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.memory import unshared
from gpucnn.backends.protocol import Backend
from gpucnn.data.mapped import Mapped
from gpucnn.errors import CheckpointError, ConfigurationError, DTypeError, ShapeError
from gpucnn.initializers import draw
from gpucnn.layers import whitening
from gpucnn.layers.base import Backward, Layer, Mode, Parameter, Statistic
from gpucnn.layers.own import label
from gpucnn.layers.shared import Shared, share
from gpucnn.layers.whitening import Whitening2d
from gpucnn.models.heads import CLASSIFIER, REGRESSOR
from gpucnn.models.inputs import check_images
from gpucnn.models.naming import check_pattern, matches
from gpucnn.models.plans import Plans, softmax, values
from gpucnn.models.weights import Weights
from gpucnn.optimizers import Piece
from gpucnn.recordable import Recordable, is_ours

# Every parameter starts at a multiple of 16 floats, 64 bytes, so that kernels may load vectors from its start. The gaps
# stay zero because their gradient is zero.
_ALIGN = 16
_FEW_CHANNELS = 4
_PLAIN = (bool, int, float, str, type(None))  # settings that files can hold


class Model(Recordable):
    """`layer` built for images of `input_shape` (C, H, W).

    `values`, `grads` and `statistics` are flat arrays, float32 on the host until `place` moves them to a backend; every
    Parameter and Statistic holds a view of its part. `build_model(name, **arguments)` makes the model again; files
    store `name` and `arguments`, and `class_names` if set. `structure` is the layers with their settings as text.
    `head` is "classifier" if the outputs are scores of classes, "regressor" if they are values.

    `image_shape`, `mean` and `std` set how images are prepared: larger ones are center-cropped, and with one mean and
    one std per channel, both set or both None, they are normalized, (x - mean) * (1 / std). Training sets them, files
    store them. By default images are of `input_shape` and taken unchanged.

    Raises ShapeError, naming the layer, if sizes do not fit.
    """

    recordable = True
    _fixed = ("input_shape", "output_shape", "structure", "layer")

    def __init__(
        self,
        layer: Layer,
        input_shape: tuple[int, ...],
        name: str = "custom",
        arguments: dict | None = None,
        head: str = CLASSIFIER,
    ):
        self.head = head
        if isinstance(layer, (list, tuple)):
            raise ConfigurationError("a model is made of one layer: of a list write Model(Sequential(*layers), ...)")
        self.layer = check.instance("layer", layer, Layer, "a layer, such as Sequential(...)")
        self.name = name
        self.arguments = _storable(arguments)
        self.input_shape = check.image_shape("input_shape", input_shape)
        self.class_names: list[str] | None = None
        self.image_shape = self.input_shape
        self.mean: tuple[float, ...] | None = None
        self.std: tuple[float, ...] | None = None
        _refuse_endless(layer, {}, set())
        self._share_layers()
        layer.name = ""
        try:
            self.output_shape = layer.connect(self.input_shape)
        except ShapeError as error:
            raise ShapeError(f"{error}{_channels_first(self.input_shape)}") from None
        self.structure = _structure(layer)  # as built: settings may change later (changed_settings)
        self.mode = Mode()
        self.parameters: list[Parameter] = []
        self.running: list[Statistic] = []
        self._collect()
        self._built = {part.name: part._settings(_PLAIN) for part in layer.walk()}
        self._group: weakref.WeakSet[Model] = weakref.WeakSet([self])  # models with the same buffers
        self._drawn = not self.parameters  # or loaded; else all that is not zero was set by hand
        self.backend: Any = None  # a Backend once placed
        self._unused: Any = None  # the gradients of frozen parameters
        self._plans = Plans()
        self._bind(Weights(*(np.zeros(size, np.float32) for size in self._sizes())))
        for statistic in self.running:
            statistic.value[...] = statistic.initial

    def __setattr__(self, name: str, value: Any) -> None:
        if "_weights" in vars(self):  # made
            public = sorted(known for known in vars(self) if known[0] != "_")
            check.refuse_attribute(self, name, f"it has {', '.join(public)} and trainable")
            if name in ("values", "grads", "statistics"):
                if value is getattr(self, name):  # of model.values += ...
                    return
                raise ConfigurationError(f"the model keeps its own {name}; copy into them: model.{name}[...] = array")
        value = self._checked(name, value)
        if name in ("mean", "std"):  # they belong to the weights, which other sizes share
            for model in vars(self).get("_group", ()):
                object.__setattr__(model, name, value)
        super().__setattr__(name, value)

    def _checked(self, name: str, value: Any) -> Any:
        """The value of an attribute that files store as they will hold it: what is saved can be loaded again."""
        if name in ("mean", "std") and value is not None:
            above = 0 if name == "std" else None
            return check.each_channel(f"the model's {name}", value, self.input_shape[0], above=above)
        if name == "class_names" and value is not None:
            return check.names("class_names", value, self.output_shape[0])
        if name == "arguments":
            return _storable(value)
        if name == "image_shape":
            given, (channels, *sizes) = check.image_shape(name, value), self.input_shape
            if given[0] != channels or len(given) != 1 + len(sizes) or any(map(int.__lt__, given[1:], sizes)):
                raise ShapeError(
                    f"image_shape is {given}; images are cropped to the network's input, so give {self.input_shape}, "
                    f"or larger ones with {channels} channel{'s' * (channels > 1)}"
                )
            return given
        if name == "head":
            return check.one_of(name, value, (CLASSIFIER, REGRESSOR))
        if name == "name" and not check.text(name, value):
            raise check.refuse(name, value, "what files and pictures are to call the model")
        return value

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: the weights on the host, no backend and no gradients."""
        host = np.array if self.backend is None else self.backend.host
        weights = host(self.values), None, host(self.statistics)
        return {**vars(self), "_weights": weights, "backend": None, "_group": None, "_unused": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        values, _, statistics = state["_weights"]
        vars(self).update(state, _group=weakref.WeakSet([self]))
        for layer in self.layer.walk():
            layer._in_model = True
        self._bind(Weights(unshared(values), np.zeros(values.shape, values.dtype), unshared(statistics)))

    def __deepcopy__(self, memo: dict) -> "Model":
        """An independent model with the same weights, statistics and settings, on the same backend."""
        fresh = memo[id(self)] = object.__new__(type(self))
        fresh.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return fresh if self.backend is None else fresh.place(self.backend)

    def __copy__(self) -> "Model":
        raise ConfigurationError("a model's layers belong to it alone: take copy.deepcopy, or gpucnn.models.at_size")

    def _share_layers(self) -> None:
        """Prepare the layers that occur several times. Raises ConfigurationError for one of another model."""
        seen: set[int] = set()
        for layer in self.layer.walk():
            if id(layer) in seen:
                share(layer)
            if isinstance(layer, Shared):
                layer.reset()
            if layer._in_model:
                raise ConfigurationError(
                    f"{label(layer)} is part of a model already, whose weights it holds; make a new one for another "
                    "model, or take copy.deepcopy of it"
                )
            seen.add(id(layer))

    def _collect(self) -> None:
        names: dict[int, str] = {}
        layers = list(self.layer.walk())
        _refuse_taken(layers)
        for number, layer in enumerate(layers):
            if id(layer) in names:
                continue
            names[id(layer)] = layer.name
            layer.mode, layer.number, layer._in_model = self.mode, number, True
            layer.name_children()
            prefix = f"{layer.name}." if layer.name else ""
            for name, part in (*layer.parameters(), *layer.statistics()):
                part.name = prefix + name
            self.parameters += (parameter for _, parameter in layer.parameters())
            self.running += (statistic for _, statistic in layer.statistics())
        for layer in layers:
            layer.name = names[id(layer)]  # that of its first place

    def _sizes(self) -> tuple[int, int, int]:
        weights, statistics = (_starts(parts)[-1] for parts in (self.parameters, self.running))
        return weights, weights, statistics

    def _bind(self, weights: Weights) -> None:
        self._weights = weights
        for p, grad in zip(self.parameters, self.split(weights.grads).values(), strict=True):
            p.bind("grad", grad)
        for parts in (self.parameters, self.running):
            weights.bind(parts, _starts(parts)[:-1], statistics=parts is self.running)

    @property
    def values(self):
        """All parameters one after the other, each from a multiple of 64 bytes on; an array on the backend."""
        return self._weights.values

    @property
    def grads(self):
        """Their gradients, likewise."""
        return self._weights.grads

    @property
    def statistics(self):
        """All running statistics, likewise."""
        return self._weights.statistics

    def split(self, flat) -> dict:
        """Views of a flat array as long as `values`, such as an optimizer's state: one per parameter, by name."""
        return _views(flat, self.parameters)

    # ---- frozen layers -----------------------------------------------------------------------------------------------

    @property
    def trainable(self) -> bool:
        """Whether training changes any layer; setting it freezes or unfreezes all of them."""
        return self.layer.trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self.layer.trainable = value

    def freeze(self, *patterns: str) -> list[str]:
        """Exclude the layers that `patterns` match from training, all without a pattern; returns their names.

        A pattern is a layer's name, "4", which includes the layers in it, or has a * for any characters, "4.*". See
        `Layer.trainable` for what a frozen layer does. Raises ConfigurationError for one that matches no layer with
        parameters.
        """
        return self._set_trainable(patterns, False)

    def unfreeze(self, *patterns: str) -> list[str]:
        """The opposite of `freeze`."""
        return self._set_trainable(patterns, True)

    @property
    def frozen(self) -> list[str]:
        """The names of the layers with parameters that training does not change."""
        return [name for name, layer in self.holders().items() if not layer._trainable]

    @frozen.setter
    def frozen(self, names: list[str]) -> None:
        holders, names = self.holders(), check.sequence("frozen", names, 'a list of layers\' names, such as ["0", "3"]')
        if unknown := set(names) - set(holders):
            raise ConfigurationError(f"{self.name} has no layer with parameters called {min(unknown)!r}")
        for name, layer in holders.items():
            layer._trainable = name not in names
        self.mode.freezes += 1

    @property
    def changed_settings(self) -> dict[str, dict[str, Any]]:
        """The settings that layers have now and were not built with, as far as they are numbers, truths or text: by
        layer's name, then by setting's. Files store them. Setting it changes those that it names; raises
        ConfigurationError, before it changes any, for one that no layer was built with.
        """
        changed = {}
        for layer in self.layer.walk():
            built = self._built[layer.name]
            now = layer._settings(_PLAIN).items()
            changed[layer.name] = {name: value for name, value in now if name in built and value != built[name]}
        return {layer: settings for layer, settings in changed.items() if settings}

    @changed_settings.setter
    def changed_settings(self, changed: dict[str, dict[str, Any]]) -> None:
        layers = {layer.name: layer for layer in self.layer.walk()}
        for layer, settings in changed.items():
            for name, value in settings.items():
                if not isinstance(value, _PLAIN) or name not in self._built.get(layer, {}):
                    raise ConfigurationError(f"layer {layer} was built without such a {name} as {check.shown(value)}")
        for layer, settings in changed.items():
            for name, value in settings.items():
                setattr(layers[layer], name, value)

    def holders(self) -> dict[str, Layer]:
        """The layers that have parameters, by name."""
        return {layer.name: layer for layer in self.layer.walk() if any(True for _ in layer.parameters())}

    def _set_trainable(self, patterns: tuple[str, ...], value: bool) -> list[str]:
        holders = self.holders()
        for pattern in patterns:
            check_pattern(pattern, holders, f"layer with parameters of {self.name}")
        chosen = [name for name in holders if not patterns or any(matches(pattern, name) for pattern in patterns)]
        for name in chosen:
            holders[name]._trainable = value
        self.mode.freezes += 1
        return chosen

    def pieces(self, factors: dict[str, float] | None = None) -> list[Piece]:
        """The parts of the flat buffers that training changes, for `Optimizer.divide`.

        `factors` maps patterns of layer or parameter names to factors of the learning rate; the first that matches a
        parameter counts, and 1 where none does. Raises ConfigurationError for a pattern that matches nothing.
        """
        factors = factors or {}
        for pattern in factors:
            check_pattern(pattern, [p.name for p in self.parameters], f"layer or parameter of {self.name}")
        frozen = {id(p) for layer in self.layer.walk() if not layer._trainable for _, p in layer.parameters()}
        pieces: list[Piece] = []
        start = 0
        for p in self.parameters:
            stop = start + _padded(p)
            factor = next((factors[pattern] for pattern in factors if matches(pattern, p.name)), 1.0)
            if id(p) not in frozen:
                if pieces and pieces[-1][1:] == (start, factor):
                    start, _, _ = pieces.pop()
                pieces.append((start, stop, factor))
            start = stop
        return pieces

    def check_trainable(self) -> None:
        """Raises ConfigurationError if all layers are frozen."""
        if self.parameters and not self.pieces():
            raise ConfigurationError("all layers are frozen, so nothing would be trained; unfreeze some of them")

    def prepare_training(self) -> None:
        """Gradients of frozen parameters go nowhere from now on, and their part of `grads` is zero; no gradient is
        computed that only they or the images would need. Raises ConfigurationError if all layers are frozen.
        """
        self.check_trainable()
        holders = self.holders().values()
        frozen = [p for layer in holders if not layer._trainable for _, p in layer.parameters()]
        if frozen or self._unused is not None:
            for p, grad in zip(self.parameters, self.split(self.grads).values(), strict=True):
                p.bind("grad", grad)
            # A layer of the user's may write them all the same.
            self._unused = self.backend.zeros((max(map(_padded, frozen)),)) if frozen else None
            for p in frozen:
                p.bind("grad", self._unused[: math.prod(p.shape)].reshape(p.shape))
            self.backend.assign(self.grads, np.zeros(self.grads.shape, self.grads.dtype))
        self.layer.need_input_gradient(False)

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(p.shape) for p in self.parameters)

    @property
    def preparation(self) -> Augmentation:
        """The preprocessing of every image before the first layer; ConfigurationError for a mean without a std."""
        if (self.mean is None) != (self.std is None):
            there, missing = ("mean", "std") if self.std is None else ("std", "mean")
            raise ConfigurationError(f"the model has a {there} but no {missing}; set both, or both to None")
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

    @property
    def initialized(self) -> bool:
        """Whether the model has weights: drawn, trained, loaded or set by hand."""
        return self._drawn or self._weights.any()

    def initialize_new(self, seed: int) -> None:
        """`initialize` a model without weights. Raises ConfigurationError where some were set by hand and others, which
        would not be drawn as 0, are 0 still.
        """
        if not self.initialized:
            self.initialize(seed)
        elif not self._drawn:
            weights = self._host_values()
            for p in self.parameters:
                if p.initializer != 0 and not weights[p.name].any():
                    raise ConfigurationError(
                        f"{p.name} is 0 and other weights were set by hand; call model.initialize(seed=0) before you "
                        "set weights"
                    )

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
        frozen = set(self.frozen)
        lines = [f"  {layer.name:{width}}  {layer.describe()}{', frozen' * (layer.name in frozen)}" for layer in layers]
        size = "x".join(map(str, self.image_shape))
        return "\n".join([f"{self.name}, images of {size}, {self.parameter_count:,} parameters", *lines])

    def place(self, backend) -> "Model":
        """Move the buffers to `backend` with their values; returns the model itself."""
        check.instance("backend", backend, Backend, 'a backend, such as gpucnn.get_backend("numba")')
        if backend is self.backend:
            return self
        turn = self._weights.turn
        turn.check(backend)
        values = self._host_values()
        weights = Weights(*(backend.zeros((size,)) for size in self._sizes()))
        weights.turn = turn
        for model in list(self._group):
            model._bind(weights)
            model.backend = backend
            model.mode.step = backend.zeros((1,), np.uint32)
            model._place_shared()
        self._write(values)
        return self

    def _place_shared(self) -> None:
        for layer in self.layer.walk():
            if isinstance(layer, Shared):
                layer.place(self.backend)

    def adopt(self, other: "Model") -> None:
        """Let `other`, whose parameters have the same shapes, use this model's buffers from now on."""
        self._group.add(other)
        other._group = self._group
        other._bind(self._weights)
        other.backend, other._drawn = self.backend, self._drawn
        if self.backend is not None:
            other.mode.step = self.backend.zeros((1,), np.uint32)
            other._place_shared()

    def __call__(self, x) -> tuple[Batch, Backward]:
        """(y, backward). x is a Batch of the model's backend, or a plain array (N, *image_shape) from the host.

        Arrays are preprocessed (`preparation`), Batches are not. A model not yet placed goes to the fastest usable
        backend.
        """
        self.check_initialized()
        if not isinstance(x, Batch):
            x = self.batch(x)
        if x.backend is not self.backend:
            raise ConfigurationError("the batch is on another backend than the model; call model.place(x.backend)")
        y, backward = self.layer(x)
        expected, stored, dtype = y.shape, y.data.shape, self.backend.dtype

        def checked_backward(dy: Batch) -> Batch | None:
            """Kernels look at neither the shape nor the type of the gradient."""
            if dy is None:
                raise ConfigurationError(
                    "the gradient is None; give a batch of the model's backend. If another model's backward pass "
                    "returned it, call model.layer.need_input_gradient(True) of that one after its prepare_training()"
                )
            if not isinstance(dy, Batch) or dy.backend is not self.backend:
                raise check.refuse("the gradient", dy, "a batch of the model's backend, such as y.backend.pack(array)")
            if dy.shape != expected or dy.data.shape != stored:
                raise ShapeError(f"the gradient has shape {dy.shape}; the outputs it belongs to have {expected}")
            if dy.data.dtype != dtype:
                raise DTypeError(f"the gradient is {dy.data.dtype}; compute it in {np.dtype(dtype)}")
            self.mode.passed.clear()
            return backward(dy)

        return y, checked_backward

    def batch(self, images) -> Batch:
        """Plain images (N, *image_shape), checked and preprocessed, as a batch on the model's backend."""
        if self.backend is None:
            self.place(get_backend())
        images = check_images(images, self.image_shape, self.backend.dtype)
        if self.preparation == NO_AUGMENTATION:
            return self.backend.pack(images)
        indices = self.backend.array(np.arange(len(images), dtype=np.int64))
        return self.backend.load_images(self.backend.array(images), indices, len(images), self.preparation)

    def predict(
        self, images, batch_size: int = 256, finish: Callable[[Batch], Batch] | None = None, *, flips: bool = False
    ) -> np.ndarray:
        """Class probabilities (N, classes) of images (N, *image_shape), or a regressor's values (N, outputs), on the
        host.

        In inference mode, `batch_size` images at a time, in the backend's type. `finish` maps the outputs to
        the result (None: softmax for a classifier). With `flips` the result is the mean of that for the images and for
        the images mirrored left to right; maps of the latter are mirrored back. Raises what a call raises for images
        that do not fit, and ConfigurationError for a model without weights yet.
        """
        if check.truth("flips", flips):
            return self._with_flips(images, batch_size, finish)
        self.check_initialized()
        batch_size = check.integer("batch_size", batch_size)
        if self.backend is None:
            self.place(get_backend())
        images = check_images(images, self.image_shape, self.backend.dtype, finite=False)
        if finish is not None and not callable(finish):
            raise check.refuse("finish", finish, "a function of a batch, or None")
        if finish is None:
            finish = softmax if self.head == CLASSIFIER else values
        return self._plans.predict(self, images, batch_size, finish)

    def _with_flips(self, images, batch_size: int, finish: Callable[[Batch], Batch] | None) -> np.ndarray:
        if len(self.image_shape) == 1:
            raise ConfigurationError(f"flips need images; this model takes (N, {self.image_shape[0]})")
        if isinstance(images, Mapped):
            images = images.take(np.arange(len(images)))
        plain = self.predict(images, batch_size, finish)
        mirrored = self.predict(np.ascontiguousarray(check.array("images", images)[..., ::-1]), batch_size, finish)
        if plain.ndim > 2 and plain.shape[2:] == self.output_shape[1:]:  # maps are mirrored as the images are
            mirrored = mirrored[..., ::-1]
        return (plain + mirrored) * plain.dtype.type(0.5)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies on the host of all parameters, then all running statistics, by name.

        Raises ConfigurationError for a model without weights yet.
        """
        self.check_initialized()
        return self._host_values()

    def check_initialized(self) -> None:
        """Raises ConfigurationError unless the model has weights: drawn, trained, loaded or set by hand."""
        if not self.initialized:
            raise ConfigurationError(
                f"{self.name} has no weights yet; draw them with model.initialize(seed=0), train it, or load some"
            )

    def _host_values(self) -> dict[str, np.ndarray]:
        host = np.array if self.backend is None else self.backend.host
        # Two transfers from the device, not one per parameter.
        return self.named(host(self.values), host(self.statistics))

    def named(self, values: np.ndarray, statistics: np.ndarray) -> dict[str, np.ndarray]:
        """Copies of the parts of flat host arrays like `values` and `statistics`, by name."""
        parts = ((values, self.parameters), (statistics, self.running))
        return {name: view.copy() for flat, own in parts for name, view in _views(flat, own).items()}

    def flat(self, state: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The opposite of `named`; the gaps are zero."""
        flats = np.zeros(self.values.shape, self.values.dtype), np.zeros(self.statistics.shape, self.statistics.dtype)
        for flat, own in zip(flats, (self.parameters, self.running), strict=True):
            for name, view in _views(flat, own).items():
                view[...] = state[name]
        return flats

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Set parameters and running statistics from `state`, arrays or tensors by name; raises CheckpointError unless
        names and shapes agree and all values are finite in float32.
        """
        check.instance("state", state, Mapping, "arrays by name; gpucnn.load reads files")
        state = {name: check.weights(name, value) for name, value in state.items()}
        expected = {part.name: part.shape for part in (*self.parameters, *self.running)}
        shapes = {name: value.shape for name, value in state.items()}
        if shapes != expected:
            wrong = next(name for name in (*expected, *shapes) if shapes.get(name) != expected.get(name))
            raise CheckpointError(
                f"these are not the weights of this model ({self.name}): {wrong} is {shapes.get(wrong, 'missing')} in "
                f"the weights and {expected.get(wrong, 'missing')} in the model"
            )
        self._write(state)
        for model in list(self._group):
            model._drawn = True

    def _write(self, state: dict[str, np.ndarray]) -> None:
        for flat, host in zip((self.values, self.statistics), self.flat(state), strict=True):
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


def _structure(layer: Layer) -> str:
    """The layers with their settings as text. With a layer of the user's among them, whose repr need not say what is
    in it, also each by itself.
    """
    text = repr(layer)
    if not all(map(is_ours, layer.walk())):
        for part in layer.walk():
            told = {name: _told(value) for name, value in part._settings(object).items() if value is not None}
            own = ", ".join(f"{name}={value}" for name, value in told.items() if value is not None)
            text += "; " + f"{part.name} {type(part).__name__}({own})".lstrip()  # the whole has no name
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)  # where a function or an object lies differs from process to process


def _told(value: Any) -> str | None:
    """A layer's setting as text: numbers, text, members of enums, dataclasses, and those among what a list or a
    dictionary holds. None for others.
    """
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(filter(None, map(_told, value)))}]"
    if isinstance(value, dict):
        entries = {repr(key): _told(entry) for key, entry in value.items()}
        return f"{{{', '.join(f'{key}: {entry}' for key, entry in sorted(entries.items()) if entry is not None)}}}"
    is_one = is_dataclass(value) and not isinstance(value, (type, Layer))
    return repr(value) if value is None or is_one or isinstance(value, (bool, int, float, str, Enum)) else None


def _storable(arguments: Any) -> dict[str, Any]:
    """A model's arguments, NumPy's numbers and arrays as Python's. Raises ConfigurationError for what JSON has not."""
    given = dict(check.instance("arguments", arguments, dict, "a dictionary", optional=True) or {})
    given |= {key: value.tolist() for key, value in given.items() if isinstance(value, (np.generic, np.ndarray))}
    try:
        json.dumps(given)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"arguments cannot be kept in a file: {error}; give numbers, text and lists") from None
    return given


def _refuse_endless(layer: Layer, around: dict[int, Layer], seen: set[int]) -> None:
    """Raises ConfigurationError for a layer that is part of itself, which has no end; `seen` are those that are not."""
    if id(layer) in around:
        kinds = " and ".join(sorted({type(layer).__name__, type([*around.values()][-1]).__name__}))
        raise ConfigurationError(
            f"a layer is part of itself, by way of {kinds}: a layer in another's attributes is part of it, so keep no "
            "reference there to a layer around it"
        )
    if id(layer) in seen:
        return
    for _, part in layer.children():
        _refuse_endless(part, around | {id(layer): layer}, seen)
    seen.add(id(layer))


def _refuse_taken(layers: list[Layer]) -> None:
    """Raises ConfigurationError for one parameter or statistic in two attributes, whose gradients would overwrite each
    other, and for one of another model or with an array of its own, which the model's would replace.
    """
    holders: dict[int, str] = {}
    for layer in {id(layer): layer for layer in layers}.values():
        for name, part in (*layer.parameters(), *layer.statistics()):
            here = f"{label(layer)} as {name}"
            if (there := holders.setdefault(id(part), here)) != here:
                raise ConfigurationError(
                    f"{there} and {here} hold the same {type(part).__name__}; give each its own, or put one layer in "
                    "both places: its gradients are added"
                )
            if part.value is not None:
                raise ConfigurationError(
                    f"{here} has an array already, another model's or its own; give the layer a new "
                    f"{type(part).__name__}, and set its value once the model is made"
                )


def _padded(part: Parameter | Statistic) -> int:
    return -(-math.prod(part.shape) // _ALIGN) * _ALIGN


def _starts(parts) -> list[int]:
    """Where parts begin in their flat array, and where it ends."""
    return [0, *accumulate(map(_padded, parts))]


def _views(flat, parts) -> dict:
    starts = zip(parts, _starts(parts)[:-1], strict=True)
    return {part.name: flat[start : start + math.prod(part.shape)].reshape(part.shape) for part, start in starts}


def a_model(model: Any) -> Model:
    """`model`, if it is one."""
    return check.instance("model", model, Model, "a gpucnn.Model, such as gpucnn.load(path)")


def _channels_first(shape: tuple[int, ...]) -> str:
    """What to say of a shape that no network fits and whose last axis looks like channels."""
    if len(shape) < 3 or not shape[-1] <= _FEW_CHANNELS < min(shape[:-1]):
        return ""
    return f"; if the channels are last in {shape}, give {(shape[-1], *shape[:-1])}, and images.transpose to that"
