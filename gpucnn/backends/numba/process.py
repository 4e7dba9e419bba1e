"""What Numba needs of the process that it runs in: to be switched on, a threading layer, and care after a fork."""

import ctypes
import os
import weakref
from typing import Any

import numba
from numba.np.ufunc import parallel

from gpucnn.errors import BackendError

_LAYERS = ("default", "safe", "threadsafe", "forksafe", "tbb", "omp", "workqueue")
_backends: weakref.WeakSet = weakref.WeakSet()
_forked_after_use: list[bool] = []  # one entry in such a process


def check() -> None:
    """Raises BackendError where the environment keeps Numba from computing."""
    if numba.config.DISABLE_JIT:
        raise BackendError("NUMBA_DISABLE_JIT switches Numba's compiler off; unset it")
    layer = str(numba.config.THREADING_LAYER).lower()
    if layer not in _LAYERS:
        raise BackendError(f"NUMBA_THREADING_LAYER is {layer!r}; use one of {', '.join(_LAYERS)}, or unset it")
    named, module = os.environ.get("NUMBA_THREADING_LAYER_PRIORITY"), {"tbb": "tbbpool", "omp": "omppool"}
    if sorted(numba.config.THREADING_LAYER_PRIORITY) != ["omp", "tbb", "workqueue"]:
        raise BackendError(f"NUMBA_THREADING_LAYER_PRIORITY is {named!r}; name tbb, omp and workqueue, or unset it")
    needed = "tbb" if layer in ("safe", "forksafe") else layer
    if needed in module:
        try:
            __import__(f"numba.np.ufunc.{module[needed]}")
        except ImportError as error:
            raise BackendError(f"NUMBA_THREADING_LAYER is {layer!r}, which is not here ({error}); unset it") from None


def most_threads() -> int:
    """How many Numba was started with."""
    return numba.config.NUMBA_NUM_THREADS


def limit(backend: Any, threads: int) -> int:
    """How many of these threads `backend` may use in this process; a fork changes its `threads`."""
    _backends.add(backend)
    return 1 if _forked_after_use else threads


def _after_fork() -> None:
    """GNU OpenMP's threads do not live in a forked process, and it waits for them forever: Numba ends such a process.

    One thread needs no others. Told its new process, the layer computes with that one, to the same bits.
    """
    if parallel._is_initialized and parallel._threading_layer == "omp":
        from numba.np.ufunc import omppool  # type: ignore[attr-defined]  # a compiled module

        ctypes.CFUNCTYPE(None, ctypes.c_int)(omppool.launch_threads)(1)
        _forked_after_use.append(True)
        for backend in _backends:
            backend.threads = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
