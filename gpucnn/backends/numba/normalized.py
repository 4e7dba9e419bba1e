"""Batch norm and ReLU that are computed where they are read."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.backends.batch import Batch

# What kernels are given in the place of constants where values are read as they are.
AS_STORED = np.zeros((4, 1), np.float32), False


class Normalized(Batch):
    """The ReLU of batch norm of x, not computed until somebody takes its data: convolutions that copy what they read
    compute it as they do so, which spares a map that is written once and read three times.

    `known` (4, C) are the constants of norm.batch_norm_constants, which nobody changes afterwards; `compute` returns
    the values.
    """

    __slots__ = ("_compute", "_values", "known", "x")

    def __init__(self, x: Batch, known: np.ndarray, compute: Callable[[], np.ndarray]):
        self.images, self.backend = x.images, x.backend
        self.x, self.known, self._compute = x, known, compute
        self._values: np.ndarray | None = None

    @property
    def data(self) -> Any:
        if self._values is None:
            self._values = self._compute()
        return self._values

    @data.setter
    def data(self, values: Any) -> None:
        self._values = values

    def __reduce__(self):
        return Batch, (self.data, self.images, self.backend)

    @property
    def is_stored(self) -> bool:
        """Whether the values have been computed."""
        return self._values is not None

    @property
    def _known(self) -> Batch:
        return self.x if self._values is None else self.like(self._values)

    @property
    def channels(self) -> int:
        return self._known.channels

    @property
    def spatial(self) -> tuple[int, ...]:
        return self._known.spatial

    @property
    def shape(self) -> tuple[int, ...]:
        return self._known.shape
