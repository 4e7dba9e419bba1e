"""Keeping a step's gradient from growing without bound."""

import math
from dataclasses import asdict, dataclass

from gpucnn.backends.protocol import Array, Backend
from gpucnn.errors import ConfigurationError
from gpucnn.recordable import Recordable


@dataclass(frozen=True)
class Clipping(Recordable):
    """What is done to the gradient of all weights before the optimiser takes it.

    With `value` each number is clamped to [-value, value]; then, with `norm`, all are scaled by norm / (their Euclidean
    norm) if that norm is larger (Pascanu, Mikolov and Bengio 2013). So with both, both limits hold.
    """

    recordable = True

    norm: float | None = None
    value: float | None = None

    def __post_init__(self):
        for name, limit in (("clip_norm", self.norm), ("clip_value", self.value)):
            number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
            if limit is not None and not (number and 0 < limit < math.inf):
                raise ConfigurationError(f"{name} is {limit!r}; give a number above 0, or None")

    def __call__(self, backend: Backend, gradients: Array) -> None:
        """Clip the flat gradient buffer in place."""
        if self.value is not None:
            backend.clip_value(gradients, self.value)
        if self.norm is not None:
            backend.clip_norm(gradients, self.norm)

    def settings(self) -> dict:
        """For checkpoints."""
        return asdict(self)
