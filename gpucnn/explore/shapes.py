"""Shapes: a network put together layer by layer, what each layer makes of the shape before it, and its Python."""

import json
import math
from dataclasses import dataclass
from typing import Any

from gpucnn import layers
from gpucnn.errors import ConfigurationError, GpucnnError
from gpucnn.explore.body import Body
from gpucnn.layers import Layer, Sequential
from gpucnn.layers.activation import ACTIVATIONS
from gpucnn.models import Model
from gpucnn.summary import Row, summary

LAYERS, PARAMETERS = 40, 50_000_000  # at most
_MODES = "zeros", "reflect", "replicate", "circular"


@dataclass(frozen=True)
class Setting:
    """A setting of a layer as the page offers it: a whole number from `low` to `high`, or one of `choices`.

    `positional` settings stand first in Python, without their name; others are left out where they are the default.
    """

    name: str
    default: int | str
    low: int = 0
    high: int = 0
    choices: tuple[str, ...] = ()
    positional: bool = False

    def read(self, body: Body) -> int | str:
        """What a request sets it to; raises BadRequest."""
        if self.choices:
            return body.choice(self.name, self.choices, str(self.default))
        return body.integer(self.name, self.low, self.high, int(self.default))


def _number(name: str, default: int, low: int, high: int) -> Setting:
    return Setting(name, default, low, high)


def _first(name: str, default: int, high: int) -> Setting:
    return Setting(name, default, 1, high, positional=True)


_ACTIVATION = Setting("activation", "none", choices=("none", *ACTIVATIONS))
_POOL = _first("size", 2, 64), _number("stride", 0, 0, 64), _number("padding", 0, 0, 32)

KINDS: dict[str, tuple[Setting, ...]] = {
    "Conv2d": (
        _first("out_channels", 8, 1024),
        _first("kernel_size", 3, 64),
        _number("stride", 1, 1, 64),
        _number("padding", 0, 0, 64),
        _number("dilation", 1, 1, 32),
        _number("groups", 1, 1, 1024),
        Setting("padding_mode", "zeros", choices=_MODES),
        _ACTIVATION,
    ),
    "MaxPool2d": _POOL,
    "AvgPool2d": _POOL,
    "GlobalAvgPool2d": (),
    "BatchNorm": (_ACTIVATION,),
    "ReLU": (),
    "Tanh": (),
    "Dropout": (),
    "Upsample": (_first("scale", 2, 8),),
    "ConvTranspose2d": (
        _first("out_channels", 8, 1024),
        _first("kernel_size", 2, 64),
        _number("stride", 1, 1, 64),
        _number("padding", 0, 0, 64),
        _ACTIVATION,
    ),
    "Flatten": (),
    "Dense": (_first("units", 10, 100_000), _ACTIVATION),
}


def build(body: Body) -> dict[str, Any]:
    """The summary of `layers`, a list of {"kind", settings ...}, on images of {"channels", "height", "width"}.

    Where a layer does not fit, `refused` is the engine's sentence and `at` the layer's place in the list; the rows are
    those of the layers before it.
    """
    shape = (body.integer("channels", 1, 1024), body.integer("height", 1, 1024), body.integer("width", 1, 1024))
    found: list[tuple[str, dict[str, Any]]] = []
    answer: dict[str, Any] = {}
    for number, part in enumerate(body.objects("layers", LAYERS)):
        kind = part.choice("kind", KINDS)
        values = {setting.name: setting.read(part) for setting in KINDS[kind]}
        try:
            _check([_layer(*one)[0] for one in (*found, (kind, values))], shape)
        except GpucnnError as error:
            answer = {"refused": str(error), "at": number}
            break
        found.append((kind, values))
    made = [_layer(*one) for one in found]
    table = summary(Model(Sequential(*(layer for layer, _ in made)), shape))
    return {
        **answer,
        "rows": [_row(row) for row in table.rows],
        "total": _row(table.total),
        "python": _python([code for _, code in made], shape),
    }


