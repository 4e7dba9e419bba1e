"""`gpucnn tune`."""

from typing import Annotated

import typer

from gpucnn.cli import network, options
from gpucnn.cli.output import note, out, print_json, print_table


def tune(
    model: Annotated[str, typer.Argument(help=options.NETWORKS)],
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images a step.")] = 128,
    backend: Annotated[str, typer.Option("--backend", help="What computes: cupy.")] = "cupy",
    input_shape: Annotated[
        str | None,
        typer.Option("--input-shape", help="Channels and sizes of the images. Default: those of `gpucnn bench`."),
    ] = None,
    classes: options.Classes = None,
    outputs: options.Outputs = None,
    variant: options.Variant = None,
    hidden: options.Hidden = None,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="Tiles that are timed for each kernel.")] = 8,
    again: Annotated[bool, typer.Option("--again", help="Measure again what was measured before.")] = False,
    json: options.Json = False,
) -> None:
    """Measure on this GPU which tiles make a network's kernels fastest, and keep them for later runs.

    No result depends on it, only speed. What was measured is kept also where the measuring is interrupted.
    """
    from gpucnn import throughput
    from gpucnn.backends import get_backend
    from gpucnn.backends.processors import processors
    from gpucnn.models import build_model
    from gpucnn.throughput.jobs import SHAPE, SHAPES

    made = {**network.head(classes, outputs), **network.options(variant, hidden)}
    shape = SHAPES.get(model, SHAPE) if input_shape is None else network.parse_shape(input_shape)
    built = build_model(model, shape, **made).initialize(0)
    device, cores = get_backend(backend), processors()
    rows = throughput.tune(built, batch_size, device, candidates=candidates, again=again, processes=cores, say=note)
    if json:
        print_json({"model": model, "batch_size": batch_size, "results": rows})
        return
    columns = dict.fromkeys(("operation", "shape", "tile"), "left") | {"us": "right", "model's tile": "left"}
    table = []
    for row in rows:
        times = [_microseconds(row[name]) for name in ("microseconds", "model_microseconds")]
        tile, first = (" ".join(map(str, row[name])) for name in ("tile", "model_tile"))
        table.append([row["operation"], row["shape"], tile, times[0], first, times[1]])
    if table:
        print_table("Measured tiles", columns | {"its us": "right"}, table)
    better = sum(row["tile"] != row["model_tile"] for row in rows)
    out(f"{len(rows)} kernels were measured; {better} have another tile than the model's choice from now on")


def _microseconds(value: float | None) -> str:
    return "spills" if value is None else f"{value:.1f}"
