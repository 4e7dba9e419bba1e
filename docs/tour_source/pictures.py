"""Pictures that only the tour needs; all others are gpucnn.show's."""

from pathlib import Path

import numpy as np

from gpucnn import figures


def _numbered(axes, values: np.ndarray, title: str, scale: float, cmap: str = figures.SIGNED, size: float = 11) -> None:
    """A map with its numbers in its pixels, colors from -scale to scale."""
    drawn = axes.imshow(values, cmap=cmap, vmin=-scale, vmax=scale, interpolation="nearest")
    figures.cell_numbers(axes, drawn, values, size=size)
    axes.set_title(title, fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])


def flip(image: np.ndarray, weights: np.ndarray, correlated: np.ndarray, convolved: np.ndarray, path: Path) -> None:
    """An image, a filter, their correlation and their convolution."""
    figure = figures.new_figure(9.2, 3.0)
    panels = figure.subplots(1, 4, width_ratios=(5, 3, 3, 3))
    titles = ("a bright pixel", "the filter", "correlation", "convolution")
    for axes, values, title in zip(panels, (image, weights, correlated, convolved), titles):
        if values is image:
            _numbered(axes, values, title, 1, cmap="gray")
        else:
            _numbered(axes, values, title, 12)
    figures.save(figure, path)


def border(plain: list[np.ndarray], padded: list[np.ndarray], path: Path) -> None:
    """The maps after each layer, pixels of one size, without padding and with it."""
    figure = figures.new_figure(10.4, 3.4)
    grid = figure.subplots(2, len(plain))
    for row, maps, label in zip(grid, (plain, padded), ("no padding", "padding 2")):
        for number, (axes, values) in enumerate(zip(row, maps)):
            side, full = len(values), len(maps[0])
            edge = (full - side) / 2
            axes.imshow(values, cmap="gray", vmin=0, vmax=1, extent=(edge, edge + side, edge + side, edge))
            axes.set_xlim(0, full)
            axes.set_ylim(full, 0)
            axes.set_facecolor("#e6eef5")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            what = "the image" if number == 0 else f"layer {number}"
            axes.set_title(f"{what}\n{side}x{side}", fontsize=10)
        row[0].set_ylabel(label, fontsize=11)
    figures.save(figure, path)


def gradient_step(kept: list[tuple[int, np.ndarray, np.ndarray]], path: Path) -> None:
    """A filter before, its first gradient, and the filter after some steps: kept is (step, filter, gradient)."""
    (_, first, gradient), *later = kept
    panels = [("before: 0 steps", first), ("the gradient", gradient)]
    panels += [(f"after {figures.many(step, 'step')}", weights) for step, weights, _ in later]
    figure = figures.new_figure(10.4, 2.5)
    for axes, (title, values) in zip(figure.subplots(1, len(panels)), panels):
        scale = figures.limit(gradient) if values is gradient else 1
        _numbered(axes, values.round(2) + 0.0, title, scale, cmap="PuOr" if values is gradient else figures.SIGNED)
    figures.save(figure, path)


def pooling(image: np.ndarray, largest: np.ndarray, mean: np.ndarray, path: Path) -> None:
    """A map in colored blocks and its pooled maps."""
    from matplotlib.colors import ListedColormap

    block = np.kron([[0, 1], [2, 3]], np.ones((2, 2)))
    colors = ListedColormap(["#cfe3f1", "#fbe3b5", "#c5e6da", "#f2d9e6"])
    figure = figures.new_figure(8.2, 3.3)
    panels = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    titles = ("a map of 4x4 in blocks of 2x2", "the largest of each", "the mean of each")
    for axes, values, title in zip(panels, (image, largest, mean), titles):
        kinds = block if values.shape == (4, 4) else block[::2, ::2]
        drawn = axes.imshow(kinds, cmap=colors, vmin=0, vmax=3, interpolation="nearest")
        for (row, column), value in np.ndenumerate(values):
            winner = values is image and value == largest[row // 2, column // 2]
            axes.text(
                column,
                row,
                figures.number(value),
                ha="center",
                va="center",
                fontsize=14,
                weight="bold" if winner or values is largest else "normal",
            )
        axes.set_title(title, fontsize=10)
        axes.set_xticks(np.arange(0.5, len(values) - 1), [])
        axes.set_yticks(np.arange(0.5, len(values) - 1), [])
        axes.grid(color="white", linewidth=2)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        drawn.set_zorder(0)
    figures.save(figure, path)
