"""What is done to an image on its way from the data set into a batch: kernels/CONTRACT.md, rules 5 and 10."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """Normalisation, which training and evaluation share, and what training draws at random; in this order of layers:

    `crop` (one size a spatial axis, at most the image's) cuts that much out of the image; None keeps the whole. `shift`
    moves the image by up to so many pixels along each axis; with a crop, the cut may reach so many pixels over the
    border instead. `flip` mirrors every second image, on average, along its last axis. `cutout` blanks a square (an
    interval, a cube) of that side around a random pixel. `mean` and `std`, one number a channel, normalise:
    (x - mean) * (1 / std). What lies outside the image or is cut out is +0 in the result, after the normalisation.

    Nothing is drawn without a step number: then the crop is the middle of the image, nothing is shifted, flipped or cut
    out, and only the normalisation remains. That is what evaluation sees.
    """

    shift: int = 0
    crop: tuple[int, ...] | None = None
    flip: bool = False
    cutout: int = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def only_shifts(self) -> bool:
        """Whether there is nothing but a shift, or nothing at all: what the plain loading kernels do."""
        return self.crop is None and not self.flip and not self.cutout and self.mean is None

    def output(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """The spatial sizes of what comes out of images of these."""
        return tuple(spatial) if self.crop is None else tuple(self.crop)

    def constants(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """(mean, f32(1 / std)), float32 (channels,); 0 and 1, which change no bit, without a normalisation."""
        if self.mean is None:
            return np.zeros(channels, np.float32), np.ones(channels, np.float32)
        return np.array(self.mean, np.float32), np.float32(1) / np.array(self.std, np.float32)


NO_AUGMENTATION = Augmentation()
