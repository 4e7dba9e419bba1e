"""How a network learned and where it fails: curves, the confusion matrix and the worst mistakes."""

from dataclasses import dataclass

import numpy as np

from gpucnn import figures
from gpucnn.arguments import instance, integer, sequence
from gpucnn.data.mapped import Mapped
from gpucnn.errors import ConfigurationError, DataError, ShapeError
from gpucnn.show.match import show_image
from gpucnn.storage import write_file
from gpucnn.targets import check_labels
from gpucnn.training.curves import draw_curves
from gpucnn.training.doubts import Doubt
from gpucnn.training.history import History

_NUMBERS = 30  # up to so many classes, cells show their counts and each class its name


def curves(history: History, path) -> None:
    """Draw loss and accuracy over the epochs into the PNG at `path`."""
    figures.check_path(path)
    instance("history", history, History, "a training's, such as trainer.history")
    if not len(history):
        raise ConfigurationError("the run has finished no epoch yet, so there is no curve")
    write_file(path, draw_curves(history))


def confusion(labels, predicted, classes: list[str], path=None) -> np.ndarray:
    """Draw the confusion matrix into the PNG at `path` (None: draw nothing); returns counts, int64 (true, predicted).

    `labels` and `predicted` are integers (N,), indices into `classes`. Raises DataError if one is out of range,
    ShapeError if there are none.
    """
    labels = np.asarray(labels)
    if labels.size == 0:
        raise ShapeError("there are no labels; give at least one")
    classes = _names(classes)
    counts = np.zeros((len(classes),) * 2, np.int64)
    labels, predicted = (check_labels(part, labels.size, len(classes)) for part in (labels, np.asarray(predicted)))
    np.add.at(counts, (labels, predicted), 1)
    if path is not None:
        figures.check_path(path)
        figures.save(_draw_confusion(counts, classes), path)
    return counts


def _names(classes) -> list[str]:
    """The classes' names as texts; they may be numbers."""
    return list(map(str, sequence("classes", classes, "their names")))


def _draw_confusion(counts: np.ndarray, classes: list[str]):
    from matplotlib.colors import Normalize
    from matplotlib.patches import Patch

    n = len(classes)
    side = min(9.0, max(2.4, 0.46 * n))
    names = [figures.cut(name, 20) for name in classes]
    longest = max(map(len, names))
    margin = 0.085 * longest
    figure = figures.new_figure(max(4.6, side + 0.9 + margin), side + 1.6 + (margin if longest > 3 else 0.2))
    axes = figure.subplots()
    rows = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(rows, 1)
    diagonal = np.eye(n, dtype=bool)
    # Right answers and mistakes have different hues: a few mistakes must show next to many right answers.
    worst = max(0.05, float(share[~diagonal].max(initial=0)))
    good = axes.imshow(np.where(diagonal & (counts > 0), share, np.nan), cmap="Blues", norm=Normalize(-0.2, 1.25))
    bad = axes.imshow(
        np.where(~diagonal & (counts > 0), share, np.nan), cmap="Oranges", norm=Normalize(-0.5 * worst, worst * 1.7)
    )
    if n <= _NUMBERS:
        for drawn in (good, bad):
            cells = diagonal if drawn is good else ~diagonal
            for row, column in np.argwhere(cells & (counts > 0)):
                dark = drawn.norm(share[row, column]) > 0.6
                axes.text(
                    column,
                    row,
                    f"{counts[row, column]:,}",
                    ha="center",
                    va="center",
                    fontsize=9 if counts.max() < 1000 else 7,
                    color="white" if dark else figures.INK,
                )
    step = 1 if n <= _NUMBERS else next(s for s in (5, 10, 20, 50, 100, 200, 500, 1000) if n <= 20 * s)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(0, n, step), names[::step])
        axis.set_ticks(np.arange(-0.5, n), minor=True)
    axes.tick_params(which="both", length=0, labelsize=9)
    if max(len(name) for name in names[::step]) > 3:
        axes.tick_params(axis="x", rotation=90)
    if n <= _NUMBERS:
        axes.grid(which="minor", color="#e4e4e4", linewidth=0.6)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    total, hits = int(counts.sum()), int(np.trace(counts))
    figure.suptitle(f"{hits:,} of {total:,} right ({hits / total:.2%})", fontsize=12)
    figure.legend(
        handles=[
            Patch(color=good.cmap(good.norm(1.0)), label="right"),
            Patch(color=bad.cmap(bad.norm(worst)), label="mistakes"),
        ],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    return figure


@dataclass(frozen=True)
class Mistake:
    """One misclassified image: its number, true and predicted class, and the probability of each."""

    image: int
    true: str
    predicted: str
    probability: float
    probability_of_true: float


def mistakes(images, labels, probabilities, classes: list[str], path=None, *, most: int = 20) -> list[Mistake]:
    """Draw the worst mistakes into the PNG at `path` (None: draw nothing); returns them, worst first.

    images (N, C, H, W), labels (N,), probabilities (N, classes) as from Trainer.predict. The worst
    have the highest probability of a wrong class. At most `most` are drawn and returned.
    """
    images = images if isinstance(images, Mapped) else np.asarray(images)
    probabilities, classes = np.asarray(probabilities), _names(classes)
    if images.ndim != 4 or probabilities.shape != (len(images), len(classes)):
        raise ShapeError(
            f"images have shape {images.shape} and probabilities {probabilities.shape}; expected (N, C, H, W) and "
            f"(N, {len(classes)}), one column per class"
        )
    if not np.isfinite(probabilities).all():
        raise DataError("the probabilities contain NaN or infinity; the network's weights or images are not finite")
    most = integer("most", most)
    labels = check_labels(labels, len(images), len(classes))
    if path is not None:
        figures.check_path(path)
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:most]
    listed = [
        Mistake(
            int(i),
            classes[labels[i]],
            classes[predicted[i]],
            float(probabilities[i, predicted[i]]),
            float(probabilities[i, labels[i]]),
        )
        for i in worst
    ]
    if path is not None:
        figures.save(_draw_mistakes(images, listed, len(wrong)), path)
    return listed


