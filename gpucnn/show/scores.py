"""A classifier that slides over a page, and the map of class scores that results."""

import textwrap
from dataclasses import dataclass

import numpy as np

from gpucnn import figures
from gpucnn.arguments import integer, number
from gpucnn.backends.protocol import Backend
from gpucnn.data.parts import NOTHING
from gpucnn.errors import ConfigurationError, DataError, ShapeError
from gpucnn.geometry import Window
from gpucnn.models import fully_convolutional, sliding_window
from gpucnn.models.heads import CLASSIFIER
from gpucnn.models.inputs import check_images
from gpucnn.models.model import Model, a_model
from gpucnn.show.layers import choose
from gpucnn.show.match import show_image

_LARGEST = 2_000_000  # pixels of a page: each takes a lane for each of 16 or 32 images, though a page is one image
_LEGEND = 20  # up to so many classes, the legend shows each one's color


@dataclass(frozen=True)
class Sighting:
    """A place above the threshold: the class, its probability, and the window (top, left, height, width)."""

    label: str
    probability: float
    box: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Scores:
    """`probabilities` (classes, P, Q) float64, the classifier's `window`, and the places `found`, likeliest first."""

    probabilities: np.ndarray
    window: Window
    found: list[Sighting]


def scores(
    model: Model,
    page,
    path=None,
    *,
    threshold: float = 0.9,
    backend: str | Backend | None = None,
    math: str | None = None,
) -> Scores:
    """Slide a classifier over `page` (C, H, W) and draw page and scores into the PNG at `path` (None: draw nothing).

    The classifier becomes a fully convolutional network with the same weights (`gpucnn.models.fully_convolutional`),
    its outputs at each place go through a softmax in float64. `found` are the places whose likeliest class has at least
    `threshold`, likeliest first, none overlapping one before it; the class "nothing" of `gpucnn.data.with_parts` is no
    find. A network without it knows only its other classes: parts of digits and blank paper are classified as the ones
    that they resemble most, and it may be very sure of it.

    Raises ShapeError for a page smaller than the classifier's images or with another number of channels,
    ConfigurationError for a model that cannot slide, DataError for a NaN in the page or the network's answers.
    """
    if path is not None:
        figures.check_path(path)
    if a_model(model).head != CLASSIFIER:
        raise ConfigurationError(f"{model.name} is a {model.head}: it has no classes, so a page has no class scores")
    threshold = number("threshold", threshold, least=0, most=1)
    page = np.asarray(page)
    if page.ndim != 3 or page.shape[0] != model.input_shape[0]:
        raise ShapeError(f"the page has shape {page.shape}; expected ({model.input_shape[0]}, H, W)")
    if page.shape[1] * page.shape[2] > _LARGEST:
        raise DataError(
            f"the page has {page.shape[1]:,} x {page.shape[2]:,} pixels; cut it into parts of at most {_LARGEST:,}, or "
            "make it smaller"
        )
    device = choose(model, backend, math)
    images = check_images(page[None], page.shape, device.dtype)
    sliding = fully_convolutional(model, page.shape).place(device)
    sliding.mode.training = False
    values = sliding(images)[0].numpy()[0].astype(np.float64)  # (classes, P, Q)
    figures.check_finite("the network's answers", values)
    values = np.exp(values - values.max(axis=0))
    probabilities = values / values.sum(axis=0)
    fit = sliding_window(model, page.shape)
    names = model.class_names or [str(label) for label in range(len(probabilities))]
    result = Scores(probabilities, fit, _sure(probabilities, fit, threshold, names))
    if path is not None:
        figures.save(_draw(page, result, names, threshold), path)
    return result


