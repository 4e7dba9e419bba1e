"""Shared by all figures: colors, grids of small images, and writing image files.

Matplotlib is imported at first use, always with the Agg canvas: no window, no display, no global state.
"""

import functools
import io
import math
import os
import re
import warnings
from pathlib import Path
from typing import Literal

import numpy as np

from gpucnn.errors import ConfigurationError, DataError
from gpucnn.storage import as_path, write_file

DPI = 110
# Hues that the color-blind can distinguish (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
GOOD, BAD, MARK = "#0072b2", "#d55e00", "#e69f00"
INK, FAINT = "#303030", "#8c8c8c"
SIGNED = "RdBu_r"  # negative blue, zero white, positive red
AMOUNT = "viridis"
MINUS = "\N{MINUS SIGN}"
_SURROGATES = re.compile("[\ud800-\udfff]")  # what Python makes of bytes that are not UTF-8; Matplotlib refuses them


def check_path(path, suffixes: tuple[str, ...] = (".png",), what: str = "a picture") -> Path:
    """`path`, if a picture can be written there; raises ConfigurationError, before anything is computed."""
    path = as_path(path)
    if path.suffix.lower() not in suffixes:
        raise ConfigurationError(f"cannot write {what} to {path}; its name must end in {', '.join(suffixes)}")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ConfigurationError(f"cannot write {what} to {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise ConfigurationError(f"cannot write {what} to {path}: it is a folder")
    if not os.access(folder, os.W_OK):
        raise ConfigurationError(f"cannot write {what} to {path}: nothing may be written into {path.parent}")
    return path


def check_finite(name: str, values: np.ndarray) -> np.ndarray:
    """`values`, if all are finite; raises DataError naming the first that is not."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        place = ", ".join(map(str, bad[0]))
        raise DataError(
            f"{name} hold {len(bad)} values that are NaN or infinite, the first at ({place}); they have no color"
        )
    return values


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained"):
    """An empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def png(figure, dpi: int = DPI) -> bytes:
    """The figure as a PNG file's content: the same figure, the same bytes."""
    _as_written(figure)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the box in its place is seen
        figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return content.getvalue()


def _as_written(figure) -> None:
    """Names of classes and files as they are: a dollar sign begins no formula, and letters that the usual font lacks
    come from one that has them, where one is installed. Bytes of a file's name that are no letters become one sign.
    """
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.text import Text

    usual = get_font(findfont("sans"))
    for text in figure.findobj(Text):
        letters = text.get_text()
        if _SURROGATES.search(letters):
            text.set_text(letters := _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", letters))
        if "$" in letters and "\\mathdefault" not in letters:  # Matplotlib's own numbers
            text.set_parse_math(False)
        missing = {letter for letter in letters if letter.isprintable() and not usual.get_char_index(ord(letter))}
        if missing:
            text.set_fontfamily([*text.get_fontfamily(), *_fonts_with("".join(sorted(missing)))])


@functools.cache
def _fonts_with(letters: str) -> list[str]:
    """The name of an installed font with as many of these letters as any; none where none has one of them."""
    from matplotlib.font_manager import fontManager, get_font

    best: list[str] = []
    most = 0
    fonts = {
        (font.name, font.fname) for font in fontManager.ttflist if font.weight == 400 and Path(font.fname).exists()
    }
    for name, file in sorted(font for font in fonts if "Last Resort" not in font[0]):  # it has boxes for everything
        has = sum(1 for letter in letters if get_font(file).get_char_index(ord(letter)))
        if has > most:
            best, most = [name], has
        if has == len(letters):
            break
    return best


def save(figure, path, dpi: int = DPI) -> None:
    """Write the figure as a PNG, atomically; raises ConfigurationError if the path is not writable."""
    write_file(check_path(path), png(figure, dpi))


def inches(figure, left: float, top: float, width: float, height: float):
    """Axes placed in inches from the figure's upper left corner; for figures without a layout."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))


def limit(values: np.ndarray) -> float:
    """The largest magnitude, for a scale symmetric about zero; 1 if all are zero."""
    return float(np.abs(values).max()) or 1.0


def columns_for(count: int, width: int = 1, height: int = 1, ratio: float = 1.6, most: int = 32) -> int:
    """How many of `count` tiles of width x height go side by side for a grid `ratio` times as wide as high."""
    if count <= 8 and width <= 2 * height:
        return count
    return max(1, min(most, count, round(math.sqrt(count * ratio * height / width))))


def _gaps(height: int, width: int, named: bool) -> tuple[float, float]:
    """Horizontal and vertical gaps between tiles, in pixels of a tile."""
    gap = 0.12 * max(width, height)
    return gap, 2.2 * gap if named else gap


def grid_size(count: int, columns: int, height: int, width: int, *, named: bool) -> tuple[float, float]:
    """Width and height of what `tile_grid` draws, in pixels of a tile."""
    gap, above = _gaps(height, width, named)
    return min(count, columns) * (width + gap), -(-count // columns) * (height + above)


def tile_grid(axes, tiles: np.ndarray, columns: int, *, names: list[str] | None = None, size: float = 7, **image):
    """Draw tiles (n, height, width) or (n, height, width, 3) on `axes`, `columns` per row, with names above them.

    `image` goes to imshow; it must set `vmin` and `vmax`, so that all tiles share one scale. Returns the last
    image, for a color bar.
    """
    from matplotlib.patches import Rectangle

    count, height, width = tiles.shape[:3]
    rows = -(-count // columns)
    gap, above = _gaps(height, width, names is not None)
    drawn = None
    for i, tile in enumerate(tiles):
        x, y = i % columns * (width + gap), i // columns * (height + above)
        drawn = axes.imshow(tile, extent=(x, x + width, y + height, y), interpolation="nearest", **image)
        axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=FAINT, linewidth=0.5))
        if names:
            axes.text(x + width / 2, y - 0.3 * gap, names[i], ha="center", va="bottom", fontsize=size, color=INK)
    axes.set_xlim(-0.1 * gap, columns * (width + gap) - 0.9 * gap)
    axes.set_ylim(rows * (height + above) - above + 0.1 * gap, -(above if names else 0.1 * gap))
    axes.set_aspect("equal")
    axes.axis("off")
    return drawn


def number(value: float) -> str:
    """A value for a cell of a map: whole numbers whole, others to two places, with a true minus sign."""
    text = f"{value:.0f}" if float(value).is_integer() else f"{value:.2f}"
    return text.replace("-", MINUS)


def cell_numbers(axes, drawn, values: np.ndarray, size: float = 9, show=number) -> None:
    """Write each value (H, W) into its pixel of the image `drawn`, dark on light and light on dark."""
    colors = drawn.cmap(drawn.norm(np.asarray(values, float)))
    for (row, column), value in np.ndenumerate(values):
        red, green, blue = colors[row, column][:3]
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        axes.text(column, row, show(value), ha="center", va="center", fontsize=size, color="white" if dark else INK)


def pixel_ticks(axes, height: int, width: int, cell: float, size: float = 8) -> None:
    """Row and column numbers at the sides of an image whose pixels are `cell` inches: at most ten, not too close."""
    for axis, count in ((axes.xaxis, width), (axes.yaxis, height)):
        step = next(s for s in (2**i for i in range(40)) if count <= 10 * s and s * cell >= 0.2)
        axis.set_ticks(range(0, count, step))
    axes.tick_params(length=2, labelsize=size, colors=INK)


def cut(name: str, most: int = 12) -> str:
    """The name, shortened to at most `most` letters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def shape(sizes) -> str:
    """'6x28x28'."""
    return "x".join(map(str, sizes))


def many(count: int, thing: str) -> str:
    """'1 filter', '6 filters'."""
    return f"{count:,} {thing}{'s' * (count != 1)}"
