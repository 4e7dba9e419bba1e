"""What a model is made of: shapes, sizes and costs, layer by layer."""

import math
from dataclasses import dataclass

from gpucnn.geometry import Field, conv_multiply_adds, conv_transpose_multiply_adds, dense_multiply_adds
from gpucnn.layers import (
    Concat,
    Convolution,
    Dense,
    Flatten,
    GlobalPool,
    Layer,
    Residual,
    Sequential,
    TransposedConvolution,
)
from gpucnn.models.model import Model

_SPLIT = (Residual, Concat)
_CONNECTED = (Convolution, TransposedConvolution, Dense)


@dataclass(frozen=True)
class Row:
    """One layer, or the sums of the whole model.

    `output` is its output's shape without the images; `parameters` counts weights and biases; `multiply_adds` those of
    convolutions and dense layers for one image, taps on padding included; `field` how many pixels of the image, (H, W),
    one output value sees; `dense_weights` the weights, without biases, that a fully connected layer between the same
    input and output would need (None for layers that have none to replace; their sum in a total).
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    field: tuple[int, ...] | None
    dense_weights: int | None


@dataclass(frozen=True)
class Summary:
    """`rows`, one a layer, and their `total`; as text a table."""

    model: str
    input_shape: tuple[int, ...]
    rows: list[Row]
    total: Row

    def __str__(self) -> str:
        head = ("layer", "kind", "output", "parameters", "multiply-adds", "receptive field", "if fully connected")
        lines = [head, *map(_cells, self.rows), _cells(self.total)]
        widths = [max(map(len, column)) for column in zip(*lines)]
        text = ["  ".join(_aligned(cells, widths)).rstrip() for cells in lines]
        rule = "-" * max(map(len, text))
        title = f"{self.model}, images of {_shape(self.input_shape)}"
        return "\n".join([title, rule, text[0], rule, *text[1:-1], rule, text[-1]])


def summary(model: Model) -> Summary:
    """The layers of `model` with output shape, parameters, multiply-adds, receptive field, and a dense layer's weights.

    The paths of a Residual or Concat are listed one after the other, their addition or concatenation after them; its
    receptive field is the largest of theirs. What a normalisation sees through its statistics is not counted. A layer
    of one's own counts with its parameters; its multiply-adds are not known and count as 0, and it is taken to see one
    value of its input where it keeps the map's size, else the whole.
    """
    rows: list[Row] = []
    axes = len(model.input_shape) - 1
    field = _list(model.layer, Field.pixel(axes), model.input_shape[1:], rows)
    total = Row(
        "total",
        "",
        model.output_shape,
        sum(row.parameters for row in rows),
        sum(row.multiply_adds for row in rows),
        _visible(field, model.input_shape[1:]),
        sum(row.dense_weights or 0 for row in rows),
    )
    return Summary(model.name, model.input_shape, rows, total)


def _list(layer: Layer, field: Field, image: tuple[int, ...], rows: list[Row]) -> Field:
    """Append the rows of `layer`, whose input has receptive field `field`; returns its output's."""
    if isinstance(layer, Sequential):
        for part in layer.layers:
            field = _list(part, field, image, rows)
        return field
    if isinstance(layer, _SPLIT):
        paths = [_list(path, field, image, rows) for _, path in layer.children()]
        size = tuple(max(sizes) for sizes in zip(field.size, *(path.size for path in paths)))
        after = Field(size, paths[0].jump)
    else:
        after = _after(layer, field, image)
    connections = math.prod(layer.input_shape) * math.prod(layer.output_shape)
    rows.append(
        Row(
            layer.name,
            type(layer).__name__,
            layer.output_shape,
            _parameters(layer),
            _multiply_adds(layer),
            _visible(after, image),
            connections if isinstance(layer, _CONNECTED) else None,
        )
    )
    return after


def _after(layer: Layer, field: Field, image: tuple[int, ...]) -> Field:
    window = getattr(layer, "window", None)
    if window is not None:
        return field.after(window)
    reach = getattr(layer, "reach", None)
    if reach is not None:
        return field.spread(reach, layer.step)
    same_map = layer.output_shape[1:] == layer.input_shape[1:]
    whole = isinstance(layer, (Dense, GlobalPool)) or not (same_map or isinstance(layer, Flatten))
    return Field(image, field.jump) if whole else field


def _visible(field: Field, image: tuple[int, ...]) -> tuple[int, ...]:
    """A window may reach past the image; what it sees of it is no more than all."""
    return tuple(min(math.ceil(size), pixels) for size, pixels in zip(field.size, image))


def _parameters(layer: Layer) -> int:
    """Of a layer and, for one's own, of those inside it; the paths of a Residual or Concat have rows of their own."""
    layers = [layer] if isinstance(layer, _SPLIT) else layer.walk()
    return sum(math.prod(p.shape) for part in layers for _, p in part.parameters())


def _multiply_adds(layer: Layer) -> int:
    if isinstance(layer, Convolution):
        return conv_multiply_adds(layer.input_shape[0], layer.out_channels, layer.window, groups=layer.groups)
    if isinstance(layer, TransposedConvolution):
        sizes = layer.input_shape[0], layer.out_channels, layer.backwards
        return conv_transpose_multiply_adds(*sizes, groups=layer.groups)
    if isinstance(layer, Dense):
        return dense_multiply_adds(layer.input_shape[0], layer.units)
    return 0


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (row.parameters, row.multiply_adds, row.dense_weights)
    parameters, multiply_adds, dense = ("" if number is None else f"{number:,}" for number in numbers)
    return row.name, row.kind, _shape(row.output), parameters, multiply_adds, _shape(row.field or ()), dense


def _aligned(cells: tuple[str, ...], widths: list[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    return [cell.ljust(width) if i < 3 else cell.rjust(width) for i, (cell, width) in enumerate(zip(cells, widths))]
