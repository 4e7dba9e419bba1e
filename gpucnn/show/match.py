"""Where in an image a pattern scores highest."""

from dataclasses import dataclass

import numpy as np

from gpucnn import figures, functional
from gpucnn.errors import DTypeError, ShapeError
from gpucnn.geometry import window


@dataclass(frozen=True, eq=False)
class Match:
    """The mean of products at each place, and the first of the places with the highest.

    `scores` (P, Q) float64; `place` (row, column) of the best, its `score`, and `box`, what the filter covers there in
    pixels of the image: (top, left, height, width), `top` and `left` negative where it begins in the padding.
    """

    scores: np.ndarray
    place: tuple[int, int]
    score: float
    box: tuple[int, int, int, int]


def match(
    image,
    pattern,
    path=None,
    *,
    stride=1,
    padding=0,
    backend: str | None = None,
    math: str | None = None,
    name: str = "the image",
) -> Match:
    """Slide `pattern` over `image`; draw image, pattern and map of scores into the PNG at `path` (None: draw nothing).

    image is (H, W) or (C, H, W), pattern (R, S) or (C, R, S): numbers, computed in float32 on `backend`. A score is the
    mean over the pattern of pattern times image (`functional.conv` divided by C*R*S): for values of -1 and 1 it is 1
    if all agree and -1 if none does. `stride` and `padding` as in `functional.conv`.

    Raises ShapeError if the two do not fit together, DTypeError for anything but numbers, DataError for a NaN or where
    a score is beyond float32.
    """
    image, pattern = (_channels(what, array) for what, array in (("image", image), ("pattern", pattern)))
    if image.shape[0] != pattern.shape[0]:
        raise ShapeError(
            f"the pattern has {figures.many(pattern.shape[0], 'channel')} and the image {image.shape[0]}; "
            "they must be equal"
        )
    if path is not None:
        figures.check_path(path)
    fit = window(image.shape[1:], pattern.shape[1:], stride=stride, padding=padding)
    sums = functional.conv(image[None], pattern[None], stride=stride, padding=padding, backend=backend, math=math)
    scores = figures.check_finite("the scores", sums[0, 0].astype(np.float64) / pattern.size)
    row, column = (int(i) for i in np.unravel_index(np.argmax(scores), scores.shape))
    top, left = (p * s - before for p, s, (before, _) in zip((row, column), fit.stride, fit.padding))
    height, width = fit.kernel
    best = Match(scores, (row, column), float(scores[row, column]), (top, left, height, width))
    if path is not None:
        figures.save(_draw(image, pattern, best, name), path)
    return best


def _channels(what: str, array) -> np.ndarray:
    """(C, H, W) float32."""
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"the {what} is {array.dtype}; give numbers")
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or 0 in array.shape:
        raise ShapeError(f"the {what} has shape {array.shape}; expected (H, W) or (C, H, W)")
    with np.errstate(over="ignore"):  # what float32 cannot represent becomes infinite, and is refused
        return figures.check_finite(f"the values of the {what}", array.astype(np.float32))


def show_image(axes, image: np.ndarray):
    """Draw an image (C, H, W): one channel in gray, three as colors, others by their mean.

    Colors are from 0, or their smallest, to 1, or their largest.
    """
    if image.shape[0] == 3:
        low, high = min(0.0, float(image.min())), max(1.0, float(image.max()))
        return axes.imshow((np.moveaxis(image, 0, -1) - low) / (high - low), interpolation="nearest")
    gray = image.mean(axis=0)
    low, high = min(0.0, float(gray.min())), float(gray.max())
    return axes.imshow(gray, cmap="gray", vmin=low, vmax=high if high > low else low + 1, interpolation="nearest")


