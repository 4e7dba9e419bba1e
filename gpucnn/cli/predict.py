"""`gpucnn predict`."""

from typing import Annotated

import typer

from gpucnn.cli import options
from gpucnn.cli.output import note, print_json, print_table
from gpucnn.cli.runs import open_run, refuse_maps

_SHOWN = 3


def predict(
    image: Annotated[str, typer.Argument(help="A PNG or JPEG file, or a folder of them.", metavar="IMAGE")],
    run: options.Run = None,
    weights: options.Weights = None,
    flips: options.Flips = False,
    backend: options.Backend = None,
    math: options.Math = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Say what a trained network sees in an image, or in each image of a folder.

    Images become grey or RGB as the network needs it and are stretched to its input size. A network trained on the
    digits expects light ink on a dark ground.
    """
    model, _, path = open_run(run, weights)
    refuse_maps(model, path)

    import gpucnn.data
    from gpucnn.backends import get_backend
    from gpucnn.training import Trainer

    images, files, notes = gpucnn.data.load_images(image, model.image_shape)
    for text in notes:
        note(text)
    device = get_backend(backend, math, threads=threads)
    note(f"predicting with {model.name} on {device.name}, {device.math} math")
    probabilities = Trainer(model, backend=device, progress=False).predict(images, flips=flips)
    about = {"backend": device.name, "math": device.math, "run": str(path), "notes": notes}
    if model.head == "regressor":
        _print_values(files, probabilities, about, json)
        return
    classes = model.class_names or [str(label) for label in range(probabilities.shape[1])]
    best = (-probabilities).argsort(axis=1, kind="stable")
    if json:
        predictions = [
            {
                "file": str(file),
                "class": classes[order[0]],
                "probability": float(row[order[0]]),
                "probabilities": {name: float(p) for name, p in zip(classes, row, strict=True)},
            }
            for file, row, order in zip(files, probabilities, best, strict=True)
        ]
        print_json({**about, "predictions": predictions})
        return
    rows = [
        [str(file), classes[order[0]], f"{row[order[0]]:.1%}", _others(classes, row, order[1:_SHOWN])]
        for file, row, order in zip(files, probabilities, best, strict=True)
    ]
    print_table("", {"image": "left", "class": "left", "probability": "right", "next": "left"}, rows)


def _print_values(files, values, about: dict, json: bool) -> None:
    """What a regressor says: its values for each image."""
    if json:
        predictions = [{"file": str(file), "values": row.tolist()} for file, row in zip(files, values, strict=True)]
        print_json({**about, "predictions": predictions})
        return
    rows = [[str(file), ", ".join(f"{value:g}" for value in row)] for file, row in zip(files, values, strict=True)]
    print_table("", {"image": "left", "values": "left"}, rows)


def _others(classes: list[str], row, order) -> str:
    return ", ".join(f"{classes[label]} {row[label]:.1%}" for label in order)
