"""`gpucnn predict`."""

from pathlib import Path
from typing import Annotated

import typer

from gpucnn.cli import options
from gpucnn.cli.output import note, print_json, print_table
from gpucnn.cli.runs import open_run, refuse_maps, refuse_not_finite, trained_on
from gpucnn.errors import ConfigurationError, DataError
from gpucnn.storage import refuse_input

_SHOWN = 3


def predict(
    images: Annotated[
        list[str],
        typer.Argument(help="Image files (PNG, JPEG, WebP, BMP, TIFF, GIF), or folders of them.", metavar="IMAGE..."),
    ],
    run: options.Run = None,
    weights: options.Weights = None,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Change nothing but an image's size, even if it is unlike training images.")
    ] = False,
    invert: Annotated[
        bool,
        typer.Option(
            "--invert", help="Exchange light and dark. Of a drawing that is not taken --as-is, the ink is found anyway."
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="What the network was trained on, which its images shall look like. Default: as the run says.",
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw each image beside what the network was shown, a .png.")
    ] = None,
    flips: options.Flips = False,
    backend: options.Backend = None,
    math: options.Math = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Say what a trained network sees in each image.

    If the network was trained on drawings, such as the digits, each image may be a drawing or a photo of one: dark on
    light or light on dark, of any size, anywhere on the paper. It is brought to what the training images look like, and
    --picture shows the result. Other images become grey or RGB as the network needs it and are stretched to its size.
    """
    if picture is not None:
        from gpucnn import figures
        from gpucnn.data.load import path_of

        figures.check_path(picture)
    if as_is and data is not None:
        raise ConfigurationError(f"--data {data} says what images shall look like; it has no meaning with --as-is")
    model, settings, path = open_run(run, weights)
    trained_with = settings.get("data") if data is None else data
    if picture is not None:
        kept = path if path.is_file() else None, trained_with and path_of(trained_with)
        refuse_input(picture, *_files(images), *kept)
    refuse_maps(model, path)

    import gpucnn.data
    from gpucnn.backends import get_backend
    from gpucnn.training import Trainer

    trained, white = trained_on(model, trained_with, data is not None)
    style = None if trained is None else gpucnn.data.Style.of(trained)
    prepare = None if as_is or style is None or not style.is_of_drawings else style
    how = {"style": prepare, "invert": invert, "white": white}
    pixels, files, notes, refused = _read(_files(images), model.image_shape, **how)
    if style is not None and prepare is None and (strange := style.mismatch(pixels)):
        notes.append(f"{strange}: leave out --as-is, or {'do without' if invert else 'add'} --invert")
    for text in notes:
        note(text)
    device = get_backend(backend, math, threads=threads)
    note(f"predicting with {model.name} on {device.name}, {device.math} math")
    probabilities = Trainer(model, backend=device, progress=False).predict(pixels, flips=flips)
    refuse_not_finite(path, probabilities)
    about = {"backend": device.name, "math": device.math, "run": str(path), "notes": notes, "refused": refused}
    _print(model, files, probabilities, about, json)
    if picture is not None:  # after them: the disk may be full
        from gpucnn import show

        titles = [""] * len(files)
        if model.head == "classifier":
            classes, best = _ranked(model, probabilities)
            titles = [f"{classes[order[0]]}: {row[order[0]]:.1%}" for row, order in zip(probabilities, best)]
        show.inputs(files, pixels, picture, titles=titles)
        note(f"what the network was shown: {picture}")
    if refused:
        raise DataError(f"{len(refused)} of {len(files) + len(refused)} files have no result: {'; '.join(refused)}")


def _files(images: list[str]) -> list[Path]:
    """The files that are meant, each once."""
    from gpucnn.data.images import files_at

    return list(dict.fromkeys(file for image in images for file in files_at(image)))


def _read(files: list[Path], shape, **how):
    """(images, files, notes, what is wrong with the other files), each file by itself: one that is damaged costs no
    result of another. Raises DataError where none can be read.
    """
    import numpy as np

    from gpucnn.data.images import load_images

    read: dict[Path, np.ndarray] = {}
    notes: dict[str, None] = {}  # in order, each once
    refused = []
    for file in files:
        try:
            read[file], _, said = load_images(file, shape, **how)
            notes |= dict.fromkeys(said)
        except DataError as error:
            refused.append(error)
    if not read:
        raise refused[0]
    return np.concatenate(list(read.values())), list(read), list(notes), list(map(str, refused))


def _print(model, files, probabilities, about: dict, json: bool) -> None:
    """What a network says of each file."""
    if model.head == "regressor":
        _print_values(files, probabilities, about, json)
        return
    classes, best = _ranked(model, probabilities)
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


def _ranked(model, probabilities):
    """(the classes' names, for each image their numbers, the likeliest first)."""
    classes = model.class_names or [str(label) for label in range(probabilities.shape[1])]
    return classes, (-probabilities).argsort(axis=1, kind="stable")


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
