"""Gradient clipping."""

from dataclasses import asdict, dataclass

from gpucnn.arguments import number
from gpucnn.backends.protocol import Array, Backend
from gpucnn.recordable import Recordable


@dataclass(frozen=True)
class Clipping(Recordable):
    """Limits on the gradient of all weights, applied before the optimizer.

    With `value` each number is clamped to [-value, value]; then, with `norm`, all are scaled by norm / (their Euclidean
    norm) if that norm is larger (Pascanu, Mikolov and Bengio 2013). With both, both limits hold.
    """

    recordable = True

    norm: float | None = None
    value: float | None = None

    def __post_init__(self):
        for name in ("norm", "value"):
            limit = getattr(self, name)
            if limit is not None:
                object.__setattr__(self, name, number(f"clip_{name}", limit, above=0))

    def __call__(self, backend: Backend, gradients: Array) -> None:
        """Clip the flat gradient buffer in place."""
        if self.value is not None:
            backend.clip_value(gradients, self.value)
        if self.norm is not None:
            backend.clip_norm(gradients, self.norm)

    def settings(self) -> dict:
        """For checkpoints."""
        return asdict(self)