def _draw(image: np.ndarray, pattern: np.ndarray, best: Match, name: str):
    from matplotlib.patches import Rectangle

    sizes = image.shape[1:], pattern.shape[1:], best.scores.shape
    top, left, *box = best.box
    # Pixels have the same size in all three, but a small pattern or map is enlarged to be readable.
    widest = max(width for _, width in sizes)
    ratios = [max(width, 0.3 * widest) for _, width in sizes]
    tallest = max(ratio * height / width for ratio, (height, width) in zip(ratios, sizes))
    across = min(9.2 / sum(ratios), 0.75, 9 / tallest)
    ratios = [max(ratio, 1.5 / across) for ratio in ratios]  # room for the title above each
    # Inches per pixel
    cells = [min(across * ratio / width, 9 / height) for ratio, (height, width) in zip(ratios, sizes)]
    highest = max(cell * height for cell, (height, _) in zip(cells, sizes))
    figure = figures.new_figure(max(7.0, across * sum(ratios) + 1.3), max(2.6, highest + 1.2))
    panels = figure.subplots(1, 3, width_ratios=ratios)

    drawn = show_image(panels[0], image)
    if len(image) == 1:
        _numbers(panels[0], drawn, image[0], cells[0])
    panels[0].add_patch(
        Rectangle(
            (left - 0.5, top - 0.5), box[1], box[0], fill=False, edgecolor=figures.MARK, linewidth=3, clip_on=False
        )
    )
    # The whole box is visible, even where it begins in the padding; elsewhere the image alone.
    panels[0].set_xlim(min(-0.5, left - 0.5), max(sizes[0][1], left + box[1]) - 0.5)
    panels[0].set_ylim(max(sizes[0][0], top + box[0]) - 0.5, min(-0.5, top - 0.5))
    panels[0].set_title(f"{name}, {figures.shape(sizes[0])}", fontsize=10)

    scale = figures.limit(pattern)
    if len(pattern) == 3:
        panels[1].imshow(np.moveaxis(0.5 + pattern / (2 * scale), 0, -1), interpolation="nearest")
    else:
        shown = pattern.mean(axis=0)
        drawn = panels[1].imshow(shown, cmap=figures.SIGNED, vmin=-scale, vmax=scale, interpolation="nearest")
        _numbers(panels[1], drawn, shown, cells[1])
    panels[1].set_title(
        f"the pattern, {figures.shape(sizes[1])}" + ("\n(mid-gray: 0)" if len(pattern) == 3 else ""), fontsize=10
    )

    scale = figures.limit(best.scores)
    drawn = panels[2].imshow(best.scores, cmap=figures.SIGNED, vmin=-scale, vmax=scale, interpolation="nearest")
    _numbers(panels[2], drawn, best.scores, cells[2])
    row, column = best.place
    panels[2].add_patch(
        Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=figures.MARK, linewidth=3, clip_on=False)
    )
    panels[2].set_title("mean of products", fontsize=10)
    if best.scores.size > 1:
        figure.colorbar(drawn, ax=panels[2], shrink=0.8, pad=0.02).ax.tick_params(labelsize=8)
    for axes, (h, w), cell in zip(panels, sizes, cells):
        figures.pixel_ticks(axes, h, w, cell)
    score = f"{best.score:.2f}" if 0.1 <= abs(best.score) < 100 else f"{best.score:.3g}"
    title = f"The pattern scores highest, {score.replace('-', figures.MINUS)}, at row {row}, column {column}"
    ties = int((best.scores == best.score).sum())
    figure.suptitle(
        title + (f", and equally high at {figures.many(ties - 1, 'other place')}" if ties > 1 else ""), fontsize=12
    )
    return figure


def _numbers(axes, drawn, values: np.ndarray, cell: float) -> None:
    """Write the values into their pixels of `cell` inches, if they fit."""
    text = [figures.number(value) for value in values.ravel()]
    size = min(10.0, 72 * cell * 0.85 / (0.62 * max(map(len, text))))
    if size >= 6:
        figures.cell_numbers(axes, drawn, values, size=size)
