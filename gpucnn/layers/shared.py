"""One layer in several places of a network: all use the same weights, and their gradients add up."""

import inspect
from functools import cache
from typing import Any

import numpy as np

from gpucnn.backends import shares
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array, Backend
from gpucnn.errors import ShapeError
from gpucnn.layers.base import Backward, Layer, Shape
from gpucnn.layers.own import label
from gpucnn.recordable import declaration

# What a class declares about its __call__, which a shared layer's class must declare again.
_DECLARED = (
    *("recordable", "local", "elementwise", "chain", "split"),
    *("onnx", "pytorch", "sliding", "filter_weights"),
)


class Shared:
    """Mixed into the class of a layer that a model holds in several places.

    The gradient of its weights is the sum over the places, in the order in which the backward pass comes to them: the
    last place first (contract rule 2). Running statistics are updated by each place in turn, and dropout draws the same
    numbers in each.
    """

    _adds = True

    def reset(self) -> None:
        """To be built anew."""
        vars(self).update(_built_for=None, _spares=[])

    def place(self: Any, backend: Backend) -> None:
        """Allocate what adding gradients needs: a recorded step allocates nothing and copies nothing from the host."""
        vars(self).update(_spares=[_spare(self, backend)], _minus_one=backend.array(np.array([-1], np.float32)))

    def need_input_gradient(self: Any, needed: bool) -> None:
        """Always: only one of the places may be the first in the network."""
        for layer in self.walk():
            layer.input_gradient = True


def share(layer: Layer) -> None:
    """Make `layer` one that may be in several places."""
    if not isinstance(layer, Shared):
        declared = tuple(name for name in _DECLARED if declaration(layer, name) is not None)
        kind: Any = type(layer)
        layer.__class__ = _shared(kind, declared)


@cache
def _shared(kind: Any, declared: tuple[str, ...]) -> type:
    def connect(self, shape: Shape) -> Shape:
        if self._built_for is None:
            vars(self).update(_built_for=tuple(shape))
            return kind.connect(self, shape)
        if tuple(shape) != self._built_for:
            raise ShapeError(
                f"{label(self)} is in the network several times, for inputs of shape {self._built_for} and "
                f"{tuple(shape)}; it needs the same shape everywhere"
            )
        return self.output_shape

    def call(self, x: Batch) -> tuple[Batch, Backward]:
        y, backward = kind.__call__(self, x)
        self.mode.passed.pop(self.number, None)  # without a model nobody else says that a pass is over

        def adding(dy: Batch) -> Batch | None:
            passed = self.mode.passed
            done = passed.get(self.number, 0)
            dx = _adding(self, backward, dy, done) if done and self._trainable else backward(dy)
            passed[self.number] = done + 1
            return dx

        return y, adding

    def reduce(self) -> tuple:
        return _blank, (kind, declared), self.__getstate__()

    members = {name: inspect.getattr_static(kind, name) if name in declared else None for name in _DECLARED}
    members |= {"__call__": call, "connect": connect, "__reduce__": reduce, "__module__": kind.__module__}
    return type(kind.__name__, (Shared, kind), members)


def _blank(kind: Any, declared: tuple[str, ...]) -> Any:
    """A shared layer without attributes, for pickle, which finds no class that was made while running."""
    shared: Any = _shared(kind, declared)
    return shared.__new__(shared)


def _spare(layer: Any, backend: Backend) -> list[tuple[Array, Array]]:
    """For each parameter memory for a gradient, and zeros."""
    return [(backend.zeros((p.value.size,)), backend.zeros((p.value.size,))) for _, p in layer.parameters()]


def _adding(layer: Any, backward: Backward, dy: Batch, done: int) -> Batch | None:
    """`backward` of the place that comes after `done` others, adding to the gradients that are there."""
    parameters, share = [p for _, p in layer.parameters()], shares.current()
    while share and len(layer._spares) < done:  # each place has its own gradients until the parts of a batch are added
        layer._spares.append(_spare(layer, dy.backend))
    spares = layer._spares[done - 1 if share else 0]
    totals = [p.grad for p in parameters]

    def add() -> None:
        for total, (spare, zeros) in zip(totals, spares, strict=True):
            # SGD with a rate of -1 and no momentum is total = fma(1, spare, total).
            dy.backend.sgd(
                total.reshape(-1), spare, zeros, layer._minus_one, momentum=0.0, weight_decay=0.0, nesterov=False
            )

    if share:
        share.exchange.add_at_end([spare for spare, _ in spares], add)
    for p, (spare, _) in zip(parameters, spares, strict=True):
        object.__setattr__(p, "grad", spare.reshape(p.shape))  # not a change of settings
    try:
        dx = backward(dy)
    finally:
        for p, total in zip(parameters, totals, strict=True):
            object.__setattr__(p, "grad", total)
    if not share:
        add()
    return dx
