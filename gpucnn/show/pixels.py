"""How often each pixel is used."""

from typing import Any

import numpy as np

from gpucnn import figures, geometry
from gpucnn.arguments import instance
from gpucnn.errors import ShapeError
from gpucnn.geometry import Window

_NUMBERS = 24  # up to so many pixels per side, each shows its count
_LARGEST = 4096  # pixels per side, with the padding; more than a screen shows


def pixel_use(window: Window, path=None) -> np.ndarray:
    """Draw how many windows use each pixel into the PNG at `path` (None: draw nothing); returns the counts.

    `window` comes from gpucnn.geometry.window and has one or two axes of at most 4,096 pixels; the counts have the
    shape of its input. The first window and, if there are any, its neighbors to the right and below are outlined; the
    padding is hatched.
    """
    instance("window", window, Window, "what gpucnn.geometry.window returns")
    if len(window.input) not in (1, 2):
        raise ShapeError(f"the window has {len(window.input)} axes; a picture can show 1 or 2")
    sides = [size + sum(padding) for size, padding in zip(window.input, window.padding)]
    if max(sides) > _LARGEST:
        raise ShapeError(
            f"the input with its padding is {' x '.join(map(str, sides))} pixels; a picture can show {_LARGEST} a side "
            "(gpucnn.geometry.pixel_use counts any size)"
        )
    use = geometry.pixel_use(window)
    if path is not None:
        figures.check_path(path)
        figures.save(_draw(window, use if use.ndim == 2 else use[None]), path)
    return use


def _two(values: tuple) -> tuple:
    """The settings of two axes; a strip is one pixel high."""
    return values if len(values) == 2 else ((0, 0) if isinstance(values[0], tuple) else 1, *values)


def _draw(window: Window, use: np.ndarray):
    from matplotlib.patches import Patch, Rectangle

    (top, bottom), (left, right) = _two(window.padding)
    height, width = use.shape
    rows, columns = height + top + bottom, width + left + right
    cell = min(0.55, 7 / max(rows, columns))
    figure = figures.new_figure(max(5.2, columns * cell + 1.6), max(2.5, rows * cell + 2.0))
    axes = figure.subplots()
    if top or bottom or left or right:
        axes.add_patch(
            Rectangle(
                (-0.5 - left, -0.5 - top),
                columns,
                rows,
                facecolor="#f4f4f4",
                edgecolor="#c8c8c8",
                hatch="///",
                linewidth=0,
                zorder=-1,
            )
        )
    most = int(use.max())
    drawn = axes.imshow(use, cmap=figures.AMOUNT, vmin=0, vmax=max(1, most), interpolation="nearest")
    if max(use.shape) <= _NUMBERS:
        figures.cell_numbers(axes, drawn, use, size=min(11.0, max(5.0, 25 * cell)))

    handles = []
    places = [((0, 0), "first window", "-")]
    output, stride = _two(window.output), _two(window.stride)
    extent = [d * (k - 1) + 1 for d, k in zip(_two(window.dilation), _two(window.kernel))]
    if output[1] > 1:
        places.append(((0, 1), "next to the right", "--"))
    if output[0] > 1:
        places.append(((1, 0), "next below", ":"))
    for ((row, column), name, line), color in zip(places, (figures.BAD, figures.MARK, figures.COLOURS[3])):
        corner = column * stride[1] - left - 0.5, row * stride[0] - top - 0.5
        style: dict[str, Any] = {"fill": False, "edgecolor": color, "linewidth": 2.5, "linestyle": line}
        axes.add_patch(Rectangle(corner, extent[1], extent[0], zorder=4, clip_on=False, **style))
        handles.append(Patch(label=name, **style))
    if top or bottom or left or right:
        handles.append(Patch(facecolor="#f4f4f4", edgecolor="#c8c8c8", hatch="///", label="padding"))
    if not use.all() and max(use.shape) > _NUMBERS:
        handles.append(Patch(facecolor=drawn.cmap(0.0), label="never used"))
    axes.set_xlim(-0.6 - left, width - 0.4 + right)
    axes.set_ylim(height - 0.4 + bottom, -0.6 - top)
    figures.pixel_ticks(axes, height, width, cell)
    axes.spines[:].set_visible(False)
    if max(use.shape) > _NUMBERS:
        bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02)
        bar.set_label("times used", fontsize=9)
        bar.ax.yaxis.get_major_locator().set_params(integer=True)
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(f"How many times each pixel is used\n{_settings(window)}", fontsize=10.5)
    return figure


def _settings(window: Window) -> str:
    """The window's settings in one line."""

    def once(values) -> str:
        values = [v if not isinstance(v, tuple) or v[0] != v[1] else v[0] for v in values]
        return str(values[0]) if len(set(values)) == 1 else " and ".join(map(str, values))

    text = f"input {figures.shape(window.input)}, filter {figures.shape(window.kernel)}, stride {once(window.stride)}"
    if any(map(any, window.padding)):
        text += f", padding {once(window.padding)}"
    if set(window.dilation) != {1}:
        text += f", dilation {once(window.dilation)}"
    return f"{text}: the output is {figures.shape(window.output)}"
