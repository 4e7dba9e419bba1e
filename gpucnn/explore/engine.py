"""The threads that compute, and how their arrays travel to the page."""

import asyncio
import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from gpucnn.backends import get_backend
from gpucnn.backends.protocol import Backend

_WAITING = 64  # requests at most; the page sends the next when the last is answered


class Busy(Exception):
    """More requests are waiting than any page sends."""


class Engine:
    """Calls functions in two threads beside the server's, each one after the other.

    One has all that computes with `backend`: a model's mode and gradients belong to one caller at a time. The other has
    what NumPy does in a moment, so that a filter slides while kernels are compiled. On a CPU a kernel has one thread
    unless told otherwise: a few images are quick on one, and on a busy machine nothing waits for a second.
    """

    def __init__(self, backend: str | None = None, threads: int = 1):
        self.backend: Backend = get_backend(backend, threads=threads)
        self._thread, self._moment = (ThreadPoolExecutor(1, thread_name_prefix=f"explore-{n}") for n in range(2))
        self._waiting = 0

    async def run(self, function: Callable[..., Any], *arguments: Any, moment: bool = False) -> Any:
        """What the function returns, in the second thread if it takes a `moment`. Raises what it raises, and Busy."""
        if self._waiting >= _WAITING:
            raise Busy
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._moment if moment else self._thread, function, *arguments
            )
        finally:
            self._waiting -= 1

    def later(self, function: Callable[..., Any]) -> None:
        """Call the function in the first thread when its turn comes; nobody waits for it."""
        self._thread.submit(function)

    def close(self) -> None:
        """Wait for what runs, and forget the rest."""
        for thread in (self._thread, self._moment):
            thread.shutdown(cancel_futures=True)


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array for the page, bit by bit: its shape, its type, and its bytes, little-endian, in base64."""
    kinds = {"f": "<f4", "u": "<u4", "i": "<i4", "b": "|u1"}
    array = np.ascontiguousarray(array, "|u1" if array.dtype == np.uint8 else kinds[array.dtype.kind])
    return {"shape": list(array.shape), "type": array.dtype.str[1:], "data": base64.b64encode(array.tobytes()).decode()}
