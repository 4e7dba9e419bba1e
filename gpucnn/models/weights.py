"""The flat buffers of a model, and whether anybody else has a hold of its weights.

Plans keep copies of weights in an order of their own. Whoever has an array of the weights may change them at any time,
so a plan compares them with what it copied in each call, which takes as long as reading them. But every array that was
ever given away is a view of `values` or `statistics`. While nobody has one, only who asks for one changes anything.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import numpy as np

from gpucnn.layers.base import Parameter, Statistic

# Python counts the references to an object; without its lock the count may come late.
_COUNTS = getattr(sys, "_is_gil_enabled", lambda: True)()
# How many an object has, as _references counts, that only the list knows.
_FREE = sys.getrefcount(object()) if not _COUNTS else next(map(sys.getrefcount, [object()]))


class Weights:
    """Flat arrays, on the host or a device, that one model uses or several."""

    def __init__(self, values: Any, grads: Any, statistics: Any):
        self._own = values, statistics
        self._values, self._statistics = map(_root, self._own)
        self.grads = grads
        self._seal: object | None = None
        self._trusted: int | None = None

    @property
    def values(self) -> Any:
        return self.given(self._values)

    @property
    def statistics(self) -> Any:
        return self.given(self._statistics)

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

    def seal(self, parts: Callable[[], Iterable[list[Parameter | Statistic]]]) -> object | None:
        """An object that stays the same while nobody can change the weights; None if somebody can.

        `parts()` are those of each model that uses these buffers.
        """
        if self._seal is None and _COUNTS and type(self._values) is np.ndarray:
            # In this order: who takes an array in the meantime drops the seal after that, or is counted.
            mine = self._seal = object()
            if self._is_held(list(parts())):
                self._seal = None
            return mine if self._seal is mine else None
        return self._seal

    def _is_held(self, parts: list[list[Parameter | Statistic]]) -> bool:
        """Whether there is a reference to an array but those of this object and of the parts."""
        views = [part._value for own in parts for part in own]
        flats = [self._values, self._statistics]
        if sum(map(sys.getrefcount, flats)) != 2 * (_FREE + 1) + len(views):
            return True
        return any(count != _FREE + 1 for count in map(sys.getrefcount, views))

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
        for flat in self._own:
            if 0 <= (offset := _address(array) - _address(flat)) < flat.nbytes:
                return flat, offset
        return None, 0


def _root(flat: Any) -> Any:
    """The same memory as an array that all views of it, and of these, refer to."""
    return np.frombuffer(flat.data, flat.dtype) if type(flat) is np.ndarray else flat


def _address(array: Any) -> int:
    """Where an array begins; CuPy's have no __array_interface__."""
    interface = "__cuda_array_interface__" if hasattr(array, "__cuda_array_interface__") else "__array_interface__"
    return getattr(array, interface)["data"][0]
