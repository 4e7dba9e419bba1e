"""Choosing the backend of a command."""

from gpucnn.cli.output import note


def choose(backend: str | None, math: str | None, threads: int | None, graph: bool):
    """The backend that the options name; says so where --no-graph changes nothing."""
    from gpucnn.backends import get_backend

    device = get_backend(backend, math, threads=threads, graph=graph)
    if not graph:
        tell_of_no_graph(device)
    return device


def tell_of_no_graph(device) -> None:
    """--no-graph is not an error where there is nothing to switch off, and not passed over in silence."""
    if not type(device).graph:  # the instance's own is off now in any case
        note(f"{device.name} records no steps: --no-graph changes nothing on it")
