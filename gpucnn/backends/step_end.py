"""What a training step does when the weights are updated: watch for numbers that are not finite, prepare the next."""

from typing import Any, NamedTuple

Array = Any


class Ahead(NamedTuple):
    """The steps of an epoch in tables on the device, so that a step can prepare the next one.

    `row` uint32 (1,) is the current step's row; `order` int64 (rows, batch) and `rates` float32 (rows, hypers) are
    copied row by row into `indices` and the optimizer's `hyper`.
    """

    row: Array
    order: Array
    indices: Array
    rates: Array
    hyper: Array


class StepEnd(NamedTuple):
    """Arrays of Backend.watch; with `ahead` the step also prepares the next: the row and the step number grow by 1."""

    status: Array
    step: Array
    loss: Array
    ahead: Ahead | None = None
