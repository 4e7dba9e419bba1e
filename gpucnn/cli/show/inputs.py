"""What the commands share: their options, the run that they open, and the images that they draw."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gpucnn.cli.output import note, print_json, print_values
from gpucnn.cli.runs import of_run, open_run, refuse_maps, trained_on
from gpucnn.cli.show import typed
from gpucnn.errors import DataError
from gpucnn.storage import refuse_input

TYPED = "the image"  # what an image of typed numbers is called

Layer = Annotated[
    str | None, typer.Option("--layer", help="Name of a convolution, as `gpucnn summary` lists it. Default: the first.")
]
Image = Annotated[str, typer.Argument(help="An image file, or the number of a test image.", metavar="IMAGE")]
Out = Annotated[Path, typer.Option("--out", help="The picture's file, a .png; one that is there is replaced.")]


def open_for(run: str | None, weights: str | None, out: Path, *inputs: str | None):
    """open_run, if the picture can be written and would replace nothing that is read."""
    from gpucnn import figures
    from gpucnn.data.load import path_of

    figures.check_path(out)
    model, settings, path = open_run(run, weights)
    places = (path_of(given) for given in (*inputs, settings.get("data")) if given is not None)
    refuse_input(out, *places, path if path.is_file() else None)
    return model, settings, path


def say(json: bool, out: Path, values: dict[str, Any]) -> None:
    values = {"picture": str(out), **values}
    (print_json if json else print_values)(values)


def test_images(settings: dict, path: Path | None):
    """The test set of the run's data."""
    import gpucnn.data

    return gpucnn.data.load(of_run(settings, path, "give an image file instead"))[1]


def _pick(test, number: str):
    if int(number) >= len(test.images):
        raise DataError(f"there is no test image {number}; they run from 0 to {len(test.images) - 1}")
    return test.images[int(number)]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and not Path(text).exists()


def model_image(text: str, model, settings: dict, path: Path | None):
    """(pixels as the model takes them, name) of a test image or an image file."""
    from gpucnn.data import load_images

    refuse_maps(model, path)
    if _is_number(text):
        test = test_images(settings, path)
        return _pick(test, text), f"test image {int(text)}: {test.classes[test.labels[int(text)]]}"
    _, white = trained_on(model, settings.get("data"))
    images, _, notes = load_images(text, model.image_shape, white=white)
    for line in notes:
        note(line)
    return images[0], Path(text).name


def any_image(text: str, channels: int, settings: dict, path: Path | None):
    """(values, name): rows of numbers, a test image or an image file, for a pattern of so many channels."""
    import numpy as np

    from gpucnn.data.images import open_image, pixels

    if not Path(text).exists() and ("," in text or ";" in text):
        return typed.channels("IMAGE", text), TYPED
    if _is_number(text):
        image, name = _pick(test_images(settings, path), text), f"test image {int(text)}"
        if image.shape[0] == 3 and channels == 1:
            image = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), image, 1)[None]  # ITU-R 601 luma
        return image, name
    if channels not in (1, 3):
        raise DataError(f"the filter looks at {channels} channels; image files give 1 (grey) or 3 (RGB)")
    return pixels(open_image(Path(text)), channels), Path(text).name
