"""Why a network says so: saliency, occlusion, Grad-CAM."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gpucnn.cli import options
from gpucnn.cli.show.inputs import Image, Out, model_image, open_for, say
from gpucnn.errors import ConfigurationError

Of = Annotated[
    str | None, typer.Option("--of", help="The class to explain, by name or number. Default: the likeliest.")
]


def saliency(
    image: Image,
    run: options.Run = None,
    weights: options.Weights = None,
    of: Of = None,
    out: Out = Path("saliency.png"),
    backend: options.Backend = None,
    math: options.Math = None,
    json: options.Json = False,
) -> None:
    """Which pixels of an image change the network's score most: the gradient with respect to the input."""
    _reason("saliency", image, run, weights, of, out, backend, math, json)


def occlusion(
    image: Image,
    run: options.Run = None,
    weights: options.Weights = None,
    of: Of = None,
    side: Annotated[
        int | None, typer.Option("--side", min=1, help="Pixels a side of the square. Default: an eighth of the image.")
    ] = None,
    step: Annotated[
        int | None, typer.Option("--step", min=1, help="Pixels between squares. Default: half a side.")
    ] = None,
    fill: Annotated[float, typer.Option("--fill", help="The value of a blanked pixel.")] = 0.0,
    out: Out = Path("occlusion.png"),
    backend: options.Backend = None,
    math: options.Math = None,
    json: options.Json = False,
) -> None:
    """By how much the answer's probability falls when a small square of the image is blanked."""
    _reason("occlusion", image, run, weights, of, out, backend, math, json, side=side, stride=step, fill=fill)


def gradcam(
    image: Image,
    run: options.Run = None,
    weights: options.Weights = None,
    of: Of = None,
    layer: Annotated[
        str | None, typer.Option("--layer", help="A layer's name. Default: the last that gives maps.")
    ] = None,
    out: Out = Path("gradcam.png"),
    backend: options.Backend = None,
    math: options.Math = None,
    json: options.Json = False,
) -> None:
    """Where the maps of a layer speak for the answer: Grad-CAM."""
    _reason("gradcam", image, run, weights, of, out, backend, math, json, layer=layer)


def _reason(kind: str, image, run, weights, of, out: Path, backend, math, json: bool, **settings: Any) -> None:
    """One of the pictures of show.reasons."""
    model, about, path = open_for(run, weights, out, image)
    from gpucnn import show
    from gpucnn.backends import get_backend

    names = model.class_names or [str(label) for label in range(model.output_shape[0])]
    chosen = None
    if of is not None:
        chosen = names.index(of) if of in names else int(of) if of.isascii() and of.isdigit() else len(names)
        if chosen >= len(names):
            raise ConfigurationError(f"--of is {of!r}; the network's classes are {', '.join(names)}")
    pixels, name = model_image(image, model, about, path)
    device = get_backend(backend, math)
    values = getattr(show, kind)(model, pixels, out, chosen, backend=device, name=name, **settings)
    outputs = model.predict(pixels[None])[0]
    chosen = int(outputs.argmax()) if chosen is None else chosen
    word = "value" if model.head == "regressor" else "probability"
    said = {"backend": device.name, "math": device.math, "run": str(path), "image": name}
    said |= {"class": names[chosen], word: float(outputs[chosen]), "largest": float(values.max())}
    row, column = divmod(int(values.argmax()), values.shape[1])
    say(json, out, said | {"row": row, "column": column} | ({"map": values.tolist()} if json else {}))
