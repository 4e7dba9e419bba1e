"""Generated images of shapes, with a class for each pixel: a data set to try segmentation on."""

import numpy as np

from gpucnn.data.dataset import Dataset, every_fifth

CLASSES = ["ground", "disc", "square", "triangle"]
_COUNT, _SIZE = 1000, 32


def shapes() -> tuple[Dataset, Dataset]:
    """(train, test) of 1,000 images (1, 32, 32), 0 to 1, with labels (32, 32); every fifth is a test image.

    Each has two to four discs, squares and triangles of 7 to 15 pixels, lighter than the noisy ground; a later one
    covers those before it. The same on every machine.
    """
    rng = np.random.Generator(np.random.Philox(key=7))
    y, x = np.mgrid[:_SIZE, :_SIZE]
    labels, light = np.zeros((_COUNT, _SIZE, _SIZE), np.int64), np.zeros((_COUNT, _SIZE, _SIZE), np.float32)
    for label, image in zip(labels, light, strict=True):
        for _ in range(rng.integers(2, 5)):
            kind, side = rng.integers(1, 4), rng.integers(7, 16)
            top, left = rng.integers(0, _SIZE - side + 1, 2)
            down, right = y - top, x - left
            inside = (down >= 0) & (down < side) & (right >= 0) & (right < side)
            if kind == 1:
                inside &= (2 * down + 1 - side) ** 2 + (2 * right + 1 - side) ** 2 <= side**2
            elif kind == 3:
                inside &= np.abs(2 * right + 1 - side) <= down + 1
            label[inside], image[inside] = kind, rng.integers(4, 8) / np.float32(10)
    noise = rng.integers(0, 256, light.shape) / np.float32(255)
    images = light + np.float32(0.3) * noise
    return every_fifth(images[:, None].astype(np.float32), labels, CLASSES, "shapes")
