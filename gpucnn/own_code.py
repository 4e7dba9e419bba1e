"""What the code of a user's classes computes with, to see whether it has changed: a notebook changes it in place."""

import dis
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from gpucnn.recordable import OUTSIDE_A_STEP

# Whose code stays as it is.
_FIXED = ("builtins", "cupy", "gpucnn", "math", "numpy")
_PLAIN = (bool, int, float, str, bytes, type(None), np.generic)
_CODE = (type, FunctionType, BuiltinFunctionType, np.ufunc, type(np.sum))
_EMPTY = CellType()
_MISSING: Any = ()  # of a name that is no global: a builtin, or undefined


@dataclass
class OwnCode:
    """Functions with what they are made of, and names of namespaces with what they stand for.

    `whole`: nothing that they read may change unseen, as a list may.
    """

    functions: list[tuple[FunctionType, CodeType, Any, Any]] = field(default_factory=list)
    names: list[tuple[Mapping[str, Any], str, Any]] = field(default_factory=list)
    cells: list[tuple[CellType, Any]] = field(default_factory=list)
    whole: bool = True

    def is_same(self) -> bool:
        """Whether nothing has changed since it was found."""
        return not self.names or (  # most networks have no code of their own
            all(space.get(name, _MISSING) is value for space, name, value in self.names)
            and all(cell.cell_contents is value for cell, value in self.cells)
            and all(
                f.__code__ is code and f.__defaults__ is defaults and f.__kwdefaults__ is named
                for f, code, defaults, named in self.functions
            )
        )


def own_code(kinds: Iterable[type]) -> OwnCode:
    """The code of these classes that is not gpucnn's, but for what never runs within a step."""
    found, seen, stack = OwnCode(), set[int](), list[Any](kinds)
    while stack:
        thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, _CODE) and _is_fixed(thing):
            continue
        if isinstance(thing, type):
            for ancestor in thing.__mro__:
                if not _is_fixed(ancestor):
                    # Others, which begin with two underscores and are no functions, decide nothing.
                    own = {n: v for n, v in vars(ancestor).items() if n[:2] != "__" or isinstance(v, FunctionType)}
                    own = {name: value for name, value in own.items() if name not in OUTSIDE_A_STEP}
                    found.names += ((vars(ancestor), name, value) for name, value in own.items())
                    stack += own.values()
        elif isinstance(thing, FunctionType):
            found.functions.append((thing, thing.__code__, thing.__defaults__, thing.__kwdefaults__))
            cells = [cell for cell in thing.__closure__ or () if cell != _EMPTY]
            found.cells += ((cell, cell.cell_contents) for cell in cells)
            stack += (cell.cell_contents for cell in cells)
            stack += [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
            if not thing.__globals__.get("__name__", "").startswith("gpucnn."):
                found.whole &= not _reaches_out(thing.__code__)
                read = [(thing.__globals__, name) for name in _globals_of(thing.__code__)]
                found.names += ((space, name, space.get(name, _MISSING)) for space, name in read)
                stack += (space.get(name, _MISSING) for space, name in read)
        elif isinstance(thing, (staticmethod, classmethod)):
            stack.append(thing.__func__)
        elif isinstance(thing, property):
            stack += [thing.fget, thing.fset, thing.fdel]
        elif isinstance(thing, tuple):
            stack += thing
        elif not isinstance(thing, _PLAIN) and not _is_fixed(thing):
            found.whole = False
    return found


def _is_fixed(thing: Any) -> bool:
    if not isinstance(thing, (ModuleType, *_CODE)):
        return False
    if isinstance(thing, FunctionType):  # functools.wraps gives it another __module__, and it may wrap a user's
        where = None if thing.__closure__ else thing.__globals__.get("__name__")
    else:
        where = thing.__name__ if isinstance(thing, ModuleType) else thing.__module__
    return where is not None and where.partition(".")[0] in _FIXED


@functools.cache
def _reaches_out(code: CodeType) -> bool:
    """Whether code imports from a module that may change, or reads what no name tells."""
    inside = any(_reaches_out(const) for const in code.co_consts if isinstance(const, CodeType))
    steps = [(step.opname, str(step.argval)) for step in dis.get_instructions(code)]
    return inside or any(
        (name == "IMPORT_NAME" and read.partition(".")[0] not in _FIXED)
        or (name in ("LOAD_GLOBAL", "LOAD_NAME") and read in ("eval", "exec", "globals", "locals", "vars"))
        for name, read in steps
    )


@functools.cache
def _globals_of(code: CodeType) -> list[str]:
    """The global names that a function's code reads, and the code of functions in it."""
    inside = [name for const in code.co_consts if isinstance(const, CodeType) for name in _globals_of(const)]
    return [step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")] + inside
