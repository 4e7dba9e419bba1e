"""Image augmentation and normalization while a batch is loaded: kernels/CONTRACT.md, rules 5 and 10."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation for training, and normalization for training and evaluation, applied in this order:

    `crop` (one size per spatial axis, at most the image's) cuts out a region of that size; None keeps the whole image.
    `shift` moves the image by up to that many pixels along each axis; with a crop, the region may instead extend up to
    that many pixels past the border. `flip` mirrors every second image, on average, along its last axis. `cutout`
    blanks a square (an interval, a cube) of that side around a random pixel. `mean` and `std`, one number per channel,
    normalize: (x - mean) * (1 / std). Pixels outside the image or cut out are +0 in the result, after normalization.

    Without a step number nothing is random: the crop is the middle of the image, nothing is shifted, flipped or cut
    out, and only the normalization remains. This is used for evaluation.
    """

    shift: int = 0
    crop: tuple[int, ...] | None = None
    flip: bool = False
    cutout: int = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def only_shifts(self) -> bool:
        """Whether there is at most a shift, which the plain loading kernels can do."""
        return self.crop is None and not self.flip and not self.cutout and self.mean is None

    @property
    def only_normalizes(self) -> bool:
        """Whether images stay as they are but for the normalization."""
        return self.crop is None and not self.flip and not self.cutout and not self.shift

    def output(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """The output's spatial sizes for images of these spatial sizes."""
        return tuple(spatial) if self.crop is None else tuple(self.crop)

    def constants(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """(mean, f32(1 / std)), float32 (channels,); without normalization 0 and 1, which change no bit."""
        if self.mean is None:
            return np.zeros(channels, np.float32), np.ones(channels, np.float32)
        return np.array(self.mean, np.float32), np.float32(1) / np.array(self.std, np.float32)


NO_AUGMENTATION = Augmentation()
