"""Compiling kernels, with a cache on disk.

Numba's own cache looks at one source file and knows neither imported helpers nor the constants of a closure, and two
processes that fill it at once can store one function under another's name. This one keys every machine code by all that
made it: the sources of this folder, the kernel's name with its tile, the argument types, the processor with its
features, and the versions of Numba, llvmlite and Python. What is kept is Numba's own serialised machine code, which
nobody else may have written: whoever sets `store` sees to that.
"""

import contextlib
import functools
import hashlib
import itertools
import os
import pickle
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import llvmlite
import numba
import numpy as np
from numba.core import bytecode, caching, compiler, event, types

OPTIONS = {"error_model": "numpy", "nogil": True}
listeners: list[Callable[[str], None]] = []


class Store(Protocol):
    """Where compiled kernels are kept by name."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, content: bytes) -> None: ...


store: Store | None = None  # None: every process compiles

# Numba distinguishes functions of one name by a counter that starts at 1 in every process. Two tiles of one kernel,
# stored by two processes and loaded by a third, could then have one symbol, and the linker would call one tile for the
# other.
bytecode.FunctionIdentity._unique_ids = itertools.count(secrets.randbits(62))


@functools.cache
def _sources() -> str:
    """A digest of everything but the key itself that decides what machine code comes out."""
    digest = hashlib.sha256(repr((__name__, numba.__version__, llvmlite.__version__, sys.version)).encode())
    here = Path(__file__).parent
    for path in sorted([*here.glob("*.py"), *here.parent.glob("*.py")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for name in ("NUMBA_OPT", "NUMBA_LOOP_VECTORIZE", "NUMBA_SLP_VECTORIZE", "NUMBA_ENABLE_AVX", "NUMBA_BOUNDSCHECK"):
        digest.update(f"{name}={os.environ.get(name)}".encode())
    return digest.hexdigest()


class _Cache(caching._Cache):
    """Numba's interface of a cache for one kernel."""

    def __init__(self, name: str):
        self.name = name

    cache_path = ""

    def _key(self, signature, codegen) -> str:
        key = repr((_sources(), self.name, str(signature), codegen.magic_tuple()))
        stem = "".join(c if c.isalnum() else "-" for c in self.name)
        return f"{stem}-{hashlib.sha256(key.encode()).hexdigest()[:32]}"

    def load_overload(self, sig, target_context):
        target_context.refresh()
        payload = store.read(self._key(sig, target_context.codegen())) if store else None
        if payload is None:
            return None
        try:
            return compiler.CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception:  # whatever stands in a file under a right digest, it is no kernel: compile it anew
            return None

    def save_overload(self, sig, data):
        if store:
            store.write(self._key(sig, data.codegen), caching.dumps(data._reduce()))

    def enable(self):
        pass

    def disable(self):
        pass

    def flush(self):
        pass


class Kernel:
    """A function that Numba compiles for each combination of argument types.

    Arrays are strided for the compiler, so that one machine code serves contiguous arrays and views alike, unless the
    kernel says that it wants them contiguous. `prepare` gives the compiled entry point, which takes the same arguments
    and looks at no type again.
    """

    def __init__(self, function, name: str, parallel: bool, contiguous: bool):
        self.name = name
        self._layout = "C" if contiguous else "A"
        self.dispatcher = numba.njit(function, parallel=parallel, **OPTIONS)
        self.dispatcher._cache = _Cache(name)
        self.dispatcher._can_cache = True
        self._entries: dict = {}

    def prepare(self, *arguments) -> Callable[..., None]:
        """The entry point for arguments of these types, compiled or loaded if this is the first time."""
        key = tuple([(a.dtype.char, a.ndim) if isinstance(a, np.ndarray) else type(a) for a in arguments])
        entry = self._entries.get(key)
        if entry is None:
            signature = tuple(self._type(a) for a in arguments)
            with _announce(self):
                self.dispatcher.compile(signature)
            entry = self._entries[key] = self.dispatcher.overloads[signature].entry_point
        return entry

    def __call__(self, *arguments) -> None:
        self.prepare(*arguments)(*arguments)

    def _type(self, argument):
        if isinstance(argument, np.ndarray):
            return types.Array(numba.from_dtype(argument.dtype), argument.ndim, self._layout)
        return numba.typeof(argument)

    def assembly(self) -> str:
        """The machine code of all that was compiled so far, as text (empty for what came from the cache)."""
        return "\n".join(self.dispatcher.inspect_asm(s) for s in self.dispatcher.signatures)


class _Announcer(event.Listener):
    """Notifies `listeners` that a kernel is being compiled; one that comes from the cache compiles nothing."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel

    def on_start(self, event):
        if event.data["dispatcher"] is self.kernel.dispatcher:
            for listener in listeners:
                listener(self.kernel.name)

    def on_end(self, event):
        pass


@contextlib.contextmanager
def _announce(kernel: Kernel) -> Iterator[None]:
    with event.install_listener("numba:compile", _Announcer(kernel)):
        yield


def kernel(name: str, parallel: bool = True, contiguous: bool = False) -> Callable[[Callable], Kernel]:
    """Decorate a function as a Kernel. `name` must include all constants of its closure: the cache's key has it."""
    return lambda function: Kernel(function, name, parallel, contiguous)


def inner(function):
    """Decorate a function that kernels call. It is always inlined: an array costs a dozen words to hand over."""
    return numba.njit(function, forceinline=True, **OPTIONS)
