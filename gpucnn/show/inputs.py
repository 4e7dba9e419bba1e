"""What a network was shown: image files beside the images that they became."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpucnn import figures
from gpucnn.arguments import sequence
from gpucnn.data.images import open_image
from gpucnn.errors import ShapeError
from gpucnn.show.match import show_image
from gpucnn.storage import refuse_input

_MOST = 40


def inputs(files: Sequence[str | Path], images: np.ndarray, path, *, titles: Sequence[str] | None = None) -> None:
    """Draw image `files` and, beside each, what became of it, `images` (N, C, H, W), into the PNG at `path`.

    `files` and `images` are as `gpucnn.data.load_images` returns them; `titles`, one a file, are written above, such as
    predictions. At most 40 are drawn. Raises ShapeError unless there are equally many, at least one, and
    ConfigurationError where `path` is one of the files.
    """
    figures.check_path(path)
    files, images = sequence("files", files, "a list of image files"), np.asarray(images)
    titles = [""] * len(files) if titles is None else sequence("titles", titles, "a list of texts")
    if images.ndim != 4 or not len(files) == len(images) == len(titles) > 0:
        raise ShapeError(
            f"{len(files)} files, {len(titles)} titles and images of shape {images.shape}; expected (N, C, H, W) and "
            "equally many of each"
        )
    refuse_input(path, *files)
    count = min(len(files), _MOST)
    columns = min(4, count)
    rows = -(-count // columns)
    figure = figures.new_figure(max(4.6, 2.6 * columns), 1.8 * rows + 0.4)
    grid = figure.subplots(rows, 2 * columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes in grid[2 * count :]:
        axes.set_visible(False)
    for left, right, file, image, title in zip(grid[::2], grid[1::2], files[:count], images, titles):
        picture = open_image(Path(file)).convert("RGB")
        picture.thumbnail((300, 300))
        left.imshow(np.asarray(picture))
        left.set_xlabel(figures.cut(Path(file).name), fontsize=8, color=figures.FAINT)
        show_image(right, image)
        right.set_title(title, fontsize=9)
    more = f", the first {count} of {len(files)}" if count < len(files) else ""
    figure.suptitle(f"the file, and what the network was shown{more}", fontsize=12)
    figures.save(figure, path)
