"""`gpucnn bench`."""

from itertools import product
from typing import Annotated

import typer

from gpucnn.cli import options
from gpucnn.cli.output import note, out, print_json, print_table
from gpucnn.errors import BackendError

_MODELS, _BATCHES = ("lenet5",), (64, 512)


def bench(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help=options.NETWORKS + " May be repeated. Default: lenet5."),
    ] = None,
    job: Annotated[
        list[str] | None, typer.Option("--job", help="training or inference; may be repeated. Default: both.")
    ] = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option("--batch-size", min=1, help="Images a step; may be repeated. Default: 64 and 512."),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend", help="What computes; may be repeated. Default: all usable ones but numpy, unless --math fast."
        ),
    ] = None,
    math: options.Math = None,
    threads: Annotated[
        list[int] | None, typer.Option("--threads", min=1, help="CPU threads; may be repeated. Default: all.")
    ] = None,
    graph: options.Graph = True,
    pytorch: Annotated[
        bool, typer.Option("--pytorch/--no-pytorch", help="Run PyTorch and ONNX Runtime beside, if installed.")
    ] = True,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes: fewer repetitions, no torch.compile.")
    ] = False,
    plot: Annotated[
        str | None, typer.Option("--plot", help="Draw a chart into this file (.png, .svg or .pdf).")
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure how many images a second this machine trains on and infers.

    Checks each backend's results first. Then all run by turns, many short slices each, with PyTorch at its best setting
    and, for inference, ONNX Runtime beside them: figures are medians, the spread is the middle half of the samples.
    Compiling and transfer are shown apart.
    """
    import gpucnn.backends
    from gpucnn import throughput

    throughput.pytorch.import_before_cupy()

    if plot is not None:
        from gpucnn.throughput.chart import check_path, draw

        check_path(plot)
    cases = [
        throughput.Case(*choice)
        for choice in product(_once(model, _MODELS), _once(job, throughput.JOBS), _once(batch_size, _BATCHES))
    ]
    names = _once(backend, [row["name"] for row in gpucnn.backends.backends() if _wanted(row, math)])
    if not names:
        raise BackendError(f"no usable backend has math {math!r}; math is exact or fast")
    # A backend on a GPU has no threads: asked for with several thread counts, it is one.
    found = [
        gpucnn.backends.get_backend(name, math, threads=t, graph=graph)
        for name, t in product(names, _once(threads, (None,)))
    ]
    chosen = list({(b.name, b.threads): b for b in found}.values())
    report = throughput.bench(
        cases,
        chosen,
        seconds=0.5 if quick else 4.0,
        patience=1.0 if quick else 2.0,
        peer=pytorch,
        compiled=not quick,
        say=note,
    )
    if not graph:
        launched = ", ".join(dict.fromkeys(b.name for b in chosen if type(b).graph))
        report["notes"].append(f"no graph: {launched or 'nobody'} launched each step anew; the others never record")
    if quick:
        report["notes"].append("quick: few repetitions" + (", and PyTorch without torch.compile" if pytorch else ""))
    if json:
        print_json(report)
    else:
        _print(report)
    if plot is not None:  # last: the disk may be full
        draw(report, plot)


def _once(given, default) -> list:
    return list(dict.fromkeys(given or default))


def _wanted(row: dict, math: str | None) -> bool:
    """numpy's exact math is the specification, no contender."""
    return row["usable"] and (math in row["math"] if math else row["name"] != "numpy")


def _print(report: dict) -> None:
    from gpucnn.throughput.report import PEERS, disturbance, label, slowest

    about = ("model", "job", "batch", "backend", "math", "threads")
    ratios = {(*(row[name] for name in about), row["peer"]): row["ratio"] for row in report["ratios"]}
    peers = [peer for peer in PEERS if any(row["peer"] == peer for row in report["ratios"])]
    rows = []
    clocks = any(row["device_milliseconds"] is not None for row in report["results"])
    for row in report["results"]:
        key = tuple(row[name] for name in about)
        rows.append(
            [
                row["model"],
                row["job"],
                str(row["batch"]),
                label(row),
                str(row["threads"] or ""),
                f"{row['images_per_second']:,.0f}",
                f"{row['spread']:.0%}",
                "" if row["peak_fraction"] is None else f"{row['peak_fraction']:.0%}",
                f"{row['first_step_seconds']:.2f}",
                f"{1e3 * row['transfer_seconds']:.1f}",
                *([_milliseconds(row["device_milliseconds"])] if clocks else []),
                *(f"{ratios[*key, peer]:.2f}" if (*key, peer) in ratios else "" for peer in peers),
                row.get("variant", ""),
            ]
        )
    columns = dict.fromkeys(("model", "job"), "left") | {"batch": "right", "contender": "left"}
    columns |= dict.fromkeys(("threads", "images/s", "spread", "of peak", "first step s", "transfer ms"), "right")
    if clocks:
        columns["device ms"] = "right"
    columns |= {f"times {PEERS[peer]}": "right" for peer in peers} | {"variant": "left"}
    print_table("Throughput", columns, rows)
    for sentence in slowest(report["ratios"]):
        out(sentence)
    for threads, peak in report["peak_gflops"].items():
        out(f"peak: {peak:,.0f} GFLOP/s of multiply-adds on {threads} thread{'s' * (threads != '1')}, measured")
    out(disturbance(report["results"]))
    for text in report["notes"]:
        out(f"note: {text}")
    out("first step: with compiling, or loading what an earlier run compiled; not part of the images a second")
    if clocks:
        out("device ms: a step by the GPU's own clock, between events; images a second are by the host's")


def _milliseconds(value: float | None) -> str:
    """Of a step by the GPU's own clock."""
    return "" if value is None else f"{value:.3f}"
