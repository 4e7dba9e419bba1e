"""What a layer is: a callable that returns its output and its backward pass.

    y, backward = layer(x)
    dx = backward(dy)              # also writes the gradients of the layer's parameters

There is no tape and no global state; backward closes over what it needs. Your own layer is a class with such a
`__call__` (docs/your-own.md); if it has parameters or changes the shape, it also has a `build`:

    class Scale(Layer):
        def build(self, shape):                          # (C, *spatial), of one image
            self.factor = Parameter((1,), 1.0)
            return shape

        def __call__(self, x):
            xp, f = x.backend.xp, self.factor
            def backward(dy):
                f.grad[...] = xp.sum(dy.data * x.data * image_mask(x))   # written, not accumulated
                return dy.like(dy.data * f.value)
            return x.like(x.data * f.value), backward

A layer made of layers calls `connect` for each of them in its `build`.
"""

import dis
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from threading import local
from typing import Any, Self

import numpy as np

from gpucnn import arguments
from gpucnn.backends.batch import Batch
from gpucnn.errors import ConfigurationError, DTypeError, GpucnnError, ShapeError
from gpucnn.geometry import Field
from gpucnn.initializers import check_initializer
from gpucnn.layers.own import checked, label, notice_call
from gpucnn.recordable import Recordable, attributes, declaration, notice_change

Backward = Callable[[Batch], Batch | None]
Shape = tuple[int, ...]

_MOST = 2**63 - 1  # for products of sizes, which only memory limits

# Attributes of Layer itself; all others in an instance are settings or made by build.
_OWN = ("axes", "name", "mode", "number", "input_shape", "output_shape", "input_gradient", "window", "reach", "step")


# How other libraries exclude weights from training.
_FREEZING = ("trainable", "requires_grad", "frozen")


# What a model gives its parameters and statistics.
_BOUND = ("_place", "_value", "_weights", "grad")


class _Tensor:
    """Base of Parameter and Statistic. Setting an unknown attribute raises AttributeError.

    In a model an array that is assigned to `value` or `grad` is copied into the model's buffer; ShapeError or
    DTypeError for one that does not fit it.
    """

    __slots__ = ("_place", "_value", "_weights", "name", "shape")
    _weights: Any  # the model's gpucnn.models.weights.Weights, which has the value at `_place`; without one `_value`

    def __init__(self, shape: Shape):
        self.shape = tuple(shape)
        self.name = ""
        self._weights = self._place = self._value = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{self.name and ' '}{self.name} {self.shape}>"

    @property
    def value(self) -> Any:
        return self._value if self._weights is None else self._weights.given(self._place)

    @value.setter
    def value(self, value: Any) -> None:
        object.__setattr__(self, "_value", value)

    def __setattr__(self, name: str, value: Any) -> None:
        if not hasattr(type(self), name):
            slots = (slot for kind in type(self).__mro__ for slot in getattr(kind, "__slots__", ()))
            known = [*(slot for slot in slots if slot[0] != "_"), "value"]
            instead = (
                f"freeze its layer: model.freeze({self.name.rpartition('.')[0]!r}), or layer.trainable = False"
                if name in _FREEZING
                else f"it has {', '.join(known)}"
            )
            raise AttributeError(f"a {type(self).__name__} has no {name!r}; {instead}")
        held = getattr(self, name, None) if name in ("value", "grad") and getattr(self, "name", None) else None
        if held is None:
            self.bind(name, value)
        elif value is not held:
            self._copy(name, held, value)

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        """Of a copy, without the model's buffers; its own model binds it."""
        return None, attributes(self) | {name: None for name in _BOUND if hasattr(type(self), name)}

    def bind(self, name: str, value: Any) -> None:
        """Set an attribute itself; plans of inference notice other arrays."""
        object.__setattr__(self, name, value)
        notice_change()

    def _copy(self, name: str, held: Any, value: Any) -> None:
        if type(value) is not type(held):
            value = arguments.array(f"{self.name}.{name}", value)
        if value.shape != held.shape or value.dtype != held.dtype:
            raise (DTypeError if value.shape == held.shape else ShapeError)(
                f"{self.name}.{name} would be {value.dtype} of shape {value.shape}; assign {held.dtype} of shape "
                f"{held.shape}, which is copied into the model"
            )
        if type(value) is type(held):
            held[...] = value
        else:
            held.set(value)  # from the host to CuPy's array


