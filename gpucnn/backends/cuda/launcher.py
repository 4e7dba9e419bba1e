"""The CUDA backend's interface to a device: memory, kernels by name, launches, and a way to repeat a step.

Two implementations: CuPy on a GPU (cupy_launcher.py), and g++ on the CPU (gpucnn.emulation.launcher).
"""

import contextlib
import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import gpucnn.kernels

if TYPE_CHECKING:
    from gpucnn.parallel.processes import Processes

# Launches that may overlap are spread over so many branches; those of a branch run in order.
BRANCHES = 4
SOURCES = Path(gpucnn.kernels.__file__).parent / "cuda"
Array = Any


class Launcher(ABC):
    """`xp` is the array module, `device` describes the hardware, `processors` is the number of multiprocessors.
    `graph`: whether `capture` records; if it is False every step is launched kernel by kernel. `architecture` is what
    kernels are compiled for, as NVRTC calls it ("sm_90"); "" without a GPU."""

    graph = True
    architecture = ""
    xp: Any
    device: str
    processors: int

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype=np.float32) -> Array:
        """Uninitialized memory."""

    @abstractmethod
    def address(self, array: Array) -> int:
        """Where an array's memory begins."""

    def lasting(self) -> contextlib.AbstractContextManager[None]:
        """In this context, arrays are made that outlive a capture at hand."""
        return contextlib.nullcontext()

    @abstractmethod
    def clear(self, array: Array) -> None:
        """Set all bytes to zero."""

    @abstractmethod
    def write(self, array: Array, host: np.ndarray) -> None:
        """Copy host values of the same shape and type into a device array; captured steps see them."""

    @abstractmethod
    def read(self, array: Array) -> np.ndarray:
        """A copy on the host; waits for the kernels that write it."""

    def staging(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        """Host memory from which `write` is fastest, and `read_into` to it."""
        return np.empty(shape, dtype)

    def read_into(self, array: Array, host: np.ndarray) -> None:
        """`read` into a host array of the same shape and type."""
        host[...] = self.read(array)

    @abstractmethod
    def kernel(self, file: str, expression: str = "") -> Any:
        """The kernel called `expression` in C++ (template arguments included) of kernels/cuda/`file`, compiled."""

    def spilled(self, kernel: Any) -> int:
        """Bytes of memory for registers that a thread of the kernel has too few of."""
        return 0

    @abstractmethod
    def launch(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        *arguments,
        overlap: tuple[Array, ...] = (),
        branch: int = 0,
    ) -> None:
        """Run a kernel. Arguments are arrays, None for a null pointer, NumPy scalars of the exact C type, and tuples of
        these for a struct.

        `overlap` lists all arrays that the kernel writes, if it may run concurrently with later kernels, up to the
        first one that takes one of these arrays or any part of their memory. Launches of the same `branch`, one of
        BRANCHES, run in order.
        """

    @abstractmethod
    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Run `step` once and return a function that repeats its launches on the same memory."""

    @abstractmethod
    def gather(self, processes: "Processes", sent: Array, received: Array) -> None:
        """received[r] = what process r calls `sent`, now and at the same place of each replay."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for all launched work."""


class Arguments:
    """A kernel's arguments as CUDA and the emulation take them: `address` points to an array of pointers to them.

    `sizes` are their sizes in bytes. Keeps the arguments alive. `locate` returns an array's address.
    """

    def __init__(self, arguments: tuple, locate: Callable[[Array], int]):
        self.kept = arguments
        values = [_bytes(argument, locate) for argument in arguments]
        self.sizes = [len(value) for value in values]
        self._buffers = [ctypes.create_string_buffer(value, len(value)) for value in values]
        self._pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(b) for b in self._buffers))
        self.address = ctypes.addressof(self._pointers)


def _bytes(argument, locate: Callable[[Array], int]) -> bytes:
    if argument is None:
        return bytes(8)
    if isinstance(argument, np.generic):
        return argument.tobytes()
    if isinstance(argument, tuple):
        return _struct(
            tuple(m if isinstance(m, np.generic) else np.frombuffer(_bytes(m, locate), np.uint64)[0] for m in argument)
        )
    return int(locate(argument)).to_bytes(8, "little")


def _struct(members: tuple) -> bytes:
    """Members laid out as in C: each at a multiple of its size, the whole a multiple of the largest."""
    result, largest = b"", max(member.itemsize for member in members)
    for member in members:
        result += bytes(-len(result) % member.itemsize) + member.tobytes()
    return result + bytes(-len(result) % largest)
