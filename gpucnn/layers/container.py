"""Layers made of layers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from gpucnn.arguments import instance
from gpucnn.backends.batch import Batch
from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.geometry import Field, seen
from gpucnn.layers.activation import check_activation, finish, onnx_activation, torch_activation
from gpucnn.layers.base import Backward, Layer, Shape
from gpucnn.layers.conv import Conv1d, Conv2d, Conv3d
from gpucnn.layers.counterparts import Graph, TorchModule, torch_modules
from gpucnn.layers.norm import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
from gpucnn.layers.pool import MaxPool1d, MaxPool2d, MaxPool3d

# With a max pooling that follows they are one operation; exactly these classes: a subclass may compute something else.
_POOLED = Conv1d, Conv2d, Conv3d, BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
_POOLS = MaxPool1d, MaxPool2d, MaxPool3d


class Sequential(Layer):
    """Layers applied in order; without any, x itself. They are called "0", "1" ... in parameter names."""

    recordable = chain = True

    def __init__(self, *layers: Layer):
        for layer in layers:
            if isinstance(layer, (list, tuple)):
                raise ConfigurationError("Sequential takes the layers themselves: of a list write Sequential(*layers)")
            instance("each layer of Sequential", layer, Layer, "a layer, such as Dense(10)")
        self.layers = layers

    def children(self) -> Iterator[tuple[str, Layer]]:
        return ((str(i), layer) for i, layer in enumerate(self.layers))

    def build(self, shape: Shape) -> Shape:
        for layer in self.layers:
            shape = layer.connect(shape)
        return shape

    def need_input_gradient(self, needed: bool) -> None:
        self.input_gradient = needed
        for layer in self.layers:
            layer.need_input_gradient(needed)
            needed = needed or layer.learns()  # the layers after it need dx to reach this one's parameters

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        return self.apply(self.layers, x)

    @staticmethod
    def apply(layers: Sequence[Layer], x: Batch) -> tuple[Batch, Callable[..., Batch | None]]:
        """(y, backward) of the layers in order; backward takes a batch `plus` that it adds to dx."""
        steps: list[Callable[..., Batch | None]] = []
        adds = False  # whether the first step can add to its dx
        pairs: Iterator[Any] = iter(zip(layers, (*layers, None)[1:], strict=True))
        for layer, following in pairs:
            if type(layer) in _POOLED and layer.activation == "relu" and type(following) in _POOLS:
                x, step = layer.with_max_pool(x, following.window)
                next(pairs)
            else:
                x, step = layer(x)
                adds = adds or (not steps and type(layer) is Conv2d)
            steps.append(step)

        def backward(dy: Batch | None, plus: Batch | None = None) -> Batch | None:
            for number, step in reversed(list(enumerate(steps))):
                if plus is not None and number == 0 and adds:
                    return step(dy, plus)
                dy = step(dy)
                if dy is None:  # no input gradient is needed before the first layer with parameters
                    break
            return dy if dy is None or plus is None else dy.backend.add(dy, plus)

        return x, backward

    def receptive_field(self, field: Field, image: Shape) -> Field:
        for layer in self.layers:
            field = layer.receptive_field(field, image)
        return field

    def onnx(self, graph: Graph, x: str) -> str:
        for layer in self.layers:
            x = graph.add(layer, x)
        return x

    def pytorch(self) -> list[TorchModule]:
        return [module for layer in self.layers for module in torch_modules(layer)]

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"


class Split(Layer):
    """Base of layers that apply each child to the same input and join the outputs."""

    split = True

    def need_input_gradient(self, needed: bool) -> None:
        self.input_gradient = needed
        for _, layer in self.children():
            layer.need_input_gradient(needed)

    def receptive_field(self, field: Field, image: Shape) -> Field:
        """Along each axis the largest of the paths' fields."""
        paths = [layer.receptive_field(field, image) for _, layer in self.children()]
        return Field(tuple(max(axis, key=seen) for axis in zip(field.layers, *(path.layers for path in paths))))


