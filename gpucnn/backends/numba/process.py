"""What Numba needs of the process that it runs in."""

import numba

from gpucnn.errors import BackendError


def check() -> None:
    """Raises BackendError where the environment keeps Numba from computing."""
    if numba.config.DISABLE_JIT:
        raise BackendError("NUMBA_DISABLE_JIT switches Numba's compiler off; unset it")


def most_threads() -> int:
    """How many Numba was started with."""
    return numba.config.NUMBA_NUM_THREADS
