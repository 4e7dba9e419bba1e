"""The CUDA backend's launcher on a GPU: CuPy's memory pool, streams and graphs, kernels from cuda_compiler.

Everything runs in order on one stream of its own. It is a blocking one, so that a layer of the user's own, which computes
with CuPy on the default stream, waits for the kernels and the kernels wait for it.
"""

import contextlib
from collections.abc import Callable

import cupy
import numpy as np
from cupy.cuda import driver, runtime

from gpucnn.backends.cuda_compiler import compiled
from gpucnn.backends.launcher import Arguments, Launcher


class CupyLauncher(Launcher):
    """The current CUDA device. With `graph` off, `capture` records nothing and every step is launched kernel by kernel."""

    xp = cupy

    def __init__(self):
        self._device = cupy.cuda.Device()
        self._device.use()
        runtime.free(0)  # makes the context
        facts = runtime.getDeviceProperties(self._device.id)
        self.processors = facts["multiProcessorCount"]
        self.memory = facts["totalGlobalMem"]
        self.device = f"GPU {facts['name'].decode()}, {self.memory / 2**30:.0f} GiB"
        self.graph = True
        self._architecture = architecture()
        self._stream = cupy.cuda.Stream(non_blocking=False)
        self._kernels: dict[tuple[str, str], int] = {}
        self._modules: list[int] = []
        self._pool = cupy.get_default_memory_pool()
        # While a graph is made: the addresses that its own pool gave out, and the arrays from elsewhere that it uses.
        self._capturing = self._recording = False
        self._own: set[int] = set()
        self._kept: list[cupy.ndarray] = []

    # ---- memory ------------------------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype=np.float32) -> cupy.ndarray:
        """Raises cupy.cuda.memory.OutOfMemoryError after the pools gave back what nobody uses."""
        with self._stream:
            try:
                return cupy.ndarray(shape, dtype)
            except cupy.cuda.memory.OutOfMemoryError:
                cupy.get_default_memory_pool().free_all_blocks()
                return cupy.ndarray(shape, dtype)

    def used_bytes(self) -> int:
        """What arrays hold in the pool at hand."""
        return self._pool.used_bytes()

    def free_bytes(self) -> int:
        """What arrays could still get: free on the device, or held by the pool at hand and in nobody's use."""
        return runtime.memGetInfo()[0] + self._pool.free_bytes()

    def clear(self, array: cupy.ndarray) -> None:
        if array.nbytes:
            array.data.memset_async(0, array.nbytes, self._stream)

    def write(self, array: cupy.ndarray, host: np.ndarray) -> None:
        if array.nbytes:
            array.set(np.ascontiguousarray(host), stream=self._stream)

    def read(self, array: cupy.ndarray) -> np.ndarray:
        return array.get(stream=self._stream)

    # ---- kernels -----------------------------------------------------------------------------------------------------

    def kernel(self, file: str, expression: str = "") -> int:
        key = file, expression
        if key not in self._kernels:
            found = compiled(file, expression, self._architecture)
            module = driver.moduleLoadData(found.code)
            self._modules.append(module)
            self._kernels[key] = driver.moduleGetFunction(module, found.symbol)
        return self._kernels[key]

    def launch(self, kernel: int, grid: tuple[int, ...], block: tuple[int, ...], *arguments) -> None:
        packed = Arguments(arguments, lambda array: array.data.ptr)
        three = (*grid, *(1,) * (3 - len(grid)), *block, *(1,) * (3 - len(block)))
        driver.launchKernel(kernel, *three, 0, self._stream.ptr, packed.address, 0)
        if self._recording:
            self._kept += [a for a in arguments if isinstance(a, cupy.ndarray) and a.data.mem.ptr not in self._own]

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Run `step` for real, which compiles what it needs, then once more to record it as a CUDA graph.

        Both take their memory from a pool of this graph's own. So nothing that comes later can be given memory that the
        graph writes at each repetition, and inside it arrays that follow each other share memory as they always do.
        """
        if self._capturing:
            raise RuntimeError("a capture inside a capture: capture the whole step once")
        if not self.graph:
            step()
            return step
        pool = self._pool = cupy.cuda.MemoryPool()
        self._capturing, self._own, self._kept = True, set(), []

        def allocate(size: int):
            memory = pool.malloc(size)
            self._own.add(memory.mem.ptr)
            return memory

        try:
            with self._stream, cupy.cuda.using_allocator(allocate):
                step()
                self._stream.synchronize()
                graph = self._record(step)
        finally:
            self._capturing, self._pool = False, cupy.get_default_memory_pool()
        graph.upload(self._stream)

        def replay() -> None:
            graph.launch(self._stream)

        replay.kept = pool, self._kept  # the graph has addresses only
        return replay

    def _record(self, step: Callable[[], None]) -> cupy.cuda.Graph:
        self._stream.begin_capture()
        self._recording = True
        try:
            step()
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self._stream.end_capture()
            raise
        finally:
            self._recording = False
        return self._stream.end_capture()

    def synchronize(self) -> None:
        self._stream.synchronize()


def architecture() -> str:
    """The current device's, as NVRTC calls it: "sm_90"."""
    return f"sm_{cupy.cuda.Device().compute_capability}"
