"""The CUDA backend's launcher on the CPU: kernels compiled by g++, memory from NumPy."""

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpucnn.backends.cuda.launcher import SOURCES, Arguments, Launcher
from gpucnn.backends.tape import Tape
from gpucnn.emulation import compiler
from gpucnn.emulation.memory import guarded
from gpucnn.errors import BackendError, ConfigurationError

# The number of multiprocessors that the backend assumes when it divides the work.
PROCESSORS = 16
_ORDERS = {"forward": 0, "reversed": 1}
# The runtime has one set of fibers: Python threads take turns.
_ONE_AT_A_TIME = threading.Lock()


class EmulationError(BackendError):
    """A kernel is wrong: a stray address, a barrier that not all threads reach, a shuffle with an absent lane."""


class EmulatedKernel:
    """A compiled kernel; `sizes` are its arguments' sizes in bytes."""

    def __init__(self, name: str, library: ctypes.CDLL):
        self.name, self.library = name, library
        library.cuh_sizes.restype = ctypes.POINTER(ctypes.c_int)
        sizes = library.cuh_sizes()
        self.sizes: list[int] = []
        while sizes[len(self.sizes)]:
            self.sizes.append(sizes[len(self.sizes)])
        self.entry = ctypes.cast(library.cuh_kernel, ctypes.c_void_p)
        for function in (library.cuh_first, library.cuh_last):
            function.restype = ctypes.c_void_p
        self.shared = library.cuh_first(), library.cuh_last()


class EmulatedLauncher(Launcher):
    """`order` of a block's threads: "forward", "reversed", or an integer from 2 on, the seed of a random one.

    `guard`: arrays end ("end") or begin ("front") at an inaccessible page, or None. `sanitize` compiles under
    AddressSanitizer and UBSan; the process must have been started with LD_PRELOAD set to the compiler's libasan.so, and
    arrays then come from malloc, whose ends the sanitizer watches. `folder` holds the .cu files.
    """

    xp = np
    device = "CPU, emulating a GPU thread by thread"
    processors = PROCESSORS

    def __init__(self, order="forward", sanitize: bool = False, guard: str | None = "end", folder=SOURCES):
        if order not in _ORDERS and not (isinstance(order, int) and order > 1):
            raise ConfigurationError(f"order is {order!r}; expected 'forward', 'reversed' or a seed of at least 2")
        if guard not in ("end", "front", None):
            raise ConfigurationError(f"guard is {guard!r}; expected 'end', 'front' or None")
        reason = compiler.why_not()
        if reason:
            raise BackendError(reason)
        self._order = _ORDERS.get(order, order)
        self._sanitize, self._guard, self._folder = sanitize, None if sanitize else guard, Path(folder).resolve()
        self._runtime = compiler.runtime(sanitize)
        self._kernels: dict[tuple[str, str], EmulatedKernel] = {}
        self._tape = Tape()
        self.launches = 0

    # ---- memory ------------------------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
        if self._guard:
            return guarded(shape, dtype, self._guard == "front")
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[...] = 0xFF
        return array

    def address(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def clear(self, array: np.ndarray) -> None:
        self._tape.call(array.fill, 0)

    def write(self, array: np.ndarray, host: np.ndarray) -> None:
        array[...] = host

    def read(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    # ---- kernels -----------------------------------------------------------------------------------------------------

    def kernel(self, file: str, expression: str = "") -> EmulatedKernel:
        key = file, expression
        if key not in self._kernels:
            library = ctypes.CDLL(str(compiler.build(self._folder / file, expression, self._sanitize)))
            library.cuh_bind(ctypes.c_void_p(self._runtime.cuh_runtime()))
            self._kernels[key] = EmulatedKernel(expression, library)
        return self._kernels[key]

    def launch(
        self, kernel: EmulatedKernel, grid: tuple[int, ...], block: tuple[int, ...], *arguments, overlap=(), branch=0
    ) -> None:
        for argument in arguments:
            if isinstance(argument, np.ndarray) and not argument.flags.c_contiguous:
                raise EmulationError(f"{kernel.name} got a strided array; pass its first element and strides")
            if type(argument) in (bool, int, float):
                raise EmulationError(
                    f"{kernel.name} got {argument}, a Python {type(argument).__name__}, which may be any type of C's; "
                    f"pass a NumPy scalar of the kernel's type, such as np.float32({argument})"
                )
        packed = Arguments(arguments, self.address)
        if packed.sizes != kernel.sizes:
            raise EmulationError(f"{kernel.name} takes arguments of {kernel.sizes} bytes, got {packed.sizes}")
        three = (*grid, *(1,) * (3 - len(grid)), *block, *(1,) * (3 - len(block)))
        configuration = (ctypes.c_uint * 7)(*three, self._order)

        def run() -> None:
            with _ONE_AT_A_TIME:
                self.launches += 1
                error = self._runtime.cuh_launch(kernel.entry, packed.address, configuration, *kernel.shared)
                if error:
                    raise EmulationError(f"{kernel.name}: {error.decode()}")

        self._tape.call(run)

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        if not self.graph:
            step()
            return step
        return self._tape.record(step)

    def gather(self, processes, sent: np.ndarray, received: np.ndarray) -> None:
        self._tape.call(processes.gather, sent, received)

    def synchronize(self) -> None:
        pass