class Residual(Split):
    """y = activation(body(x) + shortcut(x)); without a shortcut, body(x) + x (He et al. 2015)."""

    recordable = split = True
    _checks: ClassVar = {"activation": check_activation}

    def __init__(self, body: Layer, shortcut: Layer | None = None, activation: str | None = "relu"):
        self.body = instance("body", body, Layer, "a layer, such as Sequential(...)")
        self.shortcut = instance("shortcut", shortcut, Layer, "a layer, such as a 1x1 convolution", optional=True)
        self.activation = activation

    def build(self, shape: Shape) -> Shape:
        main = self.body.connect(shape)
        short = self.shortcut.connect(shape) if self.shortcut else shape
        if main != short:
            raise ShapeError(
                f"the body makes {main} of {shape} and the shortcut {short}; they are added, so they must agree: "
                "give a shortcut that makes the body's shape, such as a 1x1 convolution of the same stride"
            )
        return main

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        backend = x.backend
        short, short_backward = self.shortcut(x) if self.shortcut else (x, lambda dy: dy)
        if self._ends_in_batch_norm():
            *front, norm = self.body.layers
            main, front_backward = Sequential.apply(front, x)
            y, norm_backward = norm.with_addition(main, short, self.activation == "relu")

            def backward_of_both(dy: Batch) -> Batch | None:
                dmain, dshort = norm_backward(dy)
                dshort = short_backward(dshort)
                dx = front_backward(dmain, dshort if self.input_gradient else None)
                return dx if self.input_gradient else None

            return y, backward_of_both
        main, main_backward = self.body(x)
        y, activation_backward = finish(backend.add(main, short, relu=self.activation == "relu"), self.activation)

        def backward(dy: Batch) -> Batch | None:
            dy = activation_backward(dy)
            main_dx, short_dx = main_backward(dy), short_backward(dy)
            return backend.add(main_dx, short_dx) if self.input_gradient else None

        return y, backward

    def _ends_in_batch_norm(self) -> bool:
        """Whether the addition can be the end of the body's batch norm. Exactly these classes: a subclass may compute
        something else.
        """
        norm = self.body.layers[-1] if type(self.body) is Sequential and len(self.body.layers) > 1 else None
        if not isinstance(norm, BatchNorm) or type(norm) not in (BatchNorm, BatchNorm2d):
            return False
        return norm.activation is None and norm._uses_batch() and self.activation in (None, "relu")

    def onnx(self, graph: Graph, x: str) -> str:
        main = graph.add(self.body, x)
        short = graph.add(self.shortcut, x) if self.shortcut else x
        return onnx_activation(graph, graph.node("Add", main, short), self.activation)

    def pytorch(self) -> list[TorchModule]:
        parts = {"body": torch_modules(self.body), "shortcut": torch_modules(self.shortcut) if self.shortcut else []}
        return [TorchModule("Residual", parts=parts), *torch_activation(self.activation)]

    def __repr__(self) -> str:
        return f"Residual({self.body!r}, {self.shortcut!r}, activation={self.activation!r})"


class Concat(Split):
    """Each branch applied to the same x, the outputs concatenated along the channels: y = [a(x), b(x), ...].

    Branches differ in their channels alone; flat values (N, C) work too. `Sequential()` is a branch that passes x on.
    The input's gradient is the sum of the branches', added in their order. Branches are called "0", "1" ... in
    parameter names.
    """

    recordable = split = True

    def __init__(self, *branches: Layer):
        for layer in branches:
            instance("each branch of Concat", layer, Layer, "a layer, such as Sequential()")
        if not branches:
            raise ConfigurationError("Concat() has no branches; give at least one layer")
        self.branches = branches

    def children(self) -> Iterator[tuple[str, Layer]]:
        return ((str(i), layer) for i, layer in enumerate(self.branches))

    def build(self, shape: Shape) -> Shape:
        outputs = [layer.connect(shape) for layer in self.branches]
        for number, output in enumerate(outputs):
            if not output or output[1:] != outputs[0][1:]:
                raise ShapeError(
                    f"branch 0 makes {outputs[0]} of {shape} and branch {number} {output}; they are concatenated "
                    "along the channels, so all other sizes must agree"
                )
        return (sum(output[0] for output in outputs), *outputs[0][1:])

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        backend = x.backend
        outputs, backwards = zip(*(layer(x) for layer in self.branches))

        def backward(dy: Batch) -> Batch | None:
            dx, first = None, 0
            for output, step in zip(outputs, backwards, strict=True):
                part = step(backend.take_channels(dy, first, output.channels))
                first += output.channels
                if self.input_gradient:
                    dx = part if dx is None else backend.add(dx, part)
            return dx

        return backend.concatenate(list(outputs)), backward

    def onnx(self, graph: Graph, x: str) -> str:
        return graph.node("Concat", *(graph.add(layer, x) for layer in self.branches), axis=1)

    def pytorch(self) -> list[TorchModule]:
        return [TorchModule("Concat", parts={name: torch_modules(layer) for name, layer in self.children()})]

    def __repr__(self) -> str:
        return f"Concat({', '.join(map(repr, self.branches))})"