class Parameter(_Tensor):
    """A trained tensor: `value` and `grad` are views of the model's flat buffers, set when the model is made.

    `initializer` is a name of gpucnn.initializers or a number; the named ones need fan_in and fan_out.
    """

    __slots__ = ("fan_in", "fan_out", "grad", "initializer")

    def __init__(self, shape: Shape, initializer: str | float = 0.0, fan_in: int = 0, fan_out: int = 0):
        super().__init__(_shape(shape))
        self.initializer = check_initializer(initializer)
        least = int(isinstance(self.initializer, str))  # the named ones divide by them
        self.fan_in = arguments.integer("fan_in", fan_in, least, _MOST)
        self.fan_out = arguments.integer("fan_out", fan_out, least, _MOST)
        self.grad: Any = None


class Statistic(_Tensor):
    """A running mean or variance that a layer keeps. `value` is a view of the model's flat buffer."""

    __slots__ = ("initial",)

    def __init__(self, shape: Shape, initial: float = 0.0):
        super().__init__(_shape(shape))
        self.initial = arguments.number("initial", initial)


def _shape(shape: Shape, name: str = "shape") -> Shape:
    sizes = arguments.sequence(name, shape, "a tuple of sizes, such as (3,)")
    return tuple(arguments.integer(f"each size of {name}", size, 1, _MOST) for size in sizes)


