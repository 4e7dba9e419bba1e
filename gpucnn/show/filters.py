"""A convolution's filters as small images."""

import numpy as np

from gpucnn import figures
from gpucnn.errors import ShapeError
from gpucnn.models.model import Model
from gpucnn.show.layers import convolution, filters_of

_CELLS = 260  # weights along one side that can still be distinguished


def filters(model, path=None, *, layer: str | None = None) -> np.ndarray:
    """Draw a convolution's filters into the PNG at `path` (None: draw nothing); returns the weights (O, C, *K).

    `model` is a Model, of which `layer` names the convolution (None: the first), or the weights themselves. All share
    one scale, symmetric about zero. Filters of one channel are one image each; of three channels a color image
    (mid-gray is zero) and each channel separately; with more channels a table of filters and channels. What does not
    fit is left out, and the picture says so.

    Raises ConfigurationError for a wrong layer or path, ShapeError for an array of another shape, DataError for a NaN.
    """
    if isinstance(model, Model):
        part = convolution(model, layer)
        title = f"{model.name}, layer {part.name} ({type(part).__name__})" if part.name else type(part).__name__
        weights = filters_of(model, part)
    else:
        title, weights = "", np.asarray(model)
        weights = weights.astype(np.float32) if weights.dtype.kind in "iu" else weights
    if not 3 <= weights.ndim <= 5 or 0 in weights.shape or weights.dtype.kind != "f":
        raise ShapeError(
            f"filters are {weights.dtype} of shape {weights.shape}; expected numbers (filters, channels, *kernel) "
            "with 1 to 3 kernel axes"
        )
    figures.check_finite("the filters", weights)
    if path is not None:
        figures.check_path(path)
        figures.save(_draw(weights, title), path)
    return weights


def _draw(weights: np.ndarray, title: str):
    count, channels, *kernel = weights.shape
    title = (f"{title}: " if title else "") + (
        f"{figures.many(count, 'filter')} of {figures.many(channels, 'channel')}, "
        f"{'size ' if len(kernel) == 1 else ''}{figures.shape(kernel)}"
    )
    volume = len(kernel) == 3
    # A filter over depth: its slices side by side, as if each were a channel. Over one axis: a strip.
    tiles = weights.reshape(count, channels * (kernel[0] if volume else 1), *((1,) * (2 - len(kernel))), *kernel[-2:])
    if tiles.shape[1] == 1:
        return _single(tiles[:, 0], title)
    if tiles.shape[1] == 3 and not volume:
        return _colored(tiles, title)
    return _matrix(tiles, title, "input channel and depth" if volume else "input channel")


def _color_bar(figure, drawn, axes, scale: float) -> None:
    height = figure.get_size_inches()[1] - 0.8
    bar = figure.colorbar(drawn, ax=axes, shrink=min(0.9, 3 / height), aspect=22 * min(1, height / 3), pad=0.02)
    bar.set_ticks([-scale, 0, scale], labels=[figures.number(round(-scale, 2)), "0", figures.number(round(scale, 2))])
    bar.ax.tick_params(labelsize=8)
    bar.set_label("weight", fontsize=8, labelpad=0)


def _single(tiles: np.ndarray, title: str):
    """Filters of one channel, numbered."""
    count, height, width = tiles.shape
    columns = 32 if count > 128 else figures.columns_for(count, width, height)
    side = min(1.5, 9 / columns) if count > 1 else 2.5
    names = [str(i) for i in range(count)] if 1 < count <= 128 else None
    if count > 128:
        title += f", in order along the rows, {columns} per row"
    across, down = figures.grid_size(count, columns, height, width, named=names is not None)
    inch = side / max(height, width)
    figure = figures.new_figure(max(4.2, across * inch + 1.2), max(1.9, down * inch + 0.55))
    axes = figure.subplots()
    scale = figures.limit(tiles)
    drawn = figures.tile_grid(axes, tiles, columns, names=names, size=8, cmap=figures.SIGNED, vmin=-scale, vmax=scale)
    figure.suptitle(title, fontsize=11)
    _color_bar(figure, drawn, axes, scale)
    return figure


