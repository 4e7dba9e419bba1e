"""Whether a GPU backend's results are in the GPU's memory: results in host memory would be right, but slow."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Backend

# Their results belong on the host.
_TO_HOST = {"host", "host_into", "staging", "unpack"}
# cudaMemoryTypeDevice, from the CUDA runtime's pointerGetAttributes.
_DEVICE_MEMORY = 2


def on_gpu(backend: Backend) -> bool:
    """Whether a backend computes on a GPU: emulated and simulated kernels work on NumPy's arrays."""
    return backend.threads == 0 and backend.xp is not np


def unwatched(backend: Any) -> Any:
    """The backend itself: a model compares its own with that of a batch."""
    return backend._backend if isinstance(backend, DeviceMemoryMonitor) else backend


class DeviceMemoryMonitor:
    """A proxy of `backend` that records results outside the device's memory. Gradients that an operation writes need no
    check: their arrays came from `zeros` or `array`.

    `misplaced`: a sentence for each operation that returned a result elsewhere.
    """

    def __init__(self, backend: Backend):
        self._backend = backend
        self._sentences: dict[str, str] = {}

    @property
    def misplaced(self) -> list[str]:
        return list(self._sentences.values())

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backend, name)
        if name in _TO_HOST or name not in vars(Backend) or not callable(value):
            return value

        def monitored(*arguments, **options):
            result = value(*arguments, **options)
            for array in _arrays(result):
                if place := _wrong_place(array, self._backend.xp):
                    sentence = f"{name} on {self._backend.name}: its result is in {place}, not in the GPU's memory"
                    self._sentences.setdefault(name, sentence)
            return result

        return monitored


def _arrays(value: Any) -> Iterator[Any]:
    """The arrays in what an operation returned: batches, arrays, tuples of both."""
    if isinstance(value, tuple):
        for part in value:
            yield from _arrays(part)
    elif isinstance(value, Batch):
        yield value.data
    elif hasattr(value, "dtype"):
        yield value


def _wrong_place(array: Any, xp: Any) -> str | None:
    """Where an array is stored, if not in the device's memory. `xp` is CuPy."""
    if not hasattr(array, "__cuda_array_interface__"):
        return f"an array of {type(array).__module__.partition('.')[0]}"
    address = array.__cuda_array_interface__["data"][0]
    if not array.size:
        return None
    kind = xp.cuda.runtime.pointerGetAttributes(address).type
    return None if kind == _DEVICE_MEMORY else f"memory of CUDA's type {kind}"
