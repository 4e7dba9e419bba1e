"""A batch of images in a backend's lane layout."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn.errors import ShapeError


@dataclass(slots=True, eq=False, repr=False)
class Batch:
    """`images` images on `backend`, stored as `data` of shape (block, channel, *spatial, lane).

    Lane i of block b is image `b * backend.lanes + i`; images past `images` pad the last block. Their values are
    finite but meaningless: every sum over the batch masks them. A user-defined elementwise layer may compute on `data`
    with `backend.xp` alone and wrap the result with `like`.
    """

    data: Any
    images: int
    backend: Any

    def __repr__(self) -> str:
        place = getattr(self.backend, "name", "no backend")  # of a traced network
        return f"<Batch {self.shape} on {place}; numpy() gives the values>"

    @property
    def is_stored(self) -> bool:
        """Whether the values are in memory: some are computed when somebody takes `data`."""
        return True

    @property
    def channels(self) -> int:
        return self.data.shape[1]

    @property
    def spatial(self) -> tuple[int, ...]:
        return tuple(self.data.shape[2:-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape (N, C, *spatial)."""
        return (self.images, *self.data.shape[1:-1])

    def like(self, data) -> "Batch":
        """The same images with other values; `data` is (block, channel, *spatial, lane) on the same backend."""
        return Batch(data, self.images, self.backend)

    def reshape(self, *shape: int) -> "Batch":
        """The same values with each image's axes as `shape`, row-major:
        (N, C, H, W) flattens with `reshape(C * H * W)`.
        """
        try:
            return self.like(self.data.reshape(self.data.shape[0], *shape, self.data.shape[-1]))
        except ValueError:
            what = f"images of shape {self.shape[1:]} cannot be reshaped to {shape}"
            raise ShapeError(f"{what}, which has another number of values") from None

    def numpy(self) -> np.ndarray:
        """The values on the host as (N, C, *spatial)."""
        return self.backend.unpack(self)
