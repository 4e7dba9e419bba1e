"""`gpucnn summary`."""

from dataclasses import asdict
from typing import Annotated

import typer

from gpucnn.cli import network, options
from gpucnn.cli.output import out, print_json
from gpucnn.errors import ConfigurationError
from gpucnn.storage import as_path


def summary(
    context: typer.Context,
    model: Annotated[str, typer.Option("--model", help=options.NETWORKS)] = "lenet5",
    input_shape: options.InputShape = "1x32x32",
    classes: options.Classes = None,
    outputs: options.Outputs = None,
    variant: options.Variant = None,
    hidden: options.Hidden = None,
    run: Annotated[
        str | None,
        typer.Option("--run", help="A run folder or a file of gpucnn.save: its network, instead of --model."),
    ] = None,
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

    if run is not None:
        _refuse_beside(context, run)
        built = _trained(run)
    else:
        made = {**network.head(classes, outputs), **network.options(variant, hidden)}
        built = build_model(model, network.parse_shape(input_shape), **made)
    device = get_backend(backend, math)
    table = summarise(built)
    if json:
        print_json({"backend": device.name, "math": device.math, **asdict(table)})
    else:
        out(str(table))
        out(f"would train here on {device.name}, {device.math} math")


def _refuse_beside(context: typer.Context, run: str) -> None:
    """Raises ConfigurationError where an option beside --run says how to build a network."""
    for name in ("model", "input_shape", "classes", "outputs", "variant", "hidden"):
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise ConfigurationError(
                f"--run {run} and --{name.replace('_', '-')} exclude each other: the run has its network; leave one out"
            )


def _trained(run: str):
    """The network of a run folder, or of a file."""
    from gpucnn.training import load, load_run

    source = as_path(run)
    return load(source) if source.is_file() else load_run(source).model