def _layer(kind: str, values: dict[str, Any]) -> tuple[Layer, str]:
    """(the layer, the Python that makes it)."""
    positional, named = [], {}
    for setting in KINDS[kind]:
        value = values[setting.name]
        if setting.positional:
            positional.append(value)
        elif value != setting.default:
            named[setting.name] = value
    arguments = [*map(str, positional), *(f"{name}={json.dumps(value)}" for name, value in named.items())]
    if kind == "Dropout":
        positional, arguments = [0.5], ["0.5"]
    return getattr(layers, kind)(*positional, **named), f"{kind}({', '.join(arguments)})"


def _check(parts: list[Layer], shape: tuple[int, ...]) -> None:
    """Raises the engine's ShapeError for what does not fit, before a single weight is stored."""
    network = Sequential(*parts)
    output = network.connect(shape)
    if math.prod(output) > PARAMETERS:
        raise ConfigurationError(f"the output {output} has more than {PARAMETERS:,} values; choose smaller sizes")
    count = sum(math.prod(p.shape) for layer in network.walk() for _, p in layer.parameters())
    if count > PARAMETERS:
        raise ConfigurationError(f"that makes {count:,} parameters; this page builds up to {PARAMETERS:,}")


def _row(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "kind": row.kind,
        "output": list(row.output),
        "parameters": row.parameters,
        "multiply_adds": row.multiply_adds,
        "field": None if row.field is None else list(row.field),
        "dense": row.dense_weights,
    }


def _python(text: list[str], shape: tuple[int, ...]) -> str:
    """A program that makes the network and prints the same table."""
    names = sorted({"Sequential", *(line.partition("(")[0] for line in text)})
    body = "".join(f"    {line},\n" for line in text)
    return (
        f"from gpucnn import Model\nfrom gpucnn.layers import {', '.join(names)}\n"
        "from gpucnn.summary import summary\n\n"
        f"layers = Sequential(\n{body})\nmodel = Model(layers, {shape})\nprint(summary(model))\n"
    )


def kinds() -> dict[str, Any]:
    """What the page offers: each kind with its settings, and networks to begin with."""
    offered = {
        kind: [
            {"name": s.name, "default": s.default, "low": s.low, "high": s.high, "choices": list(s.choices)}
            for s in settings
        ]
        for kind, settings in KINDS.items()
    }
    return {"kinds": offered, "most": LAYERS, "presets": _PRESETS}


def _conv(out_channels: int, kernel_size: int, **more: Any) -> dict[str, Any]:
    return {"kind": "Conv2d", "out_channels": out_channels, "kernel_size": kernel_size, "activation": "relu", **more}


def _dense(units: int, activation: str = "relu") -> dict[str, Any]:
    return {"kind": "Dense", "units": units, "activation": activation}


_PRESETS: dict[str, dict[str, Any]] = {
    "lenet5": {
        "shape": [1, 32, 32],
        "layers": [
            _conv(6, 5),
            {"kind": "MaxPool2d", "size": 2},
            _conv(16, 5),
            {"kind": "MaxPool2d", "size": 2},
            {"kind": "Flatten"},
            _dense(120),
            _dense(84),
            _dense(10, "none"),
        ],
    },
    "vgg": {
        "shape": [3, 32, 32],
        "layers": [
            _conv(32, 3, padding=1),
            _conv(32, 3, padding=1),
            {"kind": "MaxPool2d", "size": 2},
            _conv(64, 3, padding=1),
            _conv(64, 3, padding=1),
            {"kind": "MaxPool2d", "size": 2},
            {"kind": "Flatten"},
            _dense(128),
            {"kind": "Dropout"},
            _dense(10, "none"),
        ],
    },
    "depthwise": {
        "shape": [3, 32, 32],
        "layers": [
            _conv(16, 3, padding=1, stride=2),
            _conv(16, 3, padding=1, groups=16),
            _conv(32, 1),
            {"kind": "GlobalAvgPool2d"},
            _dense(10, "none"),
        ],
    },
    "mlp": {"shape": [1, 28, 28], "layers": [{"kind": "Flatten"}, _dense(300), _dense(100), _dense(10, "none")]},
    "empty": {"shape": [1, 28, 28], "layers": []},
}
