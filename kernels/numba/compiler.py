"""Compiling kernels, with a cache on disk.

Numba's own cache looks at one source file and knows neither imported helpers nor the constants of a closure, and two
processes that fill it at once can store one function under another's name. This one keys every machine code by all that
made it: the sources of this folder, the kernel's name with its tile, the argument types, the processor with its
features, and the versions of Numba, llvmlite and Python. What is kept is Numba's own serialised machine code, which
nobody else may have written: whoever sets `store` sees to that.
"""

import contextlib
import functools
import gc
import hashlib
import itertools
import pickle
import secrets
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Protocol

import llvmlite
import numba
import numpy as np
from gpucnn.kernels.numba.arguments import unpacked_of
from numba.core import bytecode, caching, compiler, config, event, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

OPTIONS = {"error_model": "numpy", "nogil": True}
listeners: list[Callable[[str], None]] = []
needed: list[Callable[[], None]] = []  # called before a kernel is compiled or loaded


class Store(Protocol):
    """Where compiled kernels are kept by name."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, content: bytes) -> None: ...

    def turn(self, name: str) -> contextlib.AbstractContextManager[None]: ...


store: Store | None = None  # None: every process compiles

# Numba distinguishes functions of one name by a counter that starts at 1 in every process. Two tiles of one kernel,
# stored by two processes and loaded by a third, could then have one symbol, and the linker would call one tile for the
# other.
bytecode.FunctionIdentity._unique_ids = itertools.count(secrets.randbits(62))

# In folders, or in a zip archive; found as this module is imported: a test's copy of the package may be gone later.
_PACKAGES = [resources.files(name) for name in ("gpucnn.kernels.numba", "gpucnn.kernels")]


@functools.cache
def _sources() -> str:
    """A digest of everything but the key itself that decides what machine code comes out."""
    digest = hashlib.sha256(repr((__name__, numba.__version__, llvmlite.__version__, sys.version)).encode())
    for package in _PACKAGES:
        for file in sorted(package.iterdir(), key=lambda file: file.name):
            if file.name.endswith((".py", ".pyc")):  # compiled alone
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _settings() -> list:
    """What else decides it: of Numba, by variables, a file or assignment."""
    return [getattr(config, name) for name in ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "ENABLE_AVX", "BOUNDSCHECK")]


class _Cache(caching._Cache):
    """Numba's interface of a cache for one kernel; `types` are those of its arguments."""

    def __init__(self, name: str, types: tuple = ()):
        self.name, self.types = name, types

    cache_path = ""

    def _key(self, signature, codegen) -> str:
        key = repr((_sources(), _settings(), self.name, str(self.types), str(signature), codegen.magic_tuple()))
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


_ENTRY = (types.int64, types.int64)  # a kernel's table of arguments, and a unit


class Routine:
    """A function compiled for one combination of argument types, from the cache if it is there."""

    def __init__(self, function, name: str, signature: tuple, of: tuple = (), **options):
        self.name = name
        self.dispatcher = numba.njit(function, **OPTIONS, **options)
        self.dispatcher._cache = _Cache(name, of)
        self.dispatcher._can_cache = True
        with _turn(name, signature, of), _announce(self), _uncollected():
            self.dispatcher.compile(signature)
        self.compiled = self.dispatcher.overloads[signature]

    @property
    def entry(self) -> Callable:
        """What Python calls, with arguments of just these types."""
        return self.compiled.entry_point

    @functools.cached_property
    def address(self) -> int:
        """Where native code calls it."""
        with global_compiler_lock:  # another thread may be compiling, or asking for another address
            return self.compiled.library.get_pointer_to_function(self.compiled.fndesc.llvm_cfunc_wrapper_name)


class Function:
    """A function for Python to call, which Numba compiles for each combination of argument types."""

    def __init__(self, function, name: str):
        self.name, self._function = name, function
        self._routines: dict[tuple, Routine] = {}

    def prepare(self, *arguments) -> Callable:
        """The entry point for arguments of these types, compiled or loaded if this is the first time."""
        signature = signature_of(arguments)
        if signature not in self._routines:
            self._routines[signature] = Routine(self._function, self.name, signature)
        return self._routines[signature].entry

    def missing(self, *arguments) -> bool:
        """Whether there is no code for arguments of these types, neither here nor in the cache."""
        signature = signature_of(arguments)
        return signature not in self._routines and not is_stored(self.name, signature)

    def __call__(self, *arguments):
        return self.prepare(*arguments)(*arguments)


