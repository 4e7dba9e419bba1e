"""The processor's measured peak of multiply-adds per second, with which the kernels' throughput is compared."""

from collections.abc import Callable
from time import perf_counter

import numpy as np

from gpucnn.backends.numba.base import Launch
from gpucnn.backends.numba.tiles import accumulators
from gpucnn.kernels.numba.peak import fma_burst_of
from gpucnn.kernels.numba.simd import LANES

_ROUNDS = 200_000


def fma_burst(threads: int) -> tuple[Callable[[], None], int]:
    """(burst, operations): each call of `burst` does `operations` float32 operations on `threads` threads.

    A multiply-add counts as two. Takes less than a millisecond, without access to memory.
    """
    count = accumulators()
    burst = fma_burst_of(count)
    out = np.empty((threads, LANES), np.float32)

    launch = Launch([(burst, (threads, _ROUNDS, out))], threads)

    def run() -> None:
        out[...] = 0.5
        launch()

    return run, 2 * threads * _ROUNDS * count * LANES


def fma_peak(threads: int, seconds: float = 0.5) -> float:
    """Float32 operations per second on `threads` threads: the best burst within `seconds`."""
    burst, operations = fma_burst(threads)
    burst()
    best, until = float("inf"), perf_counter() + seconds
    while perf_counter() < until:
        started = perf_counter()
        burst()
        best = min(best, perf_counter() - started)
    return operations / best
