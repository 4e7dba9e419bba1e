"""What `check` computes of images cropped, mirrored, normalised and cut out on their way into a batch."""

from collections.abc import Iterator

import numpy as np

from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.protocol import Backend

_COLOURS = {"mean": (0.5, -0.25, 0.125), "std": (0.3, 1.5, 3.0)}

# count, (C, *spatial), what is done; each on its own, then together; rows shorter and longer than 16 pixels.
_SETTINGS = [
    (33, (1, 4, 5), Augmentation(flip=True)),
    (33, (1, 4, 5), Augmentation(cutout=3)),
    (33, (1, 5, 4), Augmentation(crop=(3, 4), shift=1)),
    (3, (3, 4, 4), Augmentation(shift=1, **_COLOURS)),
    (3, (1, 9), Augmentation(crop=(6,), flip=True, cutout=2)),
    (2, (1, 3, 4, 5), Augmentation(crop=(2, 4, 3), shift=1, flip=True, cutout=1)),
    (37, (3, 20, 21), Augmentation(shift=3, crop=(17, 18), flip=True, cutout=6, **_COLOURS)),
    (18, (3, 6, 19), Augmentation(flip=True, cutout=4, **_COLOURS)),
]


def augmentations() -> Iterator:
    """Cases of each setting, drawn and, as evaluation has it, not drawn."""
    from gpucnn.check.cases import Case

    for count, shape, augmentation in _SETTINGS:

        def load(b: Backend, count=count, shape=shape, augmentation=augmentation) -> dict[str, np.ndarray]:
            rng = np.random.default_rng([count, *shape])
            images = b.array(rng.standard_normal((count + 2, *shape)).astype(np.float32))
            indices = b.array(rng.permutation(count + 2))
            step = b.array(np.array([7], np.uint32))
            drawn = b.load_images(images, indices, count, augmentation, seed=2**63 + 9, step=step)
            return {"drawn": drawn.numpy(), "still": b.load_images(images, indices, count, augmentation).numpy()}

        sizes = "x".join(map(str, shape))
        yield Case("loading with augmentation", f"drawn, {count} images of {sizes}, {augmentation}", load)