def _sure(probabilities: np.ndarray, fit: Window, threshold: float, names: list[str]) -> list[Sighting]:
    """The places at or above the threshold, likeliest first, without windows that overlap one already taken."""
    best = probabilities.max(axis=0) * _something(probabilities, names)
    places = np.argwhere((best >= threshold) & (best > 0))
    places = places[np.argsort(-best[tuple(places.T)], kind="stable")]
    near = [-(-k // s) for k, s in zip(fit.kernel, fit.stride)]  # so many places apart, two windows do not overlap
    sightings = []
    while len(places):
        row, column = places[0]
        top, left = int(row) * fit.stride[0], int(column) * fit.stride[1]
        height, width = fit.kernel
        label = int(probabilities[:, row, column].argmax())
        sightings.append(Sighting(names[label], float(best[row, column]), (top, left, height, width)))
        places = places[(np.abs(places - places[0]) >= near).any(axis=1)]
    return sightings


def _something(probabilities: np.ndarray, names: list[str]) -> np.ndarray:
    """(P, Q): whether the likeliest class is another than "nothing"."""
    return probabilities.argmax(axis=0) != (names.index(NOTHING) if NOTHING in names else -1)


def digit_page(images: np.ndarray, rows: int = 5, columns: int = 8) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A page (C, H', W') of the first rows * columns of `images` (N, C, H, W), and each one's (top, left).

    Image i is in row i // columns and column i % columns of cells 1.5 times as large as an image, with a margin of a
    quarter of an image; within its cell it is moved down by (5 * i) % 9 and right by (7 * i) % 11 thirty-seconds of an
    image, so that the images are not aligned. The background is 0.
    """
    rows, columns = integer("rows", rows), integer("columns", columns)
    if np.ndim(images) != 4 or len(images) < rows * columns:
        raise ShapeError(
            f"images have shape {np.shape(images)}; expected (N, C, H, W) with N at least {rows * columns}"
        )
    images = np.asarray(images[: rows * columns])  # of a mapped array, no more is read
    channels, height, width = images.shape[1:]
    page = np.zeros(
        (channels, height // 4 * 2 + rows * (height * 3 // 2), width // 4 * 2 + columns * (width * 3 // 2)), np.float32
    )
    places = []
    for i in range(rows * columns):
        top = height // 4 + i // columns * (height * 3 // 2) + 5 * i % 9 * height // 32
        left = width // 4 + i % columns * (width * 3 // 2) + 7 * i % 11 * width // 32
        page[:, top : top + height, left : left + width] = images[i]
        places.append((top, left))
    return page, places


def _colors(count: int):
    """(count, 3): one color per class."""
    import matplotlib

    if count <= 10:
        return matplotlib.color_sequences["tab10"][:count]
    if count <= 20:
        return matplotlib.color_sequences["tab20"][:count]
    return matplotlib.colormaps["hsv"](np.arange(count) / count)[:, :3]


def _draw(page: np.ndarray, result: Scores, names: list[str], threshold: float):
    from matplotlib.patches import Patch, Rectangle

    height, width = page.shape[1:]
    colors = np.array(_colors(len(names)))
    side_by_side = height > width
    inch = min((4.7 if side_by_side else 9.5) / width, 8.0 / height)
    wide, high = max(4.0, width * inch), height * inch + 0.8  # inches per panel
    legend = len(names) <= _LEGEND
    if side_by_side:
        figure = figures.new_figure(2 * wide + 0.8, high + 0.4 + 0.5 * legend)
    else:
        figure = figures.new_figure(wide + 0.6, 2 * high + 0.4 + 0.5 * legend)
    upper, lower = figure.subplots(*((1, 2) if side_by_side else (2, 1)), sharex=True, sharey=True)
    letters = int(wide / 0.078)

    show_image(upper, page)
    for sighting in result.found:
        top, left, *size = sighting.box
        color = colors[names.index(sighting.label)]
        upper.add_patch(
            Rectangle((left - 0.5, top - 0.5), size[1], size[0], fill=False, edgecolor=color, linewidth=1.8)
        )
        label = figures.cut(sighting.label)
        upper.text(
            left - 0.5,
            top - 0.5,
            f"{label}  {_percent(sighting.probability)}",
            fontsize=8,
            color="white",
            va="bottom",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1.2},
            clip_on=True,
        )
    places = figures.many(len(result.found), "place")
    title = f"the page, and where a class has at least {100 * threshold:g}%: {places}"
    upper.set_title(textwrap.fill(title, letters), fontsize=10)

    best = result.probabilities.max(axis=0)
    color = colors[result.probabilities.argmax(axis=0)]  # (P, Q, 3)
    strength = (np.clip(2 * best - 1, 0, 1) ** 2 * _something(result.probabilities, names))[..., None]
    # Each score is drawn at the middle of its window.
    (kh, kw), (sh, sw), (p, q) = result.window.kernel, result.window.stride, result.window.output
    west, north = kw / 2 - sw / 2 - 0.5, kh / 2 - sh / 2 - 0.5
    extent = (west, west + q * sw, north + p * sh, north)
    lower.imshow(1 - strength * (1 - color), interpolation="nearest", extent=extent)
    for sighting in result.found:
        row, column, *size = sighting.box
        lower.text(
            column + size[1] / 2,
            row + size[0] / 2,
            figures.cut(sighting.label, 8),
            fontsize=9,
            weight="bold",
            ha="center",
            va="center",
            color="black",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.75},
            clip_on=True,
        )
    empty = "it is nothing or " if NOTHING in names else ""
    title = (
        f"the likeliest class at each of {p}x{q} places, {_steps(sh, sw)} apart; white where {empty}none exceeds 50%"
    )
    lower.set_title(textwrap.fill(title, letters), fontsize=10)
    for axes in (upper, lower):
        axes.set_xlim(-0.5, width - 0.5)
        axes.set_ylim(height - 0.5, -0.5 - 0.16 / inch)  # with room for the label above a box at the edge
        axes.set_aspect("equal")
        axes.tick_params(length=2, labelsize=8)
    if legend:
        kinds = [(color, figures.cut(name, 20)) for color, name in zip(colors, names) if name != NOTHING]
        handles = [Patch(color=color, label=name) for color, name in kinds]
        columns = int(figure.get_size_inches()[0] / (0.75 + 0.075 * min(20, max(map(len, names)))))
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=max(1, min(10, columns)),
            frameon=False,
            fontsize=8,
            title="class",
        )
    return figure


def _percent(value: float) -> str:
    return ">99.9%" if value > 0.999 else f"{value:.1%}"


def _steps(rows: int, columns: int) -> str:
    return figures.many(rows, "pixel") if rows == columns else f"{rows} and {columns} pixels"
