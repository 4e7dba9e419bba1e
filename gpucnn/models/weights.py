"""The flat buffers of a model, and whether anybody else has a hold of its weights.

Plans keep copies of weights in an order of their own. Whoever has an array of the weights may change them at any time,
so a plan compares them with what it copied in each call, which takes as long as reading them. But every array that was
ever given away is a view of `values`, of `statistics`, or of a parameter's or statistic's `value`. While nobody has
one, only who asks for one changes anything.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import get_ident
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpucnn.layers.base import Parameter, Statistic

Part = Parameter | Statistic

# Python counts the references to an object; without its lock the count may come late.
_COUNTS = getattr(sys, "_is_gil_enabled", lambda: True)()


def _references(array: Any) -> int:
    return sys.getrefcount(array)


_alone: Any = SimpleNamespace(array=object())
_FREE = _references(_alone.array)  # of what only one attribute refers to


class Weights:
    """Flat arrays, on the host or a device, that one model uses or several."""

    def __init__(self, values: Any, grads: Any, statistics: Any):
        self._flats = values, statistics
        self._values, self._statistics = (_part(flat, 0, flat.shape) for flat in self._flats)
        self.grads = grads
        self._seal: object | None = None
        self._trusted: int | None = None
        self._held: Part | None = None  # what somebody had a reference to

    @property
    def values(self) -> Any:
        return self.given(self._values)

    @property
    def statistics(self) -> Any:
        return self.given(self._statistics)

    def bind(self, parts: Iterable[Part], starts: Iterable[int], *, statistics: bool) -> None:
        """Give each of the parts its value, which begins so many values into `values` or `statistics`."""
        for part, start in zip(parts, starts, strict=True):
            part.bind("_weights", self)
            part.bind("_value", _part(self._flats[statistics], start, part.shape))

    def any(self) -> bool:
        """Whether a value is not 0."""
        return bool(self._values.any())

    def given(self, array: Any) -> Any:
        """`array`, which somebody has a reference to from now on."""
        self._seal = None
        return array if self._trusted is None or self._trusted != get_ident() else self._apart(array)

    @contextmanager
    def trusting(self) -> Iterator[None]:
        """Within it this thread is given arrays that count for nobody. It may write to them while it has `values`."""
        self._trusted = get_ident()
        try:
            yield
        finally:
            self._trusted = None

    def seal(self, parts: Callable[[], Iterable[Part]]) -> object | None:
        """An object that stays the same while nobody can change the weights; None if somebody can.

        `parts()` are those of the models that use these buffers.
        """
        if self._seal is not None:
            return self._seal
        if _COUNTS and type(self._values) is np.ndarray:
            # In this order: who takes an array in the meantime drops the seal after that, or is counted.
            mine = self._seal = object()
            if self._is_held(parts):
                self._seal = None
            return mine if self._seal is mine else None
        return None

    def _is_held(self, parts: Callable[[], Iterable[Part]]) -> bool:
        """Whether anybody else has a reference to an array, or to a view of it."""
        if _references(self._values) != _FREE or _references(self._statistics) != _FREE:
            return True
        if self._held is None or _references(self._held._value) == _FREE:  # else it is the one that it was before
            self._held = next((part for part in parts() if _references(part._value) != _FREE), None)
        return self._held is not None

    def readable(self, array: Any) -> Any:
        """`_apart` of an array that kernels can read in whole vectors; None for another."""
        is_readable = array.dtype == np.float32 and array.flags.c_contiguous and self._offset(array)[1] % 64 == 0
        return self._apart(array) if is_readable else None

    def _apart(self, array: Any) -> Any:
        """The same part of these buffers as an array that counts for nobody; None if it is no part of them."""
        flat, offset = self._offset(array)
        if flat is None or type(array) is not np.ndarray:  # CuPy's are not counted
            return None if flat is None else array
        return np.ndarray(array.shape, array.dtype, flat, offset, array.strides)

    def _offset(self, array: Any) -> tuple[Any, int]:
        """The buffer that an array is a part of, or None, and how many bytes from its start."""
        for flat in self._flats:
            if 0 <= (offset := _address(array) - _address(flat)) < flat.nbytes:
                return flat, offset
        return None, 0


def _part(flat: Any, start: int, shape: tuple[int, ...]) -> Any:
    """A part of a flat array which all views of that part refer to, and nothing beyond it."""
    if type(flat) is not np.ndarray:
        return flat[start : start + math.prod(shape)].reshape(shape)
    # What NumPy makes of a memoryview is where it stops when it looks for what a view refers to.
    memory = flat.data[start : start + math.prod(shape)].cast("B")
    return np.asarray(memory.cast(flat.dtype.char, shape)) if len(memory) else np.zeros(shape, flat.dtype)


def _address(array: Any) -> int:
    """Where an array begins; CuPy's have no __array_interface__."""
    interface = "__cuda_array_interface__" if hasattr(array, "__cuda_array_interface__") else "__array_interface__"
    return getattr(array, interface)["data"][0]
