"""The feature maps of one image, layer by layer."""

import textwrap
from typing import Any

import numpy as np

from gpucnn import figures
from gpucnn.backends.protocol import Backend
from gpucnn.errors import ConfigurationError
from gpucnn.models.heads import CLASSIFIER
from gpucnn.models.model import Model, a_model
from gpucnn.show.layers import Step, choose, steps
from gpucnn.show.match import show_image

_MAPS = 32  # per layer, at most
_ACROSS = 16
_CLASSES = 12
_LABEL, _WIDTH = 2.3, 8.6  # inches: the labels at the left, the maps
_LETTERS = 26  # of a label's line


def maps(
    model: Model,
    image,
    path=None,
    *,
    backend: str | Backend | None = None,
    math: str | None = None,
    name: str = "",
) -> tuple[list[Step], np.ndarray]:
    """Draw the maps of `image` (C, H, W) layer by layer into the PNG at `path` (None: draw nothing).

    Returns (steps, probabilities): a Step has a layer's `name`, `kind` and `values` (C, *spatial), the image's has the
    name ''; probabilities (classes,) are the softmax of the last layer, or a regressor's values. A row of the picture
    is one layer, dark at its smallest value and bright at its largest. Of more than 32 maps, or slices of volumes, the
    first 32 are shown. `name` is the image's label.

    Raises ShapeError, DTypeError or DataError for an image that does not fit the model, and DataError where a NaN or
    infinity would be drawn.
    """
    if path is not None:
        figures.check_path(path)
    if len(a_model(model).output_shape) != 1:
        raise ConfigurationError(
            f"the model's output is {model.output_shape}, not (classes,): one prediction per position"
        )
    layers, probabilities = steps(model, image, choose(model, backend, math))
    if path is not None:
        for step in layers:
            figures.check_finite(f"the maps of layer {step.name}" if step.name else "the pixels", step.values)
        figures.check_finite("the network's answers", probabilities)
        names = model.class_names or [str(label) for label in range(len(probabilities))]
        class_probabilities = probabilities if model.head == CLASSIFIER else None
        figures.save(_draw(layers, class_probabilities, names, model.name, name), path)
    return layers, probabilities


def _draw(layers: list[Step], probabilities: np.ndarray | None, names: list[str], model: str, image: str):
    heights = [_height(step) for step in layers]
    total = sum(heights) + 0.22 * len(heights) + 0.95 + (1.75 if probabilities is not None else 0)
    figure = figures.new_figure(_LABEL + _WIDTH + 0.2, total, layout=None)
    title = f"The image in each layer of {model}: low-level features at the top, high-level at the bottom"
    figure.text(0.12 / (_LABEL + _WIDTH), 1 - 0.18 / total, title, fontsize=12, va="top")
    text = "each row from its smallest value, dark, to its largest, bright"
    figure.text(0.12 / (_LABEL + _WIDTH), 1 - 0.45 / total, text, fontsize=9, va="top", color=figures.INK)
    top = 0.82
    for step, height in zip(layers, heights):
        _row(figure, step, top, height, image)
        top += height + 0.22
    if probabilities is not None:
        _probability_bars(figures.inches(figure, _LABEL, top + 0.1, _WIDTH, 1.1), probabilities, names)
        _label(figure, top + 0.1, 1.1, "class probabilities", "softmax of the\nlast layer")
    return figure


