"""Where a pattern matches, and which pixels a filter uses."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gpucnn.cli import options
from gpucnn.cli.runs import open_run
from gpucnn.cli.show.inputs import TYPED, Layer, Out, any_image, say
from gpucnn.cli.show.typed import channels, sizes
from gpucnn.errors import ConfigurationError
from gpucnn.storage import refuse_input

Stride = Annotated[str, typer.Option("--stride", help="Pixels between neighbouring places: 2, or 2x1 per axis.")]
Padding = Annotated[
    str, typer.Option("--padding", help="Pixels added around the image: 1, 1x2 per axis, same or valid.")
]


def match(
    image: Annotated[
        str,
        typer.Argument(
            help="An image file, the number of a test image, or rows of numbers such as '0,1,0;1,1,1;0,1,0', "
            "the next channel after a slash.",
            metavar="IMAGE",
        ),
    ],
    pattern: Annotated[
        str | None,
        typer.Option(
            "--pattern",
            help="Rows of numbers, such as '1,-1,-1;-1,1,-1;-1,-1,1'; for colours red/green/blue: '1,1/-1,-1/-1,-1'.",
        ),
    ] = None,
    filter: Annotated[
        int | None, typer.Option("--filter", min=0, help="Instead: the number of a filter of a trained network.")
    ] = None,
    layer: Layer = None,
    signed: Annotated[
        bool, typer.Option("--signed", help="Take the pixels of a picture as -1 (black) to 1, not as 0 to 1.")
    ] = False,
    run: options.Run = None,
    weights: options.Weights = None,
    stride: Stride = "1",
    padding: Padding = "0",
    out: Out = Path("match.png"),
    backend: options.Backend = None,
    math: options.Math = None,
    json: options.Json = False,
) -> None:
    """Where in an image a pattern scores highest, with the map of the mean of products."""

    from gpucnn import figures, show
    from gpucnn.backends import get_backend
    from gpucnn.show.layers import image_filters

    figures.check_path(out)
    refuse_input(out, image)
    if (pattern is None) == (filter is None):
        raise ConfigurationError("give either --pattern, rows of numbers, or --filter, the number of a trained filter")
    if pattern is not None and layer is not None:
        raise ConfigurationError(f"--layer {layer} names where --filter is; it has no meaning with --pattern")
    if pattern is not None and weights is not None:
        raise ConfigurationError(f"--weights {weights} are those of --filter; they have no meaning with --pattern")
    settings, path = {"data": "digits"}, None
    if pattern is not None:
        kernel = channels("--pattern", pattern)
        if run is not None:
            _, settings, path = open_run(run)
    else:
        assert filter is not None  # one of the two is given
        model, settings, path = open_run(run, weights)
        found: Any = image_filters(model, layer)
        kernels = model.state_dict()[found.weight.name]
        if filter >= len(kernels):
            raise ConfigurationError(
                f"layer {found.name} has no filter {filter}; they run from 0 to {len(kernels) - 1}"
            )
        kernel = kernels[filter]
    pixels, name = any_image(image, kernel.shape[0], settings, path)
    if signed:
        if name == TYPED:
            raise ConfigurationError("--signed is for the pixels of a picture; numbers are taken as they are typed")
        pixels = 2 * pixels - 1
    device = get_backend(backend, math)
    result = show.match(
        pixels,
        kernel,
        out,
        stride=sizes("--stride", stride),
        padding=sizes("--padding", padding),
        backend=device.name,
        math=device.math,
        name=name,
    )
    values = {
        "backend": device.name,
        "math": device.math,
        "image": name,
        "row": result.place[0],
        "column": result.place[1],
    }
    values |= {"score": result.score, "box": list(result.box)}
    if json:
        say(json, out, values | {"scores": result.scores.tolist()})
    else:
        say(json, out, values | {"score": f"{result.score:.6g}", "box": "top {}, left {}, {} x {}".format(*result.box)})


def pixel_use(
    input: Annotated[str, typer.Option("--input", help="Pixels a side: 7, or 7x10.")],
    kernel: Annotated[str, typer.Option("--kernel", help="Size of the filter: 3, or 2x3.")],
    stride: Stride = "1",
    padding: Padding = "0",
    dilation: Annotated[str, typer.Option("--dilation", help="Pixels between neighbouring taps: 2, or 2x1.")] = "1",
    out: Out = Path("pixel-use.png"),
    json: options.Json = False,
) -> None:
    """How many times each pixel is used by a filter of a given size, stride and padding."""
    from gpucnn import show
    from gpucnn.geometry import window

    size = sizes("--input", input)
    fit = window(
        (size, size) if isinstance(size, int) else size,
        sizes("--kernel", kernel),
        stride=sizes("--stride", stride),
        padding=sizes("--padding", padding),
        dilation=sizes("--dilation", dilation),
    )
    use = show.pixel_use(fit, out)
    values = {"output": list(fit.output), "smallest": int(use.min()), "largest": int(use.max())}
    if json:
        values["use"] = use.tolist()
    say(json, out, values)
