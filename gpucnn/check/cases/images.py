"""Loading images into a batch: shift, crop, mirroring, normalization and cutout."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.protocol import Backend
from gpucnn.check.cases.case import Case, Results, describe

_NORMALIZATION: dict[str, Any] = {"mean": (0.5, -0.25, 0.125), "std": (0.3, 1.5, 3.0)}

# Count, (C, *spatial), augmentation, whether small: each augmentation alone, then together; rows shorter and longer
# than 16 pixels.
_SETTINGS = [
    (33, (1, 4, 5), Augmentation(flip=True), True),
    (33, (1, 4, 5), Augmentation(cutout=3), True),
    (33, (1, 5, 4), Augmentation(crop=(3, 4), shift=1), True),
    (3, (3, 4, 4), Augmentation(shift=1, **_NORMALIZATION), True),
    (3, (1, 9), Augmentation(crop=(6,), flip=True, cutout=2), True),
    (2, (1, 3, 4, 5), Augmentation(crop=(2, 4, 3), shift=1, flip=True, cutout=1), True),
    (37, (3, 20, 21), Augmentation(shift=3, crop=(17, 18), flip=True, cutout=6, **_NORMALIZATION), False),
    (18, (3, 6, 19), Augmentation(flip=True, cutout=4, **_NORMALIZATION), False),
]


def cases() -> Iterator[Case]:
    def shifted(b: Backend) -> Results:
        rng = np.random.default_rng(0)
        images = b.array(rng.standard_normal((40, 2, 7, 6)).astype(np.float32))
        indices = b.array(rng.permutation(40))
        step = b.array(np.array([9], np.uint32))
        moved = b.load_images(images, indices, 33, Augmentation(shift=2), seed=2**63 + 5, step=step)
        labels = b.array(rng.integers(0, 9, 40).astype(np.int32))
        both, chosen = b.load_batch(images, labels, indices, 33, Augmentation(shift=2), seed=2**63 + 5, step=step)
        return {
            "images": moved.numpy(),
            "as they are": b.load_images(images, indices, 17).numpy(),
            "with labels": both.numpy(),
            "labels": b.host(chosen).reshape(-1)[:33],
        }

    yield Case("loading with random shift", "40 images of 2x7x6", shifted, small=True)

    for count, shape, augmentation, small in _SETTINGS:

        def augmented(b: Backend, count=count, shape=shape, augmentation=augmentation) -> Results:
            """Random as in training ("drawn") and fixed as in evaluation ("still")."""
            rng = np.random.default_rng([count, *shape])
            images = b.array(rng.standard_normal((count + 2, *shape)).astype(np.float32))
            indices = b.array(rng.permutation(count + 2))
            step = b.array(np.array([7], np.uint32))
            drawn = b.load_images(images, indices, count, augmentation, seed=2**63 + 9, step=step)
            return {"drawn": drawn.numpy(), "still": b.load_images(images, indices, count, augmentation).numpy()}

        about = f"{describe(count, shape[0], shape[1:])}, {augmentation}"
        yield Case("loading with augmentation", about, augmented, small=small)
