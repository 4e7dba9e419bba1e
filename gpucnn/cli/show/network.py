"""What a network is made of, and what it makes of an image or a page."""

from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from gpucnn.cli import options
from gpucnn.cli.output import note
from gpucnn.cli.runs import trained_on
from gpucnn.cli.show.inputs import Image, Layer, Out, model_image, open_for, say, test_images
from gpucnn.errors import DataError


def filters(
    run: options.Run = None,
    weights: options.Weights = None,
    layer: Layer = None,
    out: Out = Path("filters.png"),
    json: options.Json = False,
) -> None:
    """The filters of a convolution as small images."""
    model, _, path = open_for(run, weights, out)
    from gpucnn import show
    from gpucnn.show.layers import convolution

    name = convolution(model, layer).name
    drawn = show.filters(model, out, layer=name)
    say(json, out, {"run": str(path), "layer": name, "filters": len(drawn), "shape": list(drawn.shape)})


def maps(
    image: Image,
    run: options.Run = None,
    weights: options.Weights = None,
    out: Out = Path("maps.png"),
    backend: options.Backend = None,
    math: options.Math = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """What each layer makes of an image, from low-level to high-level features, and the class probabilities."""
    model, settings, path = open_for(run, weights, out, image)
    from gpucnn import show
    from gpucnn.backends import get_backend

    pixels, name = model_image(image, model, settings, path)
    device = get_backend(backend, math, threads=threads)
    found, probabilities = show.maps(model, pixels, out, backend=device, name=name)
    values: dict[str, Any] = {"backend": device.name, "math": device.math, "run": str(path), "image": name}
    if model.head == "regressor":
        values["values"] = probabilities.tolist()
    else:
        names = model.class_names or [str(label) for label in range(len(probabilities))]
        best = int(probabilities.argmax())
        values |= {"class": names[best], "probability": float(probabilities[best])}
        if json:
            values["probabilities"] = {name: float(p) for name, p in zip(names, probabilities, strict=True)}
    if json:
        values["layers"] = [
            {
                "name": step.name,
                "kind": step.kind,
                "shape": list(step.values.shape),
                "smallest": float(step.values.min()),
                "largest": float(step.values.max()),
            }
            for step in found
        ]
    say(json, out, values)


def scores(
    page: Annotated[
        str | None, typer.Argument(help="An image file of any size. Default: a page made of test images.")
    ] = None,
    run: options.Run = None,
    weights: options.Weights = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="Show places whose class is at least so probable.")
    ] = 0.9,
    out: Out = Path("scores.png"),
    backend: options.Backend = None,
    math: options.Math = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Slide a trained network over a page of many digits and draw what it sees where.

    The network is converted: its fully connected layers become convolutions with the same weights. It finds digits as
    large as those that it was trained on. One that was trained with `--data digits+parts` knows parts of digits and
    blank paper too; any other takes them for digits, and is sure of it.
    """
    model, settings, path = open_for(run, weights, out, page)
    from gpucnn import show
    from gpucnn.backends import get_backend
    from gpucnn.data.images import open_image, pixels
    from gpucnn.data.load import base
    from gpucnn.data.parts import NOTHING

    places: list = []
    if page is None:
        test = test_images(settings | {"data": base(settings["data"])} if settings.get("data") else settings, path)
        rows, columns = (5, 8) if len(test.images) >= 40 else (1, min(8, len(test.images)))
        values, places = show.digit_page(test.images, rows, columns)
        name = f"the first {rows * columns} test images"
    else:
        if model.input_shape[0] not in (1, 3):
            raise DataError(f"the network takes {model.input_shape[0]} channels; image files give 1 (grey) or 3 (RGB)")
        _, white = trained_on(model, settings.get("data"))
        values, name = pixels(open_image(Path(page)), model.input_shape[0], white), str(page)
    device = get_backend(backend, math, threads=threads)
    result = show.scores(model, values, out, threshold=threshold, backend=device)
    about: dict[str, Any] = {"backend": device.name, "math": device.math, "run": str(path), "page": name}
    about |= {"places": list(result.window.output), "stride": list(result.window.stride), "threshold": threshold}
    if places:
        about["digits"] = len(places)
        about["right"] = sum(
            any(
                found.label == test.classes[label]
                and max(abs(here - there) for here, there in zip(found.box, corner)) <= model.input_shape[1] // 4
                for found in result.found
            )
            for corner, label in zip(places, test.labels)
        )
    if NOTHING not in (model.class_names or ()):
        note("it was trained on whole images alone: parts of them and blank paper look like one of its classes to it")
        if settings.get("data"):
            note(f"train one that knows them, and show that: gpucnn train --data {quote(settings['data'] + '+parts')}")
    if json:
        about["found"] = [
            {"class": found.label, "probability": found.probability, "box": list(found.box)} for found in result.found
        ]
    else:
        about["found"] = len(result.found)
    say(json, out, about)
