"""`gpucnn summary`."""

from dataclasses import asdict
from typing import Annotated

import typer

from gpucnn.cli import network, options
from gpucnn.cli.output import out, print_json


def summary(
    model: Annotated[str, typer.Option("--model", help=options.NETWORKS)] = "lenet5",
    input_shape: options.InputShape = "1x32x32",
    classes: options.Classes = None,
    outputs: options.Outputs = None,
    variant: options.Variant = None,
    hidden: options.Hidden = None,
    backend: options.Backend = None,
    math: options.Math = None,
    json: options.Json = False,
) -> None:
    """Show a network's layers: output shapes, parameters, multiply-adds and receptive fields.

    Also says which backend and math would train it here.
    """
    from gpucnn.backends import get_backend
    from gpucnn.models import build_model
    from gpucnn.summary import summary as summarise

    made = {**network.head(classes, outputs), **network.options(variant, hidden)}
    shape = network.parse_shape(input_shape)
    device = get_backend(backend, math)
    table = summarise(build_model(model, shape, **made))
    if json:
        print_json({"backend": device.name, "math": device.math, **asdict(table)})
    else:
        out(str(table))
        out(f"would train here on {device.name}, {device.math} math")
