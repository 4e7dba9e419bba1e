"""Dropout."""

from functools import partial
from typing import ClassVar

from gpucnn.arguments import number
from gpucnn.backends.batch import Batch
from gpucnn.layers.base import Backward, Layer
from gpucnn.layers.counterparts import Graph, TorchModule


class Dropout(Layer):
    """In training, zero each value with probability `rate` and scale the others by 1 / (1 - rate); else the identity.

    Srivastava et al. 2014. The draw depends only on seed, step, layer and the value's index in the batch.
    """

    recordable = local = elementwise = True
    _checks: ClassVar = {"rate": partial(number, least=0, below=1)}

    def __init__(self, rate: float = 0.5):
        self.rate = rate

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        mode = self.mode
        if not mode.training or self.rate == 0:
            return x, lambda dy: dy

        def drop(values: Batch) -> Batch:
            return values.backend.dropout(values, self.rate, mode.seed, mode.step, self.number)

        return drop(x), drop

    def onnx(self, graph: Graph, x: str) -> str:
        return x  # the identity in inference

    def pytorch(self) -> list[TorchModule]:
        return [TorchModule("Dropout", {"p": self.rate})]
