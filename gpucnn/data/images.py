"""Image files: read, to grey or RGB, and to a network's input size."""

import contextlib
import io
import re
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gpucnn import arguments
from gpucnn.data.drawing import Style
from gpucnn.data.mapped import Mapped
from gpucnn.errors import DataError, ShapeError
from gpucnn.storage import as_path, decoding, open_regular

KINDS = "PNG, JPEG, WebP, BMP, TIFF or GIF"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_UNREAD = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".tga", ".ppm", ".pgm", ".psd", ".dng")
_GREY_MODES = ("1", "L", "LA")
_OVERSHOOT = 0.1  # below 0 and above 1: what sharp resampling adds
_MOST_PIXELS = 89_478_485  # a quarter of a GiB as RGB; where Pillow warns of a decompression bomb


def image_files(folder: Path) -> list[Path]:
    """The files in a folder, not in folders within it, that are called like images, in the order of their names; also
    those of formats that `open_image` refuses, so that none is left out in silence.
    """
    named = sorted(entry for entry in folder.iterdir() if entry.name[0] != ".")
    return [entry for entry in named if entry.suffix.lower() in ENDINGS + _UNREAD]


def files_at(path: str | Path) -> list[Path]:
    """The image files in the folder at `path`, or that file; raises DataError where there is none."""
    path = as_path(path)
    with decoding(path, DataError, "folder of images"):
        if not path.exists():
            raise DataError(f"{path} does not exist; give an image file, or a folder of them")
        files = image_files(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no {KINDS} image")
    return files


def load_images(
    path: str | Path,
    input_shape: tuple[int, int, int],
    *,
    style: Style | None = None,
    invert: bool = False,
    white: float = 1.0,
) -> tuple[np.ndarray, list[Path], list[str]]:
    """(images, files, notes) for a network whose input is `input_shape` (C, H, W), from one file or a folder.

    With the `style` of the training images each file becomes such an image (`Style.prepare`): a drawing or photo of ink
    of any colour, size and place; one that looks like the training images already is taken as it is. Without, or where
    those are no drawings (`Style.is_of_drawings`), nothing but its size changes. `invert` exchanges light and dark
    first. `white` is the value of white in the training images: 255 where they are whole numbers up to that.

    images (N, C, H, W) float32, values / 255 where white is 1. C = 1: colour becomes grey (ITU-R 601 luma); C = 3: grey
    becomes RGB. Another size is stretched to H x W, the sides' ratio not kept: by repeating pixels where both sides
    grow by the same whole factor (as the built-in digits are enlarged), otherwise bilinearly. `notes` say so, once for
    each size.
    Raises DataError for a file that is no whole image, an empty folder or drawing, and another C.
    """
    shape = arguments.image_shape("input_shape", input_shape)
    if len(shape) != 3:
        raise ShapeError(f"input_shape is {shape}; give (C, H, W), such as (1, 32, 32)")
    channels, height, width = shape
    if channels not in (1, 3):
        raise DataError(f"the network takes {channels} channels; image files give 1 (grey) or 3 (RGB)")
    files = files_at(path)
    if style is not None and style.shape != shape:
        raise ShapeError(f"the style is of images {style.shape}, but input_shape is {shape}; they must be equal")
    images: list[np.ndarray] = []
    notes: dict[str, None] = {}  # in order, each once
    for file in files:
        image, note = open_image(file), None
        if image.size != (width, height):
            w, h = image.size
            resized, how = _resize(image, width, height, channels)
            note = f"resized from {w}x{h} to {width}x{height} pixels, {how}"
        else:
            resized = image
        values = pixels(resized, channels, white)
        values = np.float32(white) - values if invert else values
        if style is not None and style.is_of_drawings and not style.fits(values):
            try:
                prepared = style.prepare(pixels(image, 1)[0])
            except DataError as error:
                raise DataError(f"{file}: {error}") from None
            values, note = prepared.image, _how_prepared(prepared.light_ink, style)
        images.append(values)
        if note is not None:
            notes[note] = None
    return np.stack(images), files, list(notes)


def _how_prepared(light_ink: bool, style: Style) -> str:
    """What became of a drawing, in words."""
    ink, training = ("light" if light else "dark" for light in (light_ink, style.ink > style.paper))
    turned = f"{ink} ink" if ink == training else f"{ink} ink made {training}"
    return f"brought to what the training images look like: {turned}, its pen, size and place as theirs"


def open_image(file: Path | BinaryIO):
    """A PIL image, decoded, turned as its EXIF orientation says, without transparency. Raises DataError, also
    for a file that holds several.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    with (
        warnings.catch_warnings(),
        decoding(file, DataError, "image file"),  # Pillow raises many kinds, SyntaxError among them
        open_regular(file, DataError) if isinstance(file, str | Path) else contextlib.nullcontext(file) as stream,
    ):
        warnings.simplefilter("ignore")  # of damaged metadata, and of decompression bombs, which are refused below
        try:
            opened = Image.open(stream, formats=_FORMATS)
        except UnidentifiedImageError:
            raise DataError(f"cannot read {file} as a {KINDS} image: it does not begin as one") from None
        with opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise DataError(
                    f"{file} announces {opened.width}x{opened.height} pixels; images of more than {_MOST_PIXELS:,} are "
                    "refused"
                )
            if opened.format in ("GIF", "WEBP", "TIFF") and (count := getattr(opened, "n_frames", 1)) > 1:
                raise DataError(f"{file} holds {count} images, of an animation or pages; save the one that is meant")
            kinds = [opened.mode, *re.findall(r"\w+;16[BLN]", str(opened.tile))]  # of colours Pillow drops 8 of 16 bits
            opened.load()
            image = ImageOps.exif_transpose(opened)
        if image.mode.startswith(("I", "F")) or len(kinds) > 1:
            raise DataError(
                f"{file} has more than 8 bits a channel (mode {kinds[-1]}); save it with 8 bits, or the images as "
                "float32 in an .npz file"
            )
        if image.has_transparency_data:
            if np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
                raise DataError(f"{file} is partly transparent; put it on a background first")
            image = image.convert("L" if image.mode in _GREY_MODES else "RGB")
        return image


class InMemory(io.BytesIO):
    """An image file in memory, which messages call `name`."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name


def is_grey(image) -> bool:
    """Whether a PIL image stores grey values, not colours that happen to be grey."""
    return image.mode in _GREY_MODES


def white_of(images: np.ndarray | Mapped) -> float:
    """The value of white in training images (N, C, H, W): 255 where they are whole numbers up to that, else 1.

    Raises DataError where their values lie in another range, in which the pixels of a file have no place.
    """
    parts = images.parts() if isinstance(images, Mapped) else [(0, images)]
    found = [(float(part.min()), float(part.max()), not (part % 1).any()) for _, part in parts]
    low, high = min(low for low, _, _ in found), max(high for _, high, _ in found)
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return 1.0
    if low >= 0 and 128 <= high <= 255 and all(whole for _, _, whole in found):
        return 255.0
    raise DataError(
        f"the training images have values from {low:g} to {high:g}, and which of them is white cannot be known; store "
        "them as uint8 (0 to 255) or as floats from 0 to 1, and train again"
    )


def pixels(image, channels: int, white: float = 1.0) -> np.ndarray:
    """(C, H, W) float32, values / 255 * white, of a PIL image; C is 1 or 3."""
    values = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.uint8).reshape(image.height, image.width, -1)
    return values.transpose(2, 0, 1) / np.float32(255 / white)  # (H, W, C) -> (C, H, W)


def _resize(image, width: int, height: int, channels: int):
    """The image at another size, and in words how."""
    from PIL import Image

    image = image.convert("L" if channels == 1 else "RGB")
    w, h = image.size
    if width % w == 0 and height % h == 0 and width // w == height // h:
        return image.resize((width, height), Image.Resampling.NEAREST), "each pixel repeated"
    return image.resize((width, height), Image.Resampling.BILINEAR), "bilinearly"