def doubts(images, found: list[Doubt], classes: list[str], path, *, most: int = 20) -> None:
    """Draw the worst of `gpucnn.training.doubtful_labels` into the PNG at `path`, at most `most`."""
    figures.check_path(path)
    classes = _names(classes)
    listed = [
        Mistake(d.image, classes[d.label], classes[d.suggested], d.probability, d.probability_of_label)
        for d in found[: integer("most", most)]
    ]
    figures.save(_draw_mistakes(np.asarray(images), listed, len(found), "doubtful label", "labelled"), path)


def _draw_mistakes(images: np.ndarray, listed: list[Mistake], wrong: int, what: str = "mistake", verb: str = "is"):
    if not listed:
        figure = figures.new_figure(5, 1.2)
        figure.text(
            0.5, 0.5, f"No {what} in {figures.many(len(images), 'image')}", ha="center", va="center", fontsize=13
        )
        return figure
    columns = min(5, len(listed))
    rows = -(-len(listed) // columns)
    height, width = images.shape[2:]
    side = min(2.3, max(1.85, 4.6 / columns)) - 0.1  # inches: one or two images are larger
    figure = figures.new_figure(max(4.6, 1.85 * columns), (side * min(1.5, height / width) + 0.75) * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, mistake in zip(grid, listed):
        show_image(axes, images[mistake.image])
        text = f"says {figures.cut(mistake.predicted)}: {_percent(mistake.probability)}\n"
        axes.set_title(
            text + f"{verb} {figures.cut(mistake.true)}: {_percent(mistake.probability_of_true)}", fontsize=9
        )
        axes.set_xlabel(f"image {mistake.image}", fontsize=8, color=figures.FAINT)
    for axes in grid:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes in grid[len(listed) :]:
        axes.set_visible(False)
    title = f"{figures.many(wrong, what)} in {figures.many(len(images), 'image')}"
    if wrong > 1:
        title += f": the {len(listed)} most confident" if len(listed) < wrong else ", the most confident first"
    figure.suptitle(title, fontsize=12)
    return figure


def _percent(value: float) -> str:
    return "<0.1%" if value < 0.0005 else f"{value:.1%}"