class Kernel:
    """A function whose work several threads share (team.py), compiled for each combination of argument types.

    Arrays are strided for the compiler, so that one machine code serves contiguous arrays and views alike, unless the
    kernel says that it wants them contiguous. It finds its arguments in a table (arguments.py).
    """

    def __init__(self, function, name: str, contiguous: bool):
        if function.__globals__.get("prange") is numba.prange:
            raise ImportError(f"kernel {name}: take prange from gpucnn.kernels.numba.team, not from numba")
        self.name, self._layout = name, "C" if contiguous else "A"
        self._body = numba.njit(function, inline="always", **OPTIONS)
        self.routines: dict[tuple, Routine] = {}

    def prepare(self, *arguments) -> int:
        """The address of the code for arguments of these types, compiled or loaded if this is the first time.

        It takes the address of the table of arguments and an int64 that it does not look at.
        """
        key = _key_of(arguments)
        routine = self.routines.get(key)
        if routine is None:
            routine = self.routines[key] = self.compile(self.signature(arguments))
        return routine.address

    def signature(self, arguments: tuple) -> tuple:
        """The types of these arguments."""
        return signature_of(arguments, self._layout)

    def missing(self, *arguments) -> tuple | None:
        """The signature to compile for these arguments; None if there is code for them, here or in the cache."""
        if _key_of(arguments) in self.routines:
            return None
        signature = self.signature(arguments)
        return None if is_stored(self.name, _ENTRY, signature) else signature

    def compile(self, signature: tuple) -> Routine:
        """The code for arguments of these types, from the cache if it is there."""
        for make in needed:
            make()
        body, unpacked = self._body, unpacked_of(signature)

        names = ", ".join(f"a{number}" for number in range(len(signature)))
        scope = {"__name__": __name__, "body": body, "unpacked": unpacked}  # a cached kernel asks for its module
        # Numba inlines no call with a star.
        exec(f"def entry(table, unit):\n    {names}, = unpacked(table)\n    body({names})", scope)
        return Routine(scope["entry"], self.name, _ENTRY, signature, no_cpython_wrapper=True)

    def assembly(self) -> str:
        """The machine code of all that was compiled so far, as text (empty for what came from the cache)."""
        return "\n".join(r.dispatcher.inspect_asm(s) for r in self.routines.values() for s in r.dispatcher.signatures)


def _key_of(arguments) -> tuple:
    return tuple([(a.dtype.char, a.ndim) if isinstance(a, np.ndarray) else type(a) for a in arguments])


def _stored_as(name: str, signature: tuple, of: tuple) -> str:
    return _Cache(name, of)._key(signature, cpu_target.target_context.codegen())


def _turn(name: str, signature: tuple, of: tuple) -> contextlib.AbstractContextManager[None]:
    """Within it no other process compiles this Routine."""
    return store.turn(_stored_as(name, signature, of)) if store else contextlib.nullcontext()


def is_stored(name: str, signature: tuple, of: tuple = ()) -> bool:
    """Whether the cache has a Routine."""
    return store is not None and store.read(_stored_as(name, signature, of)) is not None


def signature_of(arguments, layout: str = "A") -> tuple:
    """The types of arguments; arrays are strided ("A") or contiguous ("C")."""
    return tuple(
        types.Array(numba.from_dtype(a.dtype), a.ndim, layout) if isinstance(a, np.ndarray) else numba.typeof(a)
        for a in arguments
    )


class _Announcer(event.Listener):
    """Notifies `listeners` that a kernel is being compiled; one that comes from the cache compiles nothing."""

    def __init__(self, routine: Routine):
        self.routine = routine

    def on_start(self, event):
        if event.data["dispatcher"] is self.routine.dispatcher:
            for listener in listeners:
                listener(self.routine.name)

    def on_end(self, event):
        pass


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Within it Python collects no garbage, which takes an eighth of the time that Numba compiles."""
    with global_compiler_lock:  # two threads would leave it off
        enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if enabled:
                gc.enable()


@contextlib.contextmanager
def _announce(routine: Routine) -> Iterator[None]:
    with event.install_listener("numba:compile", _Announcer(routine)):
        yield


def kernel(name: str, contiguous: bool = False) -> Callable[[Callable], Kernel]:
    """Decorate a function as a Kernel. `name` must include all constants of its closure: the cache's key has it."""
    return lambda function: Kernel(function, name, contiguous)


def called(name: str) -> Callable[[Callable], Function]:
    """Decorate a function as a Function, which may return something."""
    return lambda function: Function(function, name)


def inner(function):
    """Decorate a function that only kernels call. It is always inlined: an array costs a dozen words to hand over."""
    return numba.njit(function, forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)
