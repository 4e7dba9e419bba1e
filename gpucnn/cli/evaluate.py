"""`gpucnn evaluate`."""

from time import perf_counter
from typing import Annotated

import typer

from gpucnn.cli import options
from gpucnn.cli.device import choose
from gpucnn.cli.output import note, print_json, print_values
from gpucnn.cli.runs import open_run
from gpucnn.errors import ConfigurationError, DataError


def evaluate(
    run: options.Run = None,
    weights: options.Weights = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Images: digits, a fetched set, or a path. Default: what the network was trained on."
        ),
    ] = None,
    flips: options.Flips = False,
    metrics: options.Metrics = None,
    backend: options.Backend = None,
    math: options.Math = None,
    threads: options.Threads = None,
    graph: options.Graph = True,
    json: options.Json = False,
) -> None:
    """Measure a trained network on the test images: how many it gets right, and its loss.

    With --flips the mean over an image and its mirror image counts for the first, not for the loss.
    """
    model, settings, path = open_run(run, weights)
    if model.head == "regressor":
        raise ConfigurationError(
            f"{path} is a regressor, which has no classes to get right; see what it says with predict"
        )
    data = settings.get("data") if data is None else data
    if data is None:
        raise ConfigurationError(f"{path} does not say what it was trained on; give --data")

    import gpucnn.data
    from gpucnn.training import Trainer

    device = choose(backend, math, threads, graph)
    _, test = gpucnn.data.load(data)
    if model.class_names not in (None, test.classes):
        raise DataError(
            f"{data} has the classes {', '.join(test.classes)}; the network knows {', '.join(model.class_names)}"
        )
    note(f"evaluating {model.name} on {device.name}, {device.math} math")
    names = [name for name in options.listed(metrics) if name != "accuracy"]
    trainer = Trainer(model, backend=device, progress=False, metrics=names)
    started = perf_counter()
    measured = trainer.measure(test.images, test.labels)
    if flips:
        right = trainer.predict(test.images, flips=True).argmax(axis=1) == test.labels
        measured["accuracy"] = float(right.mean())
    seconds = perf_counter() - started
    values = {
        "backend": device.name,
        "math": device.math,
        "data": data,
        "images": len(test.images),
        **{f"test_{name}": measured[name] for name in ("accuracy", "loss", *names)},
        "seconds": seconds,
        "images_per_second": len(test.images) / seconds,
        "weights_sha256": model.weights_sha256(),
        "run": str(path),
    }
    (print_json if json else print_values)(values)
