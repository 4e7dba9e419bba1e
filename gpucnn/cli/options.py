"""Options that several commands share."""

from typing import Annotated

import typer

Backend = Annotated[
    str | None,
    typer.Option(
        "--backend", help="What computes, such as numba or numpy; see `gpucnn backends`. Default: the fastest."
    ),
]
Math = Annotated[
    str | None,
    typer.Option(
        "--math",
        help="exact: the same bits on every backend. fast: nearly the same numbers, by numpy's BLAS: faster than "
        "numpy's exact math, but many times slower than numba's. Default: exact.",
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
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        min=1,
        help="Train in so many processes on this machine, which mpirun starts; the same bits. Under mpirun: how many "
        "there must be. Default: as many as were started.",
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        "--time-limit",
        min=1,
        help="Seconds that a process waits for the others before it gives the run up. Default: 600.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to stdout, for other programs; progress goes to stderr.")
]
Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        help="What to measure beside loss and accuracy, commas between: top3, precision, recall, f1, iou, auc, "
        "confusion; f1_per_class and so on for a list. Default: nothing.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="best: those of the epoch that did best in validation; last: those of the last epoch. "
        "Default: best, where the run had validation images.",
    ),
]
Flips = Annotated[
    bool, typer.Option("--flips", help="Take the mean of what the network says of an image and of its mirror image.")
]
NETWORKS = (
    "Network: lenet5, vgg_small, resnet20, resnet56, separable_small, cifar_fast, mlp, unet_small; for signals "
    "signal_small, for volumes volume_small."
)
InputShape = Annotated[
    str, typer.Option("--input-shape", help="Channels and sizes of the images: 3x32x32; 1x128 for signals.")
]
Classes = Annotated[
    int | None, typer.Option("--classes", min=1, max=1 << 24, help="How many classes it tells apart. Default: 10.")
]
Variant = Annotated[
    str | None, typer.Option("--variant", help="lenet5's: modern, 1998 (tanh, average pooling), wide. Default: modern.")
]
Hidden = Annotated[
    str | None,
    typer.Option("--hidden", help="Of mlp: the sizes of the hidden layers, commas between them. Default: 300,100."),
]
Outputs = Annotated[
    int | None,
    typer.Option(
        "--outputs", min=1, max=1 << 24, help="For a regressor, instead of --classes: how many values it gives."
    ),
]
Run = Annotated[
    str | None,
    typer.Option("--run", help="The run folder that `train` wrote. Default: the newest one in runs/."),
]


def listed(names: str | None) -> list[str]:
    """The names in "top3,f1"."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]