class Mode:
    """State shared by all layers of a model: training or inference, the seed, and the step number.

    `training` is that of the thread that asks: another one may predict in the middle of a training step. `step` is a
    uint32 array (1,) on the device, so that a recorded step draws new random numbers at each replay; a number that is
    assigned is written into it. `freezes` counts the changes of `trainable` in the model's layers.
    """

    def __init__(self):
        self._here = local()
        self.seed = 0
        self.step: Any = None
        self.freezes = 0

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy, which is on no backend yet and which no thread trains."""
        return {"seed": self.seed, "freezes": self.freezes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Mode.__init__(self)
        vars(self).update(state)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("seed", "step", "freezes", "training"):
            arguments.refuse_attribute(self, name, "it has training, seed and step")
        if name == "step" and isinstance(value, (int, np.integer)):
            if self.step is None:
                raise ConfigurationError("the step is counted on a backend; call model.place(backend) before")
            self.step[...] = arguments.integer("step", value, 0, 2**32 - 1)
            return
        super().__setattr__(name, value)

    @property
    def training(self) -> bool:
        return getattr(self._here, "training", False)

    @training.setter
    def training(self, value: bool) -> None:
        self._here.training = value

    @property
    def passed(self) -> dict[int, int]:
        """In how many of its places this thread's backward pass has been, by the layer's number."""
        return vars(self._here).setdefault("passed", {})


class Layer(Recordable):
    """Base of all layers; see the top of this module.

    The model sets `name` (dotted: "3" or "4.body.0"), `mode`, `number` (the layer's ordinal, for its random numbers),
    `input_shape` and `output_shape` (of one image). `recordable` says that the layer computes only with backend
    operations, so that a whole training step can be recorded and replayed; it is True for built-in layers.

    Summaries, exports and conversions ask the layer itself: the attributes below, and the methods from `multiply_adds`
    on. A declaration about what `__call__` computes is not inherited by a class that overrides it (`declaration`).
    """

    # Adds the layer's nodes to a graph (counterparts.Graph); takes the name of its input, returns that of its output.
    onnx: Callable[[Any, str], str] | None = None
    # The layer in PyTorch: counterparts.TorchModules, one after the other.
    pytorch: Callable[[], list] | None = None
    # A new layer, not yet built, that slides over larger maps with the same weights; takes the current map's size.
    sliding: "Callable[[Shape], Layer] | None" = None
    # A convolution's filters as (O, C/groups, *K), from the model's state dict.
    filter_weights: Callable[[dict[str, np.ndarray]], np.ndarray] | None = None
    local = False  # does the same at each position of a map of any size
    elementwise = False  # maps each value by itself
    chain = False  # applies its children one after the other
    split = False  # applies each of its children to its input, then joins the results
    # For the receptive field, set by build: how many neighboring inputs an output sees along each axis, and how many
    # inputs away the next output is.
    reach: tuple | None = None
    step: tuple = ()

    mode: Mode
    input_gradient = True
    name = ""
    number = 0
    input_shape: Shape = ()
    output_shape: Shape = ()
    _renamed = ("use_bias", "bias")  # an attribute, and what `__init__` calls it
    _in_model = False
    _trainable = True
    _adds = False  # whether it is in several places, whose gradients are added

    def __init_subclass__(cls, **settings: Any):
        super().__init_subclass__(**settings)
        if "__call__" in vars(cls) and not cls.__module__.startswith("gpucnn."):
            cls.__call__ = checked(vars(cls)["__call__"])  # type: ignore[method-assign]

    def __new__(cls, *_: Any, **__: Any) -> Self:
        arguments.refuse_frozen(cls)
        layer = super().__new__(cls)
        layer.mode = Mode()  # its own until it joins a model
        return layer

    def __getstate__(self) -> dict[str, Any]:
        """The attributes of a copy, which belongs to no model yet."""
        return {name: value for name, value in vars(self).items() if name not in ("_in_model", "_spares", "_minus_one")}

    def __setattr__(self, name: str, value: Any) -> None:
        if self._in_model:
            kind: Any = type(self)
            if name not in vars(self):
                known = ["trainable"] if name in _FREEZING else [*self._settings(), "trainable"]
                arguments.refuse_attribute(self, name, f"it has {', '.join(known)}")
            elif name not in _OWN and name in _settled(kind):
                raise ConfigurationError(
                    f"{label(self)} was built with {name}={arguments.shown(getattr(self, name))}, and what was built "
                    "would not change; make a model of a new layer, or change copy.deepcopy of this one first"
                )
        super().__setattr__(name, value)

    @property
    def trainable(self) -> bool:
        """Whether training changes the layer's parameters; of a layer made of layers, those of any of them.

        Set to False, it freezes the layer and all below it: no gradient of their parameters is computed, neither the
        optimizer nor its weight decay changes them, and batch norm uses its running statistics and keeps them, in
        training too. Dropout still drops.
        """
        holders = [layer for layer in self.walk() if any(True for _ in (*layer.parameters(), *layer.statistics()))]
        return any(layer._trainable for layer in holders or [self])

    @trainable.setter
    def trainable(self, value: bool) -> None:
        value = arguments.truth("trainable", value)
        for layer in self.walk():
            layer._trainable = value
            layer.mode.freezes += 1

    def build(self, shape: Shape) -> Shape:
        """Make the parameters for an input of `shape` (C, *spatial); returns the output's shape. Raises ShapeError."""
        return shape

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        """(y, backward)."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__(x) that returns (y, backward)")

    def gradients(self, dy: Batch, x: Any) -> Batch | None:
        """The backward pass alone: dx from dy at the input x, with the parameters' gradients written.

        Layers whose gradient does not depend on y override it to avoid computing y; x may be None if the gradient does
        not depend on its values either.
        """
        return self(x)[1](dy)

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(attribute name, parameter) of this layer alone, in the order in which build made them."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Parameter))

    def statistics(self) -> Iterator[tuple[str, Statistic]]:
        """(attribute name, statistic) of this layer alone."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Statistic))

    def children(self) -> Iterator[tuple[str, "Layer"]]:
        """(name, layer) of the layers that this one is made of: its attributes, "body", and those in its lists, tuples
        and dictionaries, "blocks.0".
        """
        for name, value in vars(self).items():
            yield from _found_in(name, value, Layer)

    def walk(self) -> Iterator["Layer"]:
        """This layer and all below it, in order."""
        yield self
        for _, child in self.children():
            yield from child.walk()

    def leaves(self) -> Iterator["Layer"]:
        """The layers that an input passes through in order, nested chains flattened."""
        if declaration(self, "chain"):
            for _, child in self.children():
                yield from child.leaves()
        else:
            yield self

    def learns(self) -> bool:
        """Whether training changes a parameter of this layer or of one below it."""
        return any(layer._trainable for layer in self.walk() if any(True for _ in layer.parameters()))

    def multiply_adds(self) -> int:
        """Multiply-adds for one image, taps on padding included; 0 if unknown."""
        return 0

    def dense_weights(self) -> int | None:
        """Weights, without biases, of a fully connected layer between the same input and output; None if there are
        no multiply-adds to replace.
        """
        return math.prod(self.input_shape) * math.prod(self.output_shape) if self.multiply_adds() else None

    def receptive_field(self, field: Field, image: Shape) -> Field:
        """What an output value sees of an image of `image` pixels if an input value sees `field`.

        By `reach` and `step`; without them one value of the input if the map's size is kept, else the whole image.
        """
        if self.reach is not None:
            return field.spread(self.reach, self.step)
        return field if self.output_shape[1:] == self.input_shape[1:] else Field.whole(image)

    def name_children(self) -> None:
        """Give each child its dotted name, which starts with this layer's. One that is there twice has the first."""
        for name, child in reversed(list(self.children())):
            child.name = f"{self.name}.{name}" if self.name else name

    def connect(self, shape: Shape) -> Shape:
        """Build this layer for images of `shape`; returns its output's shape. A layer made of layers calls this for
        each of them in its own `build`. Errors are prefixed with the layer's name.
        """
        self.name_children()
        self.input_shape = tuple(shape)
        try:
            self.output_shape = _shape(self.build(self.input_shape), "what build returned")
            self._refuse_hidden_parameters()
        except GpucnnError as error:
            if error.layer is None:  # a layer further down has already named itself
                error.args = (f"{label(self)}: {error}",)
                error.layer = self.name
            raise
        return self.output_shape

    def _refuse_hidden_parameters(self) -> None:
        """Raises ConfigurationError for parameters where nobody looks for them."""
        own = set(map(id, vars(self).values()))
        for name, value in vars(self).items():
            for place, found in _found_in(name, value, _Tensor):
                if id(found) not in own:
                    raise ConfigurationError(
                        f"{place} is a {type(found).__name__} in a {type(value).__name__}, where no model looks; make "
                        f"each an attribute of the layer: setattr(self, {place.replace('.', '')!r}, ...)"
                    )

    def need_input_gradient(self, needed: bool) -> None:
        """Whether backward must return dx. Training switches it off at the first layer: images need no gradient."""
        self.input_gradient = needed

    def check(self, x: Batch) -> None:
        """Raises ShapeError unless x has the shape that the layer was built for: backends do not check."""
        notice_call(self)
        if not self.output_shape:
            raise ShapeError(
                f"{label(self)} was not built; the layer that it is part of calls its connect(shape) in build"
            )
        if x.shape[1:] != self.input_shape:
            raise ShapeError(f"{label(self)} was built for images of shape {self.input_shape}, not {x.shape[1:]}")

    def _settings(self, kinds: type | tuple[type, ...] = (bool, int, float, str, tuple, list)) -> dict[str, Any]:
        own = ((name, value) for name, value in vars(self).items() if name not in _OWN and name[0] != "_")
        plain = ((name, value.item() if isinstance(value, np.generic) else value) for name, value in own)
        return {name: value for name, value in plain if isinstance(value, kinds)}

    def _argument(self, attribute: str) -> str:
        """What `__init__` calls it."""
        mine, given = self._renamed
        is_renamed = attribute == mine and attribute not in arguments.signature(type(self)).parameters
        return given if is_renamed else attribute

    def __repr__(self) -> str:
        settings = {self._argument(name): value for name, value in self._settings().items()}
        return arguments.call(type(self).__name__, settings)

    def describe(self) -> str:
        """The layer's class and its non-default settings, without the layers inside it."""
        defaults = {name: p.default for name, p in arguments.signature(type(self)).parameters.items()}
        settings = self._settings()
        shown = {
            argument: value
            for name, value in vars(self).items()
            # None instead of a default string turns something off, such as an activation.
            if name in settings or (value is None and isinstance(defaults.get(name), str))
            if not any(True for _ in _found_in(name, value, Layer))
            if (argument := self._argument(name)) not in defaults or defaults[argument] != value
        }
        return arguments.call(type(self).__name__, shown)


@functools.cache
def _settled(kind: type[Layer]) -> set[str]:
    """The attributes that a class's `build`, with the methods that it calls, reads and does not set."""
    read, made, methods = set[str](), set[str](), ["build"]
    for method in methods:  # grows
        for ancestor in kind.__mro__[: kind.__mro__.index(Layer)]:
            if inspect.isfunction(function := vars(ancestor).get(method)):
                for owner, step in pairwise(dis.get_instructions(function)):
                    names = owner.argval if isinstance(owner.argval, tuple) else (owner.argval,)  # one load, or two
                    if names[-1:] == function.__code__.co_varnames[:1]:  # self
                        read |= {step.argval} if step.opname in ("LOAD_ATTR", "LOAD_METHOD") else set()
                        made |= {step.argval} if step.opname == "STORE_ATTR" else set()
        methods += sorted(read - set(methods))
    return read - made


def image_mask(x: Batch):
    """True where a lane holds an image, False where it only fills up the last block: (block, 1, ..., 1, lane)."""
    blocks, *inner, lanes = x.data.shape
    return (x.backend.xp.arange(blocks * lanes) < x.images).reshape(blocks, *(1 for _ in inner), lanes)


def _found_in(name: str, value: Any, kind: type) -> Iterator[tuple[str, Any]]:
    """(place, object) of each object of `kind` that an attribute is or has in its lists, tuples and dictionaries."""
    if isinstance(value, kind):
        yield name, value
    elif isinstance(value, (list, tuple, dict)):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _found_in(f"{name}.{key}", entry, kind)
