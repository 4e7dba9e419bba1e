"""Choosing a backend by name, and explaining why one cannot be used on this machine."""

import functools
import importlib

import numpy as np

from gpucnn.arguments import integer, refuse, shown, truth
from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.processors import default_threads
from gpucnn.backends.protocol import Backend
from gpucnn.errors import BackendError

__all__ = ["Augmentation", "Backend", "Batch", "backends", "get_backend"]

# (name, math) -> (module, class). The fastest backend is first; exact math, every backend's default, precedes fast.
_IMPLEMENTATIONS = {
    ("cupy", "exact"): ("gpucnn.backends.cuda.cupy_backend", "CupyBackend"),
    ("numba", "exact"): ("gpucnn.backends.numba.backend", "NumbaBackend"),
    ("numba-cuda", "exact"): ("gpucnn.backends.numba_cuda.backend", "NumbaCudaBackend"),
    ("numpy", "exact"): ("gpucnn.backends.numpy.exact", "NumpyExact"),
    ("numpy", "fast"): ("gpucnn.backends.numpy.fast", "NumpyFast"),
}


def names() -> list[str]:
    """The backends' names, fastest first."""
    return list(dict.fromkeys(name for name, _ in _IMPLEMENTATIONS))


def maths(name: str) -> list[str]:
    """The kinds of math that a backend has, its default first."""
    return [math for other, math in _IMPLEMENTATIONS if other == name]


def get_backend(
    name: str | None = None, math: str | None = None, *, threads: int | None = None, dtype=None, graph: bool = True
) -> Backend:
    """The backend called `name` ("numpy", "numba", "cupy", "numba-cuda"), or the fastest usable one.

    math: "exact" (the default: the same bits everywhere) or "fast" (BLAS; numpy only). threads: the number of CPU
    threads its kernels may use, by default one per core that this process may use. dtype: float32, or float64 with
    numpy's fast math. graph: False makes backends that record a training step and repeat it (cupy as a CUDA graph,
    numba as a list of kernel calls) launch each step again, to the same bits; the others never record (see
    `backend.graph`). Calls with the same arguments return the same object. Raises BackendError for an unknown name, a
    backend that is not usable on this machine, or math that it does not have.
    """
    if name is None:
        usable = [entry["name"] for entry in backends() if entry["usable"]]
        name = next((n for n in usable if not isinstance(math, str) or math in maths(n)), usable[0])
    if not isinstance(name, str) or name not in names():
        raise BackendError(f"there is no backend {shown(name)}; there are: {_listing()}")
    if math is None:
        math = maths(name)[0]
    if not isinstance(math, str) or math not in maths(name):
        raise BackendError(f"backend {name!r} has no math {shown(math)}; it has: {', '.join(maths(name))}")
    threads = None if threads is None else integer("threads", threads)
    graph = truth("graph", graph)
    try:
        dtype = np.dtype(np.float32 if dtype is None else dtype)
    except (TypeError, ValueError, OverflowError):
        raise refuse("dtype", dtype, "numpy.float32, or numpy.float64 for numpy's fast math") from None
    if dtype != np.float32 and not ((name, math) == ("numpy", "fast") and dtype == np.float64):
        raise BackendError(
            f"backend {name!r} with math {math!r} computes in float32, not {dtype}; float64 is for numpy's fast math"
        )
    reason = _why_not(name, math)
    if reason:
        raise BackendError(f"backend {name!r} is not usable here: {reason}. Usable or not: {_listing()}")
    return _make(name, math, threads or default_threads(name), dtype, graph)


def backends() -> list[dict]:
    """Every backend, fastest first: name, usable, reason (why not), math (all it has), default (its math), device,
    threads.
    """
    rows = []
    for name in names():
        reason = _why_not(name, maths(name)[0])
        made = None if reason else get_backend(name)
        rows.append(
            {
                "name": name,
                "usable": reason is None,
                "reason": reason,
                "math": maths(name),
                "default": maths(name)[0],
                "device": made.device if made else None,
                "threads": made.threads if made else None,
            }
        )
    return rows


@functools.cache
def _why_not(name: str, math: str) -> str | None:
    """Why a backend cannot be used on this machine; None if it can."""
    module, kind = _IMPLEMENTATIONS[name, math]
    try:
        getattr(importlib.import_module(module), kind)
    except BackendError as error:
        reason = str(error)
    except Exception as error:  # a library may fail in any way: numba raises a ValueError for NUMBA_NUM_THREADS=0
        reason = f"{type(error).__name__}: {error}"
    else:
        return None
    return " ".join(reason.split())  # library messages may span lines


@functools.cache
def _make(name: str, math: str, threads: int, dtype: np.dtype, graph: bool) -> Backend:
    module, kind = _IMPLEMENTATIONS[name, math]
    made = getattr(importlib.import_module(module), kind)(threads=threads, dtype=dtype)
    if not graph:
        made.graph = False
    return made


def _listing() -> str:
    """All backends, each with the reason why it is not usable, for error messages."""
    return ", ".join(f"{n} ({_why_not(n, maths(n)[0]) or 'usable'})" for n in names())
