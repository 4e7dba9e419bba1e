"""`gpucnn summary`."""

from dataclasses import asdict
from typing import Annotated

import typer

from gpucnn.cli import options
from gpucnn.cli.output import print_json
from gpucnn.errors import ConfigurationError


def summary(
    model: Annotated[str, typer.Option("--model", help="Network: lenet5, vgg_small, resnet20.")] = "lenet5",
    input_shape: Annotated[
        str, typer.Option("--input-shape", help="Channels, height and width of the images, such as 3x32x32.")
    ] = "1x32x32",
    classes: Annotated[int, typer.Option("--classes", min=1, help="How many classes it tells apart.")] = 10,
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

    try:
        shape = tuple(int(size) for size in input_shape.lower().split("x"))
    except ValueError:
        shape = ()
    if len(shape) != 3 or min(shape) < 1:
        raise ConfigurationError(f"--input-shape is {input_shape!r}; expected three whole numbers such as 1x32x32")
    device = get_backend(backend, math)
    table = summarise(build_model(model, shape, classes))
    if json:
        print_json({"backend": device.name, "math": device.math, **asdict(table)})
    else:
        typer.echo(str(table))
        typer.echo(f"would train here on {device.name}, {device.math} math")
