"""Loading images with augmentation in NumPy: rules 5 and 10."""

import numpy as np

from gpucnn.arithmetic import CROP, CUTOUT, FLIP, SHIFT, words
from gpucnn.backends import shares
from gpucnn.backends.augmentation import Augmentation


def load_images(
    images: np.ndarray, chosen: np.ndarray, augmentation: Augmentation, seed: int, step: np.ndarray | None
) -> np.ndarray:
    """images[chosen] with `augmentation`, (count, C, *output), in the images' type."""
    if augmentation.only_shifts and (augmentation.shift == 0 or step is None):
        return images[chosen]
    count, sizes = len(chosen), images.shape[2:]
    output, axes = augmentation.output(sizes), len(sizes)

    number = np.uint64(shares.offset())  # of the first image in the whole batch

    def draw(purpose: int, values: int = axes) -> np.ndarray:
        """24 random bits for each image and axis, (count, axes)."""
        assert step is not None
        drawn = words(seed, number * values + np.arange(count * values, dtype=np.uint64), int(step[0]), purpose)
        return (drawn.astype(np.int64) >> 8).reshape(count, values)

    def along(values: np.ndarray, axis: int) -> np.ndarray:
        """(count or 1, size), shaped to broadcast as (count, C, *spatial) with its second axis along `axis`."""
        shape = [len(values), *[1] * (images.ndim - 1)]
        shape[axis] = values.shape[1]
        return values.reshape(shape)

    room = np.array(sizes, np.int64) - np.array(output, np.int64)
    shift, cut = augmentation.shift, None
    origins = np.tile(room // 2, (count, 1))  # the input pixel at the output's first
    if step is not None and augmentation.crop is not None:
        origins = (draw(CROP) * (room + 2 * shift + 1) >> 24) - shift
    elif step is not None:
        origins = shift - (draw(SHIFT) * (2 * shift + 1) >> 24)
    mirrored = np.zeros(count, bool)
    if step is not None and augmentation.flip:
        mirrored = draw(FLIP, 1)[:, 0] >> 23 == 1
    if step is not None and augmentation.cutout:
        cut = (draw(CUTOUT) * np.array(output, np.int64) >> 24) - augmentation.cutout // 2

    index = [along(chosen[:, None], 1), along(np.arange(images.shape[1])[None], 1)]
    inside, blank = np.ones(1, bool), np.ones(1, bool)
    for axis, size in enumerate(output):
        p = np.arange(size)[None]  # (1, size)
        if cut is not None:
            first = cut[:, axis, None]
            blank = blank & along((p >= first) & (p < first + augmentation.cutout), 2 + axis)
        if axis == axes - 1:
            p = np.where(mirrored[:, None], size - 1 - p, p)
        source = p + origins[:, axis, None]  # (count, size)
        index.append(along(np.clip(source, 0, sizes[axis] - 1), 2 + axis))
        inside = inside & along((source >= 0) & (source < sizes[axis]), 2 + axis)
    values = images[tuple(index)]
    if augmentation.mean is not None:
        mean, scale = (along(c[None].astype(images.dtype), 1) for c in augmentation.constants(images.shape[1]))
        values = (values - mean) * scale
    keep = inside if cut is None else inside & ~blank
    return np.where(keep, values, images.dtype.type(0))
