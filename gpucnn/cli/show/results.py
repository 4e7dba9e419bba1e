"""How a training went, and what its network gets wrong."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gpucnn.cli import options
from gpucnn.cli.output import note
from gpucnn.cli.runs import newest_run, refuse_maps, refuse_not_finite, test_set
from gpucnn.cli.show.inputs import Out, open_for, say
from gpucnn.errors import ConfigurationError
from gpucnn.storage import refuse_input

Data = Annotated[
    str | None,
    typer.Option("--data", help="Images: digits, or a path. Default: the set that the network was trained on."),
]


def curves(run: options.Run = None, out: Out = Path("curves.png"), json: options.Json = False) -> None:
    """Loss and accuracy over the epochs of a run."""
    from gpucnn import figures, show
    from gpucnn.training.run import read_history

    figures.check_path(out)
    path = newest_run(run)
    if path.is_file():
        raise ConfigurationError(f"{path} is a model without its history; give the folder of a run")
    _, history = read_history(path)
    show.curves(history, out)
    say(json, out, {"run": str(path), "epochs": len(history), "loss": history.last["loss"]})


def confusion(
    run: options.Run = None,
    weights: options.Weights = None,
    data: Data = None,
    out: Out = Path("confusion.png"),
    backend: options.Backend = None,
    math: options.Math = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Which classes a network takes for which: the confusion matrix of the test images."""
    from gpucnn import show

    test, probabilities, values = _tested(run, weights, data, out, backend, math, threads)
    counts = show.confusion(test.labels, probabilities.argmax(axis=1), test.classes, out)
    values |= {"images": len(test.images), "right": int(counts.trace())}
    if json:
        values |= {"classes": test.classes, "counts": counts.tolist()}
    say(json, out, values)


def mistakes(
    run: options.Run = None,
    weights: options.Weights = None,
    data: Data = None,
    most: Annotated[int, typer.Option("--most", min=1, max=100, help="How many to show.")] = 20,
    out: Out = Path("mistakes.png"),
    backend: options.Backend = None,
    math: options.Math = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """The test images that a network gets wrong, those first of whose wrong class it is surest."""
    from dataclasses import asdict

    from gpucnn import show

    test, probabilities, values = _tested(run, weights, data, out, backend, math, threads)
    worst = show.mistakes(test.images, test.labels, probabilities, test.classes, out, most=most)
    wrong = int((probabilities.argmax(axis=1) != test.labels).sum())
    values |= {"images": len(test.images), "wrong": wrong}
    if json:
        values["mistakes"] = [asdict(mistake) for mistake in worst]
    say(json, out, values)


def doubts(
    data: Annotated[str, typer.Option("--data", help="Images whose labels to check: digits, a set, or a path.")],
    model: Annotated[str, typer.Option("--model", help=options.NETWORKS)] = "lenet5",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of each training.")] = 10,
    folds: Annotated[int, typer.Option("--folds", min=2, help="How many trainings, each without one part.")] = 3,
    most: Annotated[int, typer.Option("--most", min=1, max=100, help="How many to show.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides everything random.")] = 0,
    out: Out = Path("doubts.png"),
    backend: options.Backend = None,
    math: options.Math = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Training images whose labels look wrong to networks that were trained without them."""
    from dataclasses import asdict

    import gpucnn.data
    from gpucnn import figures, show
    from gpucnn.backends import get_backend
    from gpucnn.data.load import path_of
    from gpucnn.models import build_model
    from gpucnn.training import doubtful_labels, out_of_fold

    figures.check_path(out)
    refuse_input(out, path_of(data))
    train, _ = gpucnn.data.load(data)
    device = get_backend(backend, math, threads=threads)
    shape, classes = train.images.shape[1:], train.classes
    note(f"training {model} {folds} times on {device.name}, each time without a part of the images")
    probabilities = out_of_fold(
        lambda: build_model(model, shape, len(classes)),
        train.images,
        train.labels,
        epochs,
        folds=folds,
        seed=seed,
        backend=device,
    )
    found = doubtful_labels(probabilities, train.labels)
    show.doubts(train.images, found, classes, out, most=most)
    values: dict[str, Any] = {"backend": device.name, "math": device.math, "data": data, "images": len(train.images)}
    values |= {"doubtful": len(found)}
    if json:
        values["doubts"] = [
            {**asdict(doubt), "label": classes[doubt.label], "suggested": classes[doubt.suggested]}
            for doubt in found[:most]
        ]
    say(json, out, values)


def _tested(run, weights, data, out, backend, math, threads):
    """(test set, probabilities of its images, what to print of it)."""
    model, settings, path = open_for(run, weights, out, data)
    if model.head == "regressor":
        raise ConfigurationError(f"{path} is a regressor, which has no classes to take for each other")
    refuse_maps(model, path)

    from gpucnn.backends import get_backend
    from gpucnn.training import Trainer

    device = get_backend(backend, math, threads=threads)
    data, test = test_set(model, settings, path, data)
    note(f"testing {model.name} on {device.name}, {device.math} math")
    probabilities = Trainer(model, backend=device, progress=False).predict(test.images)
    refuse_not_finite(path, probabilities)
    return test, probabilities, {"backend": device.name, "math": device.math, "run": str(path), "data": data}
