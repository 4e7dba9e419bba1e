"""Kernels that other native code calls, by address and without Python: see program.py."""

import functools
from collections.abc import Callable

from gpucnn.kernels.numba.compiler import Kernel, _announce
from numba.core import types

_SIGNATURE = (types.int64, types.int64)


class Native(Kernel):
    """A kernel `(arguments, unit)`, both int64: the address of its slots, and which unit of its work to do."""

    def __init__(self, function, name: str):
        super().__init__(function, name, parallel=False, contiguous=False)

    @functools.cached_property
    def address(self) -> int:
        """Where its machine code starts, compiled or loaded if this is the first time."""
        with _announce(self):
            self.dispatcher.compile(_SIGNATURE)
        compiled = self.dispatcher.overloads[_SIGNATURE]
        return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)


def native(name: str) -> Callable[[Callable], Native]:
    """Decorate a function as a Native kernel. `name` must tell all constants of its closure: the cache goes by it."""
    return lambda function: Native(function, name)