def _colored(tiles: np.ndarray, title: str):
    """Filters of three channels: as a color image, then red, green and blue separately."""
    shown = tiles[:128]
    count, _, height, width = shown.shape
    columns = figures.columns_for(count, width, height, ratio=1.0)
    names = [str(i) for i in range(count)] if 1 < count <= 64 else None
    across, down = figures.grid_size(count, columns, height, width, named=names is not None)
    inch = min(0.9, 4 / columns) / max(height, width)
    figure = figures.new_figure(max(5.5, 2 * across * inch + 1.4), max(3.0, 2 * down * inch + 1.0))
    grid = figure.subplots(2, 2)
    scale = figures.limit(tiles)
    for axes, name, channel in zip(grid.flat, ("in color (mid-gray: 0)", "red", "green", "blue"), (None, 0, 1, 2)):
        if channel is None:
            part = np.moveaxis(0.5 + shown / (2 * scale), 1, -1)  # (n, H, W, 3)
            figures.tile_grid(axes, part, columns, names=names)
        else:
            drawn = figures.tile_grid(
                axes, shown[:, channel], columns, names=names, cmap=figures.SIGNED, vmin=-scale, vmax=scale
            )
        axes.set_title(name, fontsize=9)
    if count < len(tiles):
        title += f"; the first {count}"
    figure.suptitle(title, fontsize=11)
    _color_bar(figure, drawn, grid.ravel().tolist(), scale)
    return figure


def _matrix(tiles: np.ndarray, title: str, channel_label: str):
    """A table of filters and channels, the longer of the two from left to right, or where only one fits there down."""
    count, channels, height, width = tiles.shape
    sides = [(count, "filter"), (channels, channel_label)]
    gap = 0 if height == width == 1 else 1
    if (count > channels) == (2 * (width + gap) <= _CELLS):
        tiles, sides = tiles.swapaxes(0, 1), sides[::-1]
    shown = tiles[: max(1, _CELLS // (height + gap))]
    # A few long rows: no longer than is readable at their height.
    longest = min(_CELLS, max(128, 12 * len(shown) * (height + gap)))
    shown = shown[:, : max(1, longest // (width + gap))]
    rows, columns = shown.shape[:2]
    board = np.full((rows * (height + gap), columns * (width + gap)), np.nan, tiles.dtype)
    for (row, column), _ in np.ndenumerate(shown[..., 0, 0]):
        top, left = row * (height + gap), column * (width + gap)
        board[top : top + height, left : left + width] = shown[row, column]
    board = board[: board.shape[0] - gap, : board.shape[1] - gap]
    inch = min(0.12, 9 / max(board.shape))  # per weight
    inch = max(inch, min(0.3, 2.5 / max(board.shape)))
    figure = figures.new_figure(max(5.0, board.shape[1] * inch + 1.9), max(2.0, board.shape[0] * inch + 1.2))
    axes = figure.subplots()
    scale = figures.limit(tiles)
    drawn = axes.imshow(board, cmap=figures.SIGNED, vmin=-scale, vmax=scale, interpolation="nearest")
    for axis, total, size in ((axes.xaxis, columns, width), (axes.yaxis, rows, height)):
        step = next(s for s in (2**i for i in range(40)) if total <= 16 * s and s * (size + gap) * inch >= 0.12)
        axis.set_ticks([i * (size + gap) + (size - 1) / 2 for i in range(0, total, step)], range(0, total, step))
    axes.set_ylabel(sides[0][1], fontsize=9)
    axes.set_xlabel(sides[1][1], fontsize=9)
    axes.tick_params(length=2, labelsize=8)
    axes.spines[:].set_visible(gap == 0)
    left_out = [
        f"first {shown_count} of {total} {what.replace('filter', 'filters').replace('channel', 'channels')}"
        for shown_count, (total, what) in zip((rows, columns), sides)
        if shown_count < total
    ]
    if left_out:
        title += f"\n(the {' and the '.join(left_out)})"
    figure.suptitle(title, fontsize=11)
    _color_bar(figure, drawn, axes, scale)
    return figure
