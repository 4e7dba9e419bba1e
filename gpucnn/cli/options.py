"""Options that several commands share."""

from typing import Annotated

import typer

Backend = Annotated[
    str | None,
    typer.Option("--backend", help="What computes, such as numba or numpy; see `gpucnn backends`. Default: the fastest."),
]
Math = Annotated[
    str | None,
    typer.Option(
        "--math",
        help="exact: the same bits on every backend. fast: nearly the same numbers. Default: the backend's own.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads; in exact math they never change a result. Default: all."),
]
Graph = Annotated[
    bool,
    typer.Option(
        "--graph/--no-graph",
        help="Record a training step once and repeat it (on cupy a CUDA graph), or launch each step anew: slower, the "
        "same bits, easier to debug.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to stdout, for other programs; progress goes to stderr.")
]
Run = Annotated[
    str | None,
    typer.Option("--run", help="The run folder that `train` wrote. Default: the newest one in runs/."),
]