def _height(step: Step) -> float:
    """The height of a layer's row in inches."""
    if step.values.ndim <= 2:
        return max(0.42, 0.04 * len(_strips(step.values)))
    if _is_picture(step):
        return 1.3
    count, height, width = _tiles(step.values).shape
    side = _WIDTH / min(count, _ACROSS) * height / width
    return max(0.42, -(-count // _ACROSS) * min(side, 1.1))


def _is_picture(step: Step) -> bool:
    """Whether it is the image itself, with two axes."""
    return not step.name and step.values.ndim == 3


def _strips(values: np.ndarray) -> np.ndarray:
    """(n, L): the values of a layer without axes as one strip, or the first maps of (C, L), one below the other."""
    return values[None] if values.ndim == 1 else values[:_MAPS]


def _tiles(values: np.ndarray) -> np.ndarray:
    """(n, H, W): the first maps of (C, *spatial); a volume gives its slices."""
    return values.reshape(-1, *values.shape[-2:])[:_MAPS]


def _label(figure, top: float, height: float, head: str, text: str) -> None:
    total = figure.get_size_inches()[1]
    middle = 1 - (top + height / 2) / total
    width = _LABEL + _WIDTH + 0.2
    head = "\n".join(textwrap.wrap(head, _LETTERS, max_lines=3, placeholder="…"))
    figure.text(0.12 / width, middle, head, fontsize=9, weight="bold", va="bottom", color=figures.INK)
    figure.text(0.12 / width, middle - 0.03 / total, text, fontsize=8, va="top", color=figures.INK, linespacing=1.15)


def _row(figure, step: Step, top: float, height: float, image: str) -> None:
    values = step.values
    low, high = float(values.min()), float(values.max())
    span = f"{_short(low)} to {_short(high)}"
    if _is_picture(step):
        axes = figures.inches(figure, _LABEL, top, _WIDTH, height)
        show_image(axes, values)
        axes.set_anchor("W")
        axes.axis("off")
        _label(figure, top, height, image or "the image", f"{figures.shape(values.shape)}\n{span}")
        return
    head = f"layer {step.name}: {step.kind}" if step.name else image or "the image"
    text = figures.shape(values.shape)
    if step.name:
        size = figures.shape(values.shape[1:])
        text = f"{figures.many(len(values), 'map')} of {size}" if size else figures.many(len(values), "value")
    scale: dict[str, Any] = {"cmap": figures.AMOUNT, "vmin": low, "vmax": high if high > low else low + 1}
    if values.ndim <= 2:
        shown = _strips(values)
        axes = figures.inches(figure, _LABEL, top + 0.06, _WIDTH, height - 0.12)
        axes.imshow(shown, aspect="auto", **scale)
        axes.set_xticks([])
        axes.set_yticks([])
    else:
        shown = _tiles(values)
        axes = figures.inches(figure, _LABEL, top, _WIDTH, height)
        figures.tile_grid(axes, shown, min(len(shown), _ACROSS), **scale)
        axes.set_anchor("W")
    if values.ndim > 3 and len(shown) < len(values) * values.shape[1]:
        text += f"\n(first {len(shown)} slices)"
    elif len(shown) == _MAPS < len(values):
        text += f" (first {len(shown)})"
    _label(figure, top, height, head, f"{text}{', ' if values.ndim == 1 else chr(10)}{span}")


def _probability_bars(axes, probabilities: np.ndarray, names: list[str]) -> None:
    shown = np.arange(len(names))
    if len(names) > _CLASSES:  # the likeliest, likeliest first
        shown = np.argsort(-probabilities, kind="stable")[:_CLASSES]
    best = int(np.argmax(probabilities))
    places = np.arange(len(shown))
    axes.bar(places, probabilities[shown], 0.7, color=[figures.GOOD if c == best else "#bdbdbd" for c in shown])
    for place, label in zip(places, shown):
        axes.text(place, probabilities[label] + 0.03, f"{probabilities[label]:.1%}", ha="center", fontsize=8)
    letters = int(_WIDTH / max(len(shown), 4) / 0.09)  # what fits under a bar
    words = [textwrap.wrap(names[label], letters) or [""] for label in shown]
    axes.set_xticks(places, ["\n".join(figures.cut(line, letters) for line in lines[:3]) for lines in words])
    axes.set_xlim(-0.6, max(len(shown), 4) - 0.4)
    axes.set_ylim(0, 1.2)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0, labelsize=9, rotation=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if len(shown) < len(names):
        axes.set_title(f"the {_CLASSES} likeliest of {len(names)} classes", fontsize=8, loc="right")


def _short(value: float) -> str:
    return (f"{value:.2f}" if abs(value) < 1e4 else f"{value:.2g}").replace("-", figures.MINUS)
