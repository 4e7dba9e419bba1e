"""`gpucnn evaluate`."""

from time import perf_counter
from typing import Annotated, Any

import typer

from gpucnn.cli import options
from gpucnn.cli.device import choose
from gpucnn.cli.output import note, print_measured
from gpucnn.cli.runs import note_untested, open_run, refuse_not_finite, test_set
from gpucnn.cli.settings import DEFAULTS, measuring
from gpucnn.errors import ConfigurationError


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

    With --flips the mean over an image and its mirror image counts.
    """
    model, settings, path = open_run(run, weights)
    if model.head == "regressor":
        raise ConfigurationError(
            f"{path} is a regressor, which has no classes to get right; see what it says with predict"
        )
    device = choose(backend, math, threads, graph)
    data, test = test_set(model, settings, path, data)
    note_untested(test)
    note(f"evaluating {model.name} on {device.name}, {device.math} math")
    names, loss = options.listed(metrics), settings.get("loss") or DEFAULTS["loss"]
    started = perf_counter()
    measured = (_with_flips if flips else _measured)(model, device, loss, names, test)
    seconds = perf_counter() - started
    refuse_not_finite(path, measured["loss"])
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
    print_measured(values, test.classes, json)


def _measured(model, device, loss: str, metrics, test) -> dict[str, Any]:
    return measuring(model, device, loss, metrics).measure(test.images, test.labels)


def _with_flips(model, device, loss: str, metrics, test) -> dict[str, Any]:
    """What `_measured` gives, of the mean over each image and its mirror image; the loss is of the mean probability."""
    import numpy as np

    from gpucnn.metrics import make

    def keep(_, labels) -> float:
        kept.append(labels)
        return 0.0

    kept: list = []
    trainer = measuring(model, device, loss, [keep])
    trainer.measure(test.images, test.labels)  # so labels are checked, and cut as the images are
    predictions = model.predict(test.images, flips=True)
    scores = np.log(np.maximum(predictions, np.finfo(predictions.dtype).smallest_subnormal))
    mean, _ = trainer.loss(device.pack(scores), kept[0])
    made = make(["accuracy", *(name for name in metrics if name != "accuracy")], "classes", predictions.shape[1])
    for metric in made:
        metric.reset()
        metric.update(predictions, kept[0])
    return {"loss": float(device.host(mean)[0]), **{metric.name: metric.result() for metric in made}}
