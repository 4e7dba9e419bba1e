"""Host memory."""

import os
from typing import Any

import numpy as np


def unshared(array: Any) -> Any:
    """A copy of a host array that came with a pickle, anything else as it is: joblib, dask and others put arrays in
    files and memory that other processes read too, and that kernels may not write to.
    """
    return np.array(array) if isinstance(array, np.ndarray) else array


def host_memory() -> int:
    """Total bytes of this machine's main memory; 0 if unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return 0
