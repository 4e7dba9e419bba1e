"""What a network meets that slides over a page: digits with their neighbours' edges, parts of digits, blank paper.

A network that has seen whole digits alone must call a half of one a digit too, and is sure of it. `with_parts` cuts
windows out of pages made of a set's own images and adds a class for those that show no image as a whole.
"""

import numpy as np

from gpucnn.arguments import instance, seed
from gpucnn.data.dataset import Dataset
from gpucnn.errors import DataError

NOTHING = "nothing"
SUFFIX = "+parts"  # after a set's name, for `gpucnn.data.load`
_NEAR, _FAR = 1 / 8, 1 / 4  # of an image: windows so near an image show it, so far from all of them none
_WINDOWS = 2  # of each kind an image
_COLUMNS = 8


def with_parts(dataset: Dataset, random: int = 0) -> Dataset:
    """Windows (M, C, H, W) of pages made of the dataset's images in an order that `random`, a seed, decides.

    Each image is in two windows, up to an eighth of its size off their middle, with whatever its neighbours reach into
    them; as many windows are at least a quarter of its size off every image's middle and have the last class,
    "nothing". The background is 0, and images lie as in `gpucnn.show.digit_page`. Raises DataError if the set has a
    class of that name, or images of one pixel a side.
    """
    instance("dataset", dataset, Dataset, "a gpucnn.data.Dataset")
    if dataset.labels.ndim != 1:
        raise DataError(f"{dataset.name} has labels of shape {dataset.labels.shape}; windows need one an image")
    if min(dataset.images.shape[2:]) < 2:
        shape = dataset.images.shape[1:]
        raise DataError(f"{dataset.name} has images of shape {shape}; windows need 2 pixels a side or more")
    if NOTHING in dataset.classes:
        raise DataError(f"{dataset.name} has a class {NOTHING!r} already")
    generator = np.random.Generator(np.random.Philox(seed(random)))
    channels, height, width = dataset.images.shape[1:]
    size = np.array([height, width])
    count = _WINDOWS * len(dataset.images)
    windows = np.zeros((2 * count, channels, height, width), np.float32)
    labels = np.full(2 * count, len(dataset.classes))
    done = 0
    for _ in range(_WINDOWS):
        order = generator.permutation(len(dataset.images))
        for start in range(0, len(order), 5 * _COLUMNS):
            some = order[start : start + 5 * _COLUMNS]
            page, places = _page(dataset.images[some], generator)
            near = places + generator.integers(-np.floor(size * _NEAR).astype(int), size // 8 + 1, (len(some), 2))
            far = _between(places, size, np.array(page.shape[1:]) - size, len(some), generator)
            for corners, of in ((near, dataset.labels[some]), (far, len(dataset.classes))):
                here = slice(done, done + len(corners))
                windows[here] = [page[:, y : y + height, x : x + width] for y, x in corners]
                labels[here] = of
                done += len(corners)
    return Dataset(windows, labels, [*dataset.classes, NOTHING], f"{dataset.name}{SUFFIX}")


def _page(images: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(page (C, H', W'), corners (N, 2)): images in cells half as large again, each moved by up to a third."""
    channels, height, width = images.shape[1:]
    rows = -(-len(images) // _COLUMNS)
    page = np.zeros((channels, height * (3 * rows + 2) // 2, width * (3 * _COLUMNS + 2) // 2), np.float32)
    cells = np.array([(i // _COLUMNS * height * 3 // 2, i % _COLUMNS * width * 3 // 2) for i in range(len(images))])
    places = cells + generator.integers([height // 4, width // 4], [height * 7 // 12, width * 7 // 12], cells.shape)
    for image, (top, left) in zip(images, places):
        page[:, top : top + height, left : left + width] = image
    return page, places


def _between(places, size, room, count: int, generator: np.random.Generator) -> np.ndarray:
    """Corners (count, 2) of windows that are far from every image along at least one axis."""
    found: list[np.ndarray] = []
    while len(found) < count:
        corner = generator.integers(0, room + 1)
        if (np.abs(places - corner) >= size * _FAR).any(axis=1).all():
            found.append(corner)
    return np.array(found)
