"""A model's shapes, sizes and costs, layer by layer."""

import math
from dataclasses import dataclass

from gpucnn.geometry import Field
from gpucnn.layers import Layer
from gpucnn.models.model import Model, a_model


@dataclass(frozen=True)
class Row:
    """One layer, or the sums of the whole model.

    `output` is its output's shape for one image; `parameters` counts weights and biases; `multiply_adds` those of
    convolutions and dense layers for one image, taps on padding included; `field` how many pixels of the image, (H, W),
    one output value sees; `dense_weights` the weights, without biases, that a fully connected layer between the same
    input and output would need (None for layers without multiply-adds; the sum in a total).
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
    """`rows`, one per layer, and their `total`; str() is a table."""

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
    receptive field is the largest of theirs. What a normalization sees through its statistics is not counted. Your
    own layer counts with its parameters; unless it defines `multiply_adds` and `receptive_field`, the former are those
    of the layers in it, and it is taken to see one value of its input if it keeps the map's size, else the whole image.
    """
    rows: list[Row] = []
    axes = len(a_model(model).input_shape) - 1
    field = _list(model.layer, Field.pixel(axes), model.input_shape[1:], rows)
    total = Row(
        "total",
        "",
        model.output_shape,
        model.parameter_count,
        sum(row.multiply_adds for row in rows),
        _visible(field, model.input_shape[1:]),
        sum(row.dense_weights or 0 for row in rows),
    )
    return Summary(model.name, model.input_shape, rows, total)


def _list(layer: Layer, field: Field, image: tuple[int, ...], rows: list[Row]) -> Field:
    """Append the rows of `layer`, whose input has receptive field `field`; returns its output's."""
    if layer.chain:
        for _, part in layer.children():
            field = _list(part, field, image, rows)
        return field
    if layer.split:
        for _, path in layer.children():
            _list(path, field, image, rows)
    after = layer.receptive_field(field, image)
    own = [layer] if layer.split else layer.walk()  # the paths of a split have rows of their own
    rows.append(
        Row(
            layer.name,
            type(layer).__name__,
            layer.output_shape,
            sum(math.prod(p.shape) for part in {id(part): part for part in own}.values() for _, p in part.parameters()),
            layer.multiply_adds() if layer.split else _multiply_adds(layer),
            _visible(after, image),
            layer.dense_weights(),
        )
    )
    return after


def _multiply_adds(layer: Layer) -> int:
    return layer.multiply_adds() or sum(_multiply_adds(part) for _, part in layer.children())


def _visible(field: Field, image: tuple[int, ...]) -> tuple[int, ...]:
    """The field's size, limited to the image: a window may reach past it."""
    return tuple(map(min, field.size, image))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (row.parameters, row.multiply_adds, row.dense_weights)
    parameters, multiply_adds, dense = ("" if number is None else f"{number:,}" for number in numbers)
    return row.name, row.kind, _shape(row.output), parameters, multiply_adds, _shape(row.field or ()), dense


def _aligned(cells: tuple[str, ...], widths: list[int]) -> list[str]:
    """Text aligned left, numbers right."""
    return [cell.ljust(width) if i < 3 else cell.rjust(width) for i, (cell, width) in enumerate(zip(cells, widths))]
