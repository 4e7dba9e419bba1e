"""`gpucnn show`: pictures of what networks are made of, see and get wrong."""

from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from gpucnn.cli import options
from gpucnn.cli.output import command, note, print_json, print_values
from gpucnn.cli.runs import of_run, open_run, refuse_maps, test_set, trained_on
from gpucnn.errors import ConfigurationError, DataError
from gpucnn.storage import refuse_input

app = typer.Typer(
    name="show",
    help="Draw pictures: filters, feature maps, where a pattern matches, training, mistakes.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
)

_TYPED = "the image"  # what an image of typed numbers is called

Layer = Annotated[
    str | None, typer.Option("--layer", help="Name of a convolution, as `gpucnn summary` lists it. Default: the first.")
]
Image = Annotated[str, typer.Argument(help="An image file, or the number of a test image.", metavar="IMAGE")]
Of = Annotated[
    str | None, typer.Option("--of", help="The class to explain, by name or number. Default: the likeliest.")
]
Stride = Annotated[str, typer.Option("--stride", help="Pixels between neighbouring places: 2, or 2x1 per axis.")]
Padding = Annotated[
    str, typer.Option("--padding", help="Pixels added around the image: 1, 1x2 per axis, same or valid.")
]
Out = Annotated[Path, typer.Option("--out", help="The picture's file, a .png; one that is there is replaced.")]
Data = Annotated[
    str | None,
    typer.Option("--data", help="Images: digits, or a path. Default: the set that the network was trained on."),
]


def filters(
    run: options.Run = None,
    weights: options.Weights = None,
    layer: Layer = None,
    out: Out = Path("filters.png"),
    json: options.Json = False,
) -> None:
    """The filters of a convolution as small images."""
    model, _, path = _open(run, weights, out)
    from gpucnn import show
    from gpucnn.show.layers import convolution

    name = convolution(model, layer).name
    drawn = show.filters(model, out, layer=name)
    _say(json, out, {"run": str(path), "layer": name, "filters": len(drawn), "shape": list(drawn.shape)})


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
    model, settings, path = _open(run, weights, out, image)
    from gpucnn import show
    from gpucnn.backends import get_backend

    pixels, name = _model_image(image, model, settings, path)
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
    _say(json, out, values)


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
        kernel = _channels("--pattern", pattern)
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
    pixels, name = _any_image(image, kernel.shape[0], settings, path)
    if signed:
        if name == _TYPED:
            raise ConfigurationError("--signed is for the pixels of a picture; numbers are taken as they are typed")
        pixels = 2 * pixels - 1
    device = get_backend(backend, math)
    result = show.match(
        pixels,
        kernel,
        out,
        stride=_sizes("--stride", stride),
        padding=_sizes("--padding", padding),
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
        _say(json, out, values | {"scores": result.scores.tolist()})
    else:
        _say(
            json, out, values | {"score": f"{result.score:.6g}", "box": "top {}, left {}, {} x {}".format(*result.box)}
        )


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

    size = _sizes("--input", input)
    fit = window(
        (size, size) if isinstance(size, int) else size,
        _sizes("--kernel", kernel),
        stride=_sizes("--stride", stride),
        padding=_sizes("--padding", padding),
        dilation=_sizes("--dilation", dilation),
    )
    use = show.pixel_use(fit, out)
    values = {"output": list(fit.output), "smallest": int(use.min()), "largest": int(use.max())}
    if json:
        values["use"] = use.tolist()
    _say(json, out, values)


def curves(run: options.Run = None, out: Out = Path("curves.png"), json: options.Json = False) -> None:
    """Loss and accuracy over the epochs of a run."""
    from gpucnn import figures, show
    from gpucnn.cli.runs import newest_run
    from gpucnn.training.run import read_history

    figures.check_path(out)
    path = newest_run(run)
    if path.is_file():
        raise ConfigurationError(f"{path} is a model without its history; give the folder of a run")
    _, history = read_history(path)
    show.curves(history, out)
    _say(json, out, {"run": str(path), "epochs": len(history), "loss": history.last["loss"]})


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
    _say(json, out, values)


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
    _say(json, out, values)


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
    model, about, path = _open(run, weights, out, image)
    from gpucnn import show
    from gpucnn.backends import get_backend

    names = model.class_names or [str(label) for label in range(model.output_shape[0])]
    chosen = None
    if of is not None:
        chosen = names.index(of) if of in names else int(of) if of.isascii() and of.isdigit() else len(names)
        if chosen >= len(names):
            raise ConfigurationError(f"--of is {of!r}; the network's classes are {', '.join(names)}")
    pixels, name = _model_image(image, model, about, path)
    device = get_backend(backend, math)
    values = getattr(show, kind)(model, pixels, out, chosen, backend=device, name=name, **settings)
    outputs = model.predict(pixels[None])[0]
    chosen = int(outputs.argmax()) if chosen is None else chosen
    word = "value" if model.head == "regressor" else "probability"
    said = {"backend": device.name, "math": device.math, "run": str(path), "image": name}
    said |= {"class": names[chosen], word: float(outputs[chosen]), "largest": float(values.max())}
    row, column = divmod(int(values.argmax()), values.shape[1])
    _say(json, out, said | {"row": row, "column": column} | ({"map": values.tolist()} if json else {}))


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
    _say(json, out, values)


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
    model, settings, path = _open(run, weights, out, page)
    from gpucnn import show
    from gpucnn.backends import get_backend
    from gpucnn.data.images import open_image, pixels
    from gpucnn.data.load import base
    from gpucnn.data.parts import NOTHING

    places: list = []
    if page is None:
        test = _test_images(settings | {"data": base(settings["data"])} if settings.get("data") else settings, path)
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
    _say(json, out, about)


_COMMANDS: tuple[Any, ...] = (
    filters,
    maps,
    match,
    pixel_use,
    curves,
    confusion,
    mistakes,
    saliency,
    occlusion,
    gradcam,
    doubts,
    scores,
)
for _function in _COMMANDS:
    # An image typed as numbers may begin with a minus sign; it is no option then.
    _settings = {"ignore_unknown_options": True} if _function is match else {}
    app.command(_function.__name__.replace("_", "-"), context_settings=_settings)(command(_function))


def _open(run: str | None, weights: str | None, out: Path, *inputs: str | None):
    """open_run, if the picture can be written and would replace nothing that is read."""
    from gpucnn import figures
    from gpucnn.data.load import path_of

    figures.check_path(out)
    model, settings, path = open_run(run, weights)
    places = (path_of(given) for given in (*inputs, settings.get("data")) if given is not None)
    refuse_input(out, *places, path if path.is_file() else None)
    return model, settings, path


def _say(json: bool, out: Path, values: dict[str, Any]) -> None:
    values = {"picture": str(out), **values}
    (print_json if json else print_values)(values)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and not Path(text).exists()


def _test_images(settings: dict, path: Path | None):
    """The test set of the run's data."""
    import gpucnn.data

    return gpucnn.data.load(of_run(settings, path, "give an image file instead"))[1]


def _pick(test, number: str):
    if int(number) >= len(test.images):
        raise DataError(f"there is no test image {number}; they run from 0 to {len(test.images) - 1}")
    return test.images[int(number)]


def _model_image(text: str, model, settings: dict, path: Path | None):
    """(pixels as the model takes them, name) of a test image or an image file."""
    from gpucnn.data import load_images

    refuse_maps(model, path)
    if _is_number(text):
        test = _test_images(settings, path)
        return _pick(test, text), f"test image {int(text)}: {test.classes[test.labels[int(text)]]}"
    _, white = trained_on(model, settings.get("data"))
    images, _, notes = load_images(text, model.image_shape, white=white)
    for line in notes:
        note(line)
    return images[0], Path(text).name


def _any_image(text: str, channels: int, settings: dict, path: Path | None):
    """(values, name): rows of numbers, a test image or an image file, for a pattern of so many channels."""
    import numpy as np

    from gpucnn.data.images import open_image, pixels

    if not Path(text).exists() and ("," in text or ";" in text):
        return _channels("IMAGE", text), _TYPED
    if _is_number(text):
        image, name = _pick(_test_images(settings, path), text), f"test image {int(text)}"
        if image.shape[0] == 3 and channels == 1:
            image = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), image, 1)[None]  # ITU-R 601 luma
        return image, name
    if channels not in (1, 3):
        raise DataError(f"the filter looks at {channels} channels; image files give 1 (grey) or 3 (RGB)")
    return pixels(open_image(Path(text)), channels), Path(text).name


