"""The flat buffers of a model, and whether anybody else has a hold of its weights.

Plans keep copies of weights in an order of their own. Whoever has an array of the weights may change them at any time,
so a plan compares them with what it copied in each call, which takes as long as reading them. But every array that was
ever given away is one of the buffers' `_arrays`, or refers to one. While nobody has one, only who asks for one changes
anything.
"""

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from operator import attrgetter
from sys import getrefcount
from threading import get_ident
from typing import Any
from weakref import getweakrefcount

import numpy as np

from gpucnn.layers.base import Parameter, Statistic
from gpucnn.models.turn import Turn

Part = Parameter | Statistic
Place = tuple[bool, int, tuple[int, ...]]  # whether among the statistics, where it starts, and its shape

# Python counts the references to an object; without its lock the count may come late.
_COUNTS = getattr(sys, "_is_gil_enabled", lambda: True)()
_base = attrgetter("base")
# Of what only one object refers to; counted without a variable of a frame, which debuggers hold.
_alone = {0: object()}
(_FREE,) = map(getrefcount, _alone.values())
_FREE_ENTRY = getrefcount(_alone[0])


class _Seal:
    is_sure = False


class Weights:
    """Flat arrays, on the host or a device, that one model uses or several."""

    def __init__(self, values: Any, grads: Any, statistics: Any):
        self._flats = values, statistics
        self.grads = grads
        self.turn = Turn()
        self._seal: _Seal | None = None
        self._trusted: int | None = None
        self._held: Place | None = None  # the one that somebody had
        self._arrays: dict[Place, Any] = {}
        self._all = self._place(False, 0, values.shape), self._place(True, 0, statistics.shape)

    @property
    def values(self) -> Any:
        return self.given(self._all[False])

    @property
    def statistics(self) -> Any:
        return self.given(self._all[True])

    def bind(self, parts: Iterable[Part], starts: Iterable[int], *, statistics: bool) -> None:
        """Give each of the parts its place, which begins so many values into `values` or `statistics`."""
        for part, start in zip(parts, starts, strict=True):
            part.bind("_weights", self)
            part.bind("_place", self._place(statistics, start, part.shape))

    def _place(self, statistics: bool, start: int, shape: tuple[int, ...]) -> Place:
        place = statistics, start, shape
        if place not in self._arrays:  # else another model has it too
            self._arrays[place] = _part(self._flats[statistics], start, shape)
        return place

    def any(self) -> bool:
        """Whether a value is not 0."""
        return bool(self._arrays[self._all[False]].any())

    def given(self, place: Place) -> Any:
        """The array there, which somebody has a reference to from now on."""
        array = self._arrays[place]
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

    def seal(self) -> object | None:
        """An object that stays the same while nobody can change the weights; None if somebody can."""
        seal = self._seal
        if seal is None and _COUNTS and type(self._flats[0]) is np.ndarray:
            # In this order: who takes an array in the meantime drops the seal after that, or is counted.
            seal = self._seal = _Seal()
            if self._is_held():
                self._seal = None
            else:
                seal.is_sure = True
        return seal if seal is not None and seal.is_sure and seal is self._seal else None

    def _is_held(self) -> bool:
        """Whether anybody else has a reference to an array, or to a view or buffer of it."""
        held = self._held  # which another thread may forget
        if held is not None and self._is_taken(held):  # often it is the same as before
            return True
        arrays = self._arrays.values()
        counts = map(getrefcount, chain(arrays, map(_base, arrays)))
        if max(counts) == _FREE and not any(map(getweakrefcount, arrays)):
            return False
        self._held = next(filter(self._is_taken, list(self._arrays)), None)
        return True

    def _is_taken(self, place: Place) -> bool:
        arrays = self._arrays
        return getrefcount(arrays[place]) > _FREE_ENTRY or getrefcount(arrays[place].base) > _FREE_ENTRY

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
            if 0 <= (offset := _address(array) - _address(flat)) <= flat.nbytes - array.nbytes:
                return flat, offset
        return None, 0


class _Memory:
    """Part of a flat array, for NumPy: the array made of it, and so every view of that, refers to it alone."""

    __slots__ = ("__array_interface__", "_flat")

    def __init__(self, flat: np.ndarray):
        self._flat, self.__array_interface__ = flat, flat.__array_interface__


def _part(flat: Any, start: int, shape: tuple[int, ...]) -> Any:
    """A part of a flat array which all views of that part refer to, and nothing beyond it."""
    part = flat[start : start + math.prod(shape)].reshape(shape)
    return np.asarray(_Memory(part)) if type(flat) is np.ndarray else part


def _address(array: Any) -> int:
    """Where an array begins; CuPy's have no __array_interface__."""
    interface = "__cuda_array_interface__" if hasattr(array, "__cuda_array_interface__") else "__array_interface__"
    return getattr(array, interface)["data"][0]
