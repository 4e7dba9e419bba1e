"""Layers of the user's own: what they return is looked at, and a recording calls them anew in each repetition."""

import functools
from collections import Counter
from collections.abc import Callable
from threading import local
from typing import Any, cast

import numpy as np

from gpucnn.arguments import a_kind
from gpucnn.backends.batch import Batch
from gpucnn.errors import ConfigurationError, DTypeError, ShapeError
from gpucnn.recordable import is_recordable

Layer = Any  # gpucnn.layers.base.Layer, whose module imports this one


def label(layer: Layer) -> str:
    """The layer in errors and tables: 'layer 3 (Conv2d)'."""
    return f"layer {layer.name} ({type(layer).__name__})" if layer.name else type(layer).__name__


_within = local()  # `called`: the layers that have run within the user's outermost one, one after the other


def notice_call(layer: Layer) -> None:
    """A built-in layer runs, or a user's in another of the user's."""
    called = getattr(_within, "called", None)
    if called is not None:
        called.append(layer)


def checked(call: Callable) -> Callable:
    """`__call__` of a user's layer, whose result is looked at; what such layers return to each other is their own.

    cloudpickle, with which joblib sends classes of scripts and notebooks, copies this function with all that it names.
    """

    @functools.wraps(call)
    def call_checked(self: Layer, /, *inputs: Any, **named: Any) -> Any:
        return _called(call, self, inputs, named)

    call_checked.runs_live = True  # type: ignore[attr-defined]
    return call_checked


def _called(call: Callable, layer: Layer, inputs: tuple, named: dict[str, Any]) -> Any:
    if getattr(_within, "called", None) is not None:
        return _noticed(call, layer, inputs, named)[0]
    x = next((batch for batch in (*inputs, *named.values()) if isinstance(batch, Batch)), None)
    if x is None:
        return call(layer, *inputs, **named)
    if x.backend.is_recording and not is_recordable(layer):
        return _live(layer, x, inputs, named)
    return _run(call, layer, x, inputs, named)


def _noticed(call: Callable, layer: Layer, inputs: tuple, named: dict[str, Any]) -> tuple[Any, list[Layer]]:
    """What the call returns, and the layers that ran within it."""
    around, called = getattr(_within, "called", None), list[Layer]()
    _within.called = called
    try:
        result = call(layer, *inputs, **named)
    finally:
        _within.called = around
    called = [part for part in called if part is not layer]  # as a class of ours that it extends
    if around is not None:
        around += [layer, *called]
    return result, called


def _run(call: Callable, own: Layer, x: Batch, inputs: tuple, named: dict[str, Any]) -> Any:
    result, called = _noticed(call, own, inputs, named)
    y, backward = result if isinstance(result, (tuple, list)) and len(result) == 2 else (result, "")
    if not (callable(backward) or (backward is None and not own.mode.training)):
        raise ConfigurationError(
            f"{label(own)} returned {a_kind(result)}; return (y, backward), a batch and a function"
        )
    check_batch(label(own), "", y, own.output_shape if x.shape[1:] == own.input_shape else None, x.images)
    if backward is None:
        return y, backward

    counts = Counter(map(id, called))  # those of dataclasses may be equal
    once = {id(layer): layer for layer in called}.values()
    again = [(layer, counts[id(layer)]) for layer in once if not layer._adds and counts[id(layer)] > 1]

    def checked_backward(dy: Batch) -> Batch | None:
        for layer, times in again:
            if layer._trainable and any(True for _ in layer.parameters()):
                raise ConfigurationError(
                    f"{label(layer)} runs {times} times in a call of {label(own)}, and of the "
                    "gradients of its weights only the last would stay; hold it in two attributes of your layer, such "
                    "as self.cell = self.again = cell, and they are added"
                )
        dx = backward(dy)
        if dx is not None or own.input_gradient:
            check_batch(label(own), " from its backward pass", dx, x.shape[1:], x.images)
        return dx

    return y, checked_backward


def runs_live(layer: Layer) -> bool:
    """Whether a recording can call the layer anew in each repetition: its class has a `__call__` of the user's."""
    return not is_recordable(layer) and getattr(type(layer).__call__, "runs_live", False)


def _live(layer: Layer, x: Batch, inputs: tuple, named: dict[str, Any]) -> tuple[Batch, Callable | None]:
    """The layer's result in arrays of a recording, which calls it and its backward pass in each repetition.

    The layer may keep what it is given, so that is a copy; and may change it, so it is copied back.
    """
    between = x.backend.between
    backward_of, made = list[Callable | None](), dict[str, Batch | None]()

    def forward() -> None:
        given = {id(batch): copied(batch) for batch in batches}
        arguments = (given.get(id(value), value) for value in inputs)
        y, backward = layer(*arguments, **{name: given.get(id(value), value) for name, value in named.items()})
        backward_of[:] = [backward]
        for batch in batches:
            batch.data[...] = given[id(batch)].data
        _put(made, "y", y)

    def backward(dy: Batch) -> Batch | None:
        _ = dy.data

        def run() -> None:
            given = copied(dy)
            dx = backward_of[0](given)  # type: ignore[misc]
            dy.data[...] = given.data
            _put(made, "dx", dx)

        between(run)
        return made["dx"]

    batches = [value for value in (*inputs, *named.values()) if isinstance(value, Batch)]
    _ = [batch.data for batch in batches]  # stored before, if they were not
    between(forward)
    return cast(Batch, made["y"]), None if backward_of[0] is None else backward


def copied(batch: Batch) -> Batch:
    """The same values in memory of their own."""
    return Batch(batch.backend.array(batch.data), batch.images, batch.backend)


def _put(made: dict[str, Batch | None], name: str, batch: Batch | None) -> None:
    """Keep a copy of the batch, in the same memory each time."""
    if name not in made:
        made[name] = None if batch is None else copied(batch)
    elif (known := made[name]) is not None and batch is not None:
        if known.data.shape != batch.data.shape:
            raise ShapeError(f"data of shape {batch.data.shape} was {known.data.shape} in a step that was recorded")
        known.data[...] = batch.data


def check_batch(whose: str, where: str, y: Any, shape: tuple[int, ...] | None, images: int) -> None:
    """Raises ConfigurationError unless what a user's code returned is a batch, ShapeError unless it has so many images
    of `shape` (None: of any), stored as its backend stores them, DTypeError for one of another type: kernels look at
    none of these.
    """
    if not isinstance(y, Batch):
        raise ConfigurationError(f"{whose} returned {a_kind(y)}{where}; return a batch: x.like(array)")
    found, expected = y.shape, (images, *(y.shape[1:] if shape is None else shape))
    if found == expected and type(y) is Batch:  # others are not computed yet
        found, expected = y.data.shape, (-(-images // y.backend.lanes), *expected[1:], y.backend.lanes)
    if found != expected:
        what = "data" if len(found) > len(y.shape) else "a batch"
        raise ShapeError(f"{whose} returned {what} of shape {found}{where}; give {expected}")
    if type(y) is Batch and y.data.dtype != y.backend.dtype:
        raise DTypeError(f"{whose} returned {y.data.dtype}{where}; compute in {np.dtype(y.backend.dtype)}")
