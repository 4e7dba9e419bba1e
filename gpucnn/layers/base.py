"""What a layer is: a callable that returns its output and its backward pass.

    y, backward = layer(x)
    dx = backward(dy)              # also writes the gradients of the layer's parameters

There is no tape and no global state; what backward needs, it closes over. A layer of your own is a class with a
`__call__` like that (docs/your-own.md); if it has parameters or changes the shape, it also has a `build`:

    class Scale(Layer):
        def build(self, shape):                          # (C, *spatial), without the images
            self.factor = Parameter((1,), 1.0)
            return shape

        def __call__(self, x):
            xp, f = x.backend.xp, self.factor
            def backward(dy):
                f.grad[...] = xp.sum(dy.data * x.data * image_mask(x))   # written, not accumulated
                return dy.like(dy.data * f.value)
            return x.like(x.data * f.value), backward
"""

from collections.abc import Callable, Iterator
from typing import Any

from gpucnn.backends.batch import Batch
from gpucnn.errors import GpucnnError, ShapeError
from gpucnn.initializers import check_initializer
from gpucnn.recordable import Recordable

Backward = Callable[[Batch], Batch | None]
Shape = tuple[int, ...]

# What Layer itself keeps; everything else in an instance is a setting or made by build.
_OWN = ("name", "mode", "number", "input_shape", "output_shape", "input_gradient", "window", "reach", "step")


class _Bound:
    """A view of a flat buffer of the model; plans of inference find out if somebody gives it another array."""

    __setattr__ = Recordable.__setattr__


class Parameter(_Bound):
    """What training changes: `value` and `grad` are views of the model's flat buffers, set when the model is made.

    `initializer` is a name of gpucnn.initializers or a number; fan_in and fan_out are what the named ones need.
    """

    def __init__(self, shape: Shape, initializer: str | float = 0.0, fan_in: int = 0, fan_out: int = 0):
        self.shape = tuple(shape)
        self.initializer = check_initializer(initializer)
        self.fan_in, self.fan_out = fan_in, fan_out
        self.name = ""
        self.value: Any = None
        self.grad: Any = None


class Statistic(_Bound):
    """What a layer measures and keeps: running means and variances. `value` is a view of the model's flat buffer."""

    def __init__(self, shape: Shape, initial: float = 0.0):
        self.shape = tuple(shape)
        self.initial = initial
        self.name = ""
        self.value: Any = None


class Mode:
    """What all layers of one model share: training or inference, the seed, and the step number.

    `step` is a uint32 array (1,) on the device, so that a captured step draws new random numbers at each replay.
    """

    def __init__(self):
        self.training = False
        self.seed = 0
        self.step: Any = None


class Layer(Recordable):
    """Base of all layers; see the top of this module.

    The model sets `name` (dotted: "3" or "4.body.0"), `mode`, `number` (the layer's ordinal, for its random numbers),
    `input_shape` and `output_shape` (without the images). `recordable` says that all the layer computes goes through
    backend operations, so that a whole training step can be recorded and replayed; it is True for built-in layers.
    """

    mode: Mode
    input_gradient = True
    name = ""
    number = 0
    input_shape: Shape = ()
    output_shape: Shape = ()

    def __new__(cls, *_, **__):
        layer = super().__new__(cls)
        layer.mode = Mode()  # its own until a model gives it the model's
        return layer

    def build(self, shape: Shape) -> Shape:
        """From the input's shape (C, *spatial) the output's; makes the parameters. Raises ShapeError."""
        return shape

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        """(y, backward)."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__(x) that returns (y, backward)")

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(attribute name, parameter) of this layer alone, in the order in which build made them."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Parameter))

    def statistics(self) -> Iterator[tuple[str, Statistic]]:
        """(attribute name, statistic) of this layer alone."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Statistic))

    def children(self) -> Iterator[tuple[str, "Layer"]]:
        """(attribute name, layer) of the layers that this one is made of."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Layer))

    def walk(self) -> Iterator["Layer"]:
        """This layer and all below it, in order."""
        yield self
        for _, child in self.children():
            yield from child.walk()

    def need_input_gradient(self, needed: bool) -> None:
        """Whether backward must return dx. Training switches it off at the first layer: images need no gradient."""
        self.input_gradient = needed

    def check(self, x: Batch) -> None:
        """Raises ShapeError unless x has the shape that the layer was built for: backends do not look."""
        if x.shape[1:] != self.input_shape:
            raise ShapeError(f"{label(self)} was built for images of shape {self.input_shape}, not {x.shape[1:]}")

    def __repr__(self) -> str:
        settings = (
            f"{name}={value!r}"
            for name, value in vars(self).items()
            if name not in _OWN and name[0] != "_" and isinstance(value, (bool, int, float, str, tuple, list))
        )
        return f"{type(self).__name__}({', '.join(settings)})"


def image_mask(x: Batch):
    """True where a lane holds an image, False where it only fills up the last block: (block, 1, ..., 1, lane)."""
    blocks, *inner, lanes = x.data.shape
    return (x.backend.xp.arange(blocks * lanes) < x.images).reshape(blocks, *(1 for _ in inner), lanes)


def label(layer: Layer) -> str:
    """How errors and tables call a layer: 'layer 3 (Conv2d)'."""
    return f"layer {layer.name} ({type(layer).__name__})" if layer.name else type(layer).__name__


def connect(layer: Layer, shape: Shape, name: str) -> Shape:
    """Build `layer` under its dotted name and return its output's shape; an error gets the layer's name in front."""
    layer.name, layer.input_shape = name, tuple(shape)
    try:
        layer.output_shape = tuple(layer.build(layer.input_shape))
    except GpucnnError as error:
        if getattr(error, "layer", None) is None:  # a layer further down has named itself already
            error.args = (f"{label(layer)}: {error}",)
            error.layer = name
        raise
    return layer.output_shape
