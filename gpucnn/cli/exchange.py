"""`gpucnn export` and `gpucnn import`: networks to and from other programs."""

from pathlib import Path
from typing import Annotated

import typer

from gpucnn.cli import network, options
from gpucnn.cli.output import note, print_json, print_values
from gpucnn.cli.runs import open_run
from gpucnn.errors import ConfigurationError

FORMATS = {".onnx": "ONNX graph", ".safetensors": "PyTorch state dict"}


def export(
    file: Annotated[
        str,
        typer.Argument(
            help="What to write: NAME.onnx, a graph for ONNX runtimes, or NAME.safetensors, a state dict for PyTorch.",
            metavar="FILE",
        ),
    ],
    run: options.Run = None,
    weights: options.Weights = None,
    json: options.Json = False,
) -> None:
    """Write a trained network for other programs: an ONNX graph, or the weights under PyTorch's names.

    docs/pytorch.md tells how to load the weights. ONNX needs the onnx package: pip install onnx.
    """
    suffix = Path(file).suffix.lower()
    if suffix not in FORMATS:
        raise ConfigurationError(
            f"the name {file!r} does not tell the format; end it in .onnx for an ONNX graph or .safetensors for a "
            "PyTorch state dict"
        )
    _refuse_existing(file)
    model, _, path = open_run(run, weights)
    from gpucnn.models import export_onnx, save_pytorch

    (export_onnx if suffix == ".onnx" else save_pytorch)(model, file)
    if suffix != ".onnx" and model.mean is not None:
        means, deviations = (", ".join(f"{value:.9g}" for value in part) for part in (model.mean, model.std))
        note(
            f"the file holds weights alone: in PyTorch, normalise images first, with mean {means} and deviation "
            f"{deviations}"
        )
    values = {
        "file": file,
        "format": FORMATS[suffix],
        "model": model.name,
        "weights_sha256": model.weights_sha256(),
        "run": str(path),
    }
    (print_json if json else print_values)(values)


def import_(
    file: Annotated[
        str, typer.Argument(help="A safetensors file with a PyTorch state dict; see docs/pytorch.md.", metavar="FILE")
    ],
    to: Annotated[str, typer.Option("--to", help="The model file to write, for `evaluate --run` and others.")],
    model: Annotated[str, typer.Option("--model", help=options.NETWORKS)],
    input_shape: options.InputShape,
    classes: options.Classes = None,
    outputs: options.Outputs = None,
    variant: options.Variant = None,
    hidden: options.Hidden = None,
    json: options.Json = False,
) -> None:
    """Make a network of weights that were trained in PyTorch.

    Nothing is unpickled: a .pt or .pth file is to be converted first, which docs/pytorch.md shows.
    """
    if Path(file).suffix.lower() == ".onnx":
        raise ConfigurationError(
            f"{file} is an ONNX graph by its name, which gpucnn writes and does not read; give the network's PyTorch "
            "state dict in a .safetensors file"
        )
    made = {**network.head(classes, outputs), **network.options(variant, hidden)}
    shape = network.parse_shape(input_shape)
    _refuse_existing(to)
    from gpucnn.models import build_model, from_pytorch
    from gpucnn.models.files import save

    found = from_pytorch(build_model(model, shape, **made), file)
    save(found, to)
    values = {"file": to, "model": found.name, "weights_sha256": found.weights_sha256()}
    (print_json if json else print_values)(values)


def _refuse_existing(file: str) -> None:
    """Raises ConfigurationError: it may be the only copy of a network, even the one that is exported."""
    if Path(file).exists():
        raise ConfigurationError(f"{file} exists already; choose another name, or remove it")
