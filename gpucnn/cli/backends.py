"""`gpucnn backends`."""

from gpucnn.cli import options
from gpucnn.cli.output import out, print_json, print_table
from gpucnn.errors import BackendError


def backends(backend: options.Backend = None, math: options.Math = None, json: options.Json = False) -> None:
    """List what can compute on this machine, and why the rest cannot.

    The first usable one is what the other commands take unless told otherwise. --backend shows one of them, --math
    those that have this math.
    """
    import gpucnn.backends

    found = gpucnn.backends.backends()
    if backend is not None and backend not in [entry["name"] for entry in found]:
        names = ", ".join(entry["name"] for entry in found)
        raise BackendError(f"there is no backend {backend!r}; there are: {names}")
    shown = [entry for entry in found if backend in (None, entry["name"]) and (math is None or math in entry["math"])]
    if not shown:
        raise BackendError(f"no backend{f' {backend!r}' if backend else ''} has math {math!r}; math is exact or fast")
    if json:
        print_json({"backends": shown})
        return
    rows = [
        [
            entry["name"],
            "yes" if entry["usable"] else "no",
            ", ".join(f"{math} (default)" if math == entry["default"] else math for math in entry["math"]),
            str(entry["device"] or ""),
            entry["reason"] or "",
        ]
        for entry in shown
    ]
    columns = {"backend": "left", "usable": "left", "math": "left", "device": "left", "why": "left"}
    print_table("Backends, the fastest first", columns, rows)
    out("The first usable one is taken unless --backend NAME chooses another.")