def _numbers(what: str, text: str) -> list[list[float]]:
    """Rows of numbers from '1,2;3,4'."""
    try:
        rows = [[float(cell) for cell in row.split(",")] for row in text.split(";")]
    except ValueError:
        rows = []
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise DataError(f"{what} is {text!r}; expected rows of equally many numbers, such as '1,-1,-1;-1,1,-1;-1,-1,1'")
    return rows


def _channels(what: str, text: str):
    """(C, R, S) float32 from '1,2;3,4/5,6;7,8'."""
    import numpy as np

    channels = [np.array(_numbers(what, part), np.float32) for part in text.split("/")]
    if len({channel.shape for channel in channels}) > 1:
        sizes = ", ".join("x".join(map(str, channel.shape)) for channel in channels)
        raise DataError(f"{what} is {text!r}, channels of {sizes} numbers; they must be of one size")
    return np.stack(channels)


def _sizes(option: str, text: str):
    """An integer, a tuple of them from '2x3', or the words that padding takes."""
    if option == "--padding" and text in ("same", "valid"):
        return text
    try:
        values = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        words = ", same or valid" if option == "--padding" else ""
        raise ConfigurationError(
            f"{option} is {text!r}; expected a whole number such as 2, one per axis such as 2x3{words}"
        ) from None
    return values[0] if len(values) == 1 else values


def _tested(run, weights, data, out, backend, math, threads):
    """(test set, probabilities of its images, what to print of it)."""
    model, settings, path = _open(run, weights, out, data)
    if model.head == "regressor":
        raise ConfigurationError(f"{path} is a regressor, which has no classes to take for each other")
    refuse_maps(model, path)

    from gpucnn.backends import get_backend
    from gpucnn.training import Trainer

    device = get_backend(backend, math, threads=threads)
    data, test = test_set(model, settings, path, data)
    note(f"testing {model.name} on {device.name}, {device.math} math")
    probabilities = Trainer(model, backend=device, progress=False).predict(test.images)
    return test, probabilities, {"backend": device.name, "math": device.math, "run": str(path), "data": data}
