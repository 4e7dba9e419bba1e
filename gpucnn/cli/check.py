"""`gpucnn check`."""

from typing import Annotated

import typer

from gpucnn.cli import options
from gpucnn.cli.output import note, out, print_json, print_table
from gpucnn.errors import ConfigurationError


def check(
    backends: Annotated[
        list[str] | None,
        typer.Option(
            "--backends",
            "--backend",
            metavar="NAMES",
            help="The backends to compare, commas between them: numpy,numba; may be repeated. "
            "Default: all usable ones.",
        ),
    ] = None,
    math: options.Math = None,
    threads: options.Threads = None,
    graph: options.Graph = True,
    emulate: Annotated[
        bool,
        typer.Option("--emulate", help="Run the kernels of GPU backends that are not usable here on the CPU, slowly."),
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="Train the networks in so many processes too, which mpirun starts."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Prove that the backends agree to the last bit on this machine.

    Runs every operation, predictions and a few training steps on each backend, and compares the raw bits with numpy's
    exact math, which is the specification, and with the weights' hashes that come with the program. numba's general
    kernels, which serve while faster ones are being compiled, have rows of their own. On a GPU the results must also be
    in its memory. Exit code 1 if a bit differs.
    """
    if math not in (None, "exact"):
        raise ConfigurationError(f"check compares bits, which only exact math promises; leave out --math {math}")
    from gpucnn.check import check as compare

    names = [name.strip() for given in backends for name in given.split(",")] if backends else None
    report = compare(names, threads=threads, progress=note, emulate=emulate, graph=graph, processes=processes)
    if json:
        print_json(report)
    else:
        _print(report)
    if not report["passed"]:
        raise typer.Exit(1)


def _print(report: dict) -> None:
    print_table(
        "Operations",
        {"operation": "left", "backend": "left", "values": "right", "differing": "right"},
        [
            [entry["name"], entry["backend"], f"{entry['values']:,}", f"{entry['differing']:,}"]
            for entry in report["operations"]
        ],
    )
    print_table(
        "Training: SHA-256 of the weights",
        {"network": "left", "backend": "left", "weights": "left"},
        [[entry["network"], entry["backend"], entry["weights_sha256"]] for entry in report["training"]],
    )
    for difference in report["differences"]:
        out(f"differs: {difference}")
    out("passed: every bit agrees" if report["passed"] else "FAILED: results differ")
