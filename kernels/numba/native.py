"""Kernels that other native code calls, by address and without Python: see program.py."""

import functools
from collections.abc import Callable

from gpucnn.kernels.numba.addresses import put_slot, slot
from gpucnn.kernels.numba.compiler import Routine, inner
from numba.core import types


class Native:
    """A kernel `(arguments, unit)`, both int64: the address of its slots, and which unit of its work to do."""

    def __init__(self, function, name: str):
        self.name, self._function = name, function

    @functools.cached_property
    def routine(self) -> Routine:
        return Routine(self._function, self.name, (types.int64, types.int64), no_cpython_wrapper=True)

    @property
    def address(self) -> int:
        """Where its machine code starts, compiled or loaded if this is the first time."""
        return self.routine.address


def native(name: str) -> Callable[[Callable], Native]:
    """Decorate a function as a Native kernel. `name` must tell all constants of its closure: the cache goes by it."""
    return lambda function: Native(function, name)


def allocating(name: str, failed: int) -> Callable[[Callable], Native]:
    """The same for a kernel that allocates memory. No exception leaves a kernel, so where there is no memory, 1 goes to
    the address in slot `failed`.
    """

    def decorate(function: Callable) -> Native:
        body = inner(function)

        @native(name)
        def kernel(a, unit):
            try:
                body(a, unit)
            except Exception:
                put_slot(slot(a, failed), 0, 1)

        return kernel

    return decorate
