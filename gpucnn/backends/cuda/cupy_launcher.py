"""The CUDA backend's launcher on a GPU: CuPy's memory pool, streams and graphs, kernels from compiler.py.

Everything runs in order on one dedicated stream. It is a blocking one, so that a user-defined layer, which computes
with CuPy on the default stream, waits for the kernels and the kernels wait for it. A graph is recorded on streams that
do not block: CUDA refuses any work on the default stream while a blocking one records. Kernels whose results are not
needed at once (the gradients of weights) go to side streams: in the graph they are branches that run concurrently with
the rest.

Python threads take turns: what one thread launches while another records would become part of the other's graph. So
the lock is held during a whole capture, and otherwise during each call. Each thread has a current device of its own,
0 at first, so a call also makes the launcher's device the current one, and leaves it so for user-defined layers.
"""

import contextlib
import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cupy
import numpy as np
from cupy.cuda import driver, runtime

from gpucnn.backends.cuda.compiler import compiled
from gpucnn.backends.cuda.cupy_events import elapsed
from gpucnn.backends.cuda.launcher import BRANCHES, Arguments, Launcher
from gpucnn.backends.processors import beside, number_here
from gpucnn.errors import BackendError

# Limit of the bytes used by kernels on side streams, which cannot be reused before the streams are joined.
_SIDE_BYTES = 64 << 20


def _in_turn(method: Callable) -> Callable:
    """The method, holding the launcher's lock, on its device."""

    @functools.wraps(method)
    def alone(self, *arguments, **options):
        with self._lock:
            self._device.use()
            return method(self, *arguments, **options)

    return alone


class CupyLauncher(Launcher):
    """The current CUDA device; of several processes on a machine that MPI has started, each takes its own."""

    xp = cupy

    def __init__(self):
        self._lock = threading.RLock()
        self._device = (
            cupy.cuda.Device(number_here() % runtime.getDeviceCount()) if beside() > 1 else cupy.cuda.Device()
        )
        self._device.use()
        runtime.free(0)  # creates the context
        facts = runtime.getDeviceProperties(self._device.id)
        self.processors = facts["multiProcessorCount"]
        self.memory = facts["totalGlobalMem"]
        name = facts["name"]
        self.device = f"GPU {name.decode() if isinstance(name, bytes) else name}, {self.memory / 2**30:.0f} GiB"
        self.architecture = f"sm_{self._device.compute_capability}"  # in NVRTC's notation
        self._stream = cupy.cuda.Stream(non_blocking=False)
        self._recorder, *self._sides = (cupy.cuda.Stream(non_blocking=True) for _ in range(1 + BRANCHES))
        self._kernels: dict[tuple[str, str], int] = {}
        self._modules: list[int] = []
        self._pool = cupy.get_default_memory_pool()
        # While capturing: addresses allocated from the graph's own pool, and other arrays that the graph uses.
        self._capturing = self._recording = False
        self._own: set[int] = set()
        self._kept: list[cupy.ndarray] = []
        # In use by side streams that are not joined yet: arrays, and by branch the [start, end) that are written.
        self._side_arrays: list[cupy.ndarray] = []
        self._side_writes: dict[int, list[tuple[int, int]]] = {}
        self._events: list[cupy.cuda.Event] = []
        self._nccl: Any = None  # a communicator, from the first `gather` on

    # ---- memory ------------------------------------------------------------------------------------------------------

    @_in_turn
    def empty(self, shape: tuple[int, ...], dtype=np.float32) -> cupy.ndarray:
        """Raises cupy.cuda.memory.OutOfMemoryError if memory is full even after the pools have freed unused blocks."""
        with self._stream:
            try:
                return cupy.ndarray(shape, dtype)
            except cupy.cuda.memory.OutOfMemoryError:
                cupy.get_default_memory_pool().free_all_blocks()
                return cupy.ndarray(shape, dtype)

    def address(self, array: cupy.ndarray) -> int:
        return array.data.ptr

    @contextlib.contextmanager
    def lasting(self) -> Iterator[None]:
        """In this context, arrays come from the pool of all others even while a graph is captured, because they
        outlive it.
        """
        with cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc):
            yield

    @_in_turn
    def used_bytes(self) -> int:
        """Bytes used by arrays in the current pool."""
        return self._pool.used_bytes()

    @_in_turn
    def free_bytes(self) -> int:
        """Bytes still available to arrays: free on the device, or unused in the current pool."""
        return runtime.memGetInfo()[0] + self._pool.free_bytes()

    @_in_turn
    def clear(self, array: cupy.ndarray) -> None:
        if array.nbytes:
            self._join_writers([array])
            array.data.memset_async(0, array.nbytes, self._main)
            self._keep(array)

    @_in_turn
    def write(self, array: cupy.ndarray, host: np.ndarray) -> None:
        if array.nbytes:
            array.set(np.ascontiguousarray(host), stream=self._stream)

    @_in_turn
    def read(self, array: cupy.ndarray) -> np.ndarray:
        host = array.get(stream=self._stream)
        self._stream.synchronize()  # older CuPy does not wait
        return host

    @_in_turn
    def staging(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        """Page-locked, so that the GPU copies it itself: other memory the driver copies in pieces to its own first."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        try:
            return np.ndarray(shape, dtype, cupy.cuda.alloc_pinned_memory(size))
        except runtime.CUDARuntimeError:  # the machine locks no more pages: slower, but right
            return np.empty(shape, dtype)

    @_in_turn
    def read_into(self, array: cupy.ndarray, host: np.ndarray) -> None:
        array.get(stream=self._stream, out=host)
        self._stream.synchronize()  # older CuPy does not wait

    # ---- kernels -----------------------------------------------------------------------------------------------------

    @_in_turn
    def kernel(self, file: str, expression: str = "") -> int:
        key = file, expression
        if key not in self._kernels:
            binary = compiled(file, expression, self.architecture)
            module = driver.moduleLoadData(binary.code)
            self._modules.append(module)
            self._kernels[key] = driver.moduleGetFunction(module, binary.symbol)
        return self._kernels[key]

    @_in_turn
    def spilled(self, kernel: int) -> int:
        return driver.funcGetAttribute(driver.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, kernel)

    @_in_turn
    def launch(
        self,
        kernel: int,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        *arguments,
        overlap: tuple = (),
        branch: int = 0,
    ) -> None:
        packed = Arguments(arguments, self.address)
        three = (*grid, *(1,) * (3 - len(grid)), *block, *(1,) * (3 - len(block)))
        members = itertools.chain.from_iterable(a if isinstance(a, tuple) else (a,) for a in arguments)
        arrays = [a for a in members if isinstance(a, cupy.ndarray)]
        stream = self._main
        if overlap and self._capturing:
            # Also in the rehearsal: then it allocates what the recording will need, which allocates nothing.
            self._join_writers(arrays, own=branch)
            self._side_arrays += arrays
            self._side_writes.setdefault(branch, []).extend(map(_extent, overlap))
            if self._recording:
                stream = self._sides[branch]
                self._wait(stream, self._recorder)
        else:
            self._join_writers(arrays)
        driver.launchKernel(kernel, *three, 0, stream.ptr, packed.address, 0)
        self._keep(*arrays)
        if sum(a.nbytes for a in self._side_arrays) > _SIDE_BYTES:
            self._join()

    @_in_turn
    def gather(self, processes, sent: cupy.ndarray, received: cupy.ndarray) -> None:
        """By NCCL on this launcher's stream, so that a CUDA graph holds it. Has not run on GPUs yet."""
        from cupy.cuda import nccl

        if not nccl.available:
            raise BackendError("several processes on GPUs need NCCL, which this CuPy was installed without")
        if self._nccl is None:
            unique = processes.from_first(nccl.get_unique_id() if processes.first else None)
            self._nccl = nccl.NcclCommunicator(processes.size, unique, processes.rank)
        self._join_writers([sent, received])
        addresses = sent.data.ptr, received.data.ptr
        self._nccl.allGather(*addresses, sent.nbytes, nccl.NCCL_UINT8, self._main.ptr)
        self._keep(sent, received)

    def _wait(self, later, earlier) -> None:
        """Make later work on stream `later` wait for the work on `earlier`."""
        event = cupy.cuda.Event(disable_timing=True)
        earlier.record(event)
        later.wait_event(event)
        self._events.append(event)

    @property
    def _main(self) -> cupy.cuda.Stream:
        """The stream for work in order."""
        return self._recorder if self._recording else self._stream

    def _join_writers(self, arrays: list[cupy.ndarray], own: int | None = None) -> None:
        """Make later work wait for the side streams if one of them, other than the branch's `own`, writes to any of the
        arrays.
        """
        written = [extent for branch, extents in self._side_writes.items() if branch != own for extent in extents]
        touched = list(map(_extent, arrays)) if written else []
        if any(start < end_ and start_ < end for start, end in touched for start_, end_ in written):
            self._join()

    def _join(self) -> None:
        """Make later work wait for the side streams."""
        if self._recording:
            for branch in self._side_writes:
                self._wait(self._recorder, self._sides[branch])
        self._side_arrays, self._side_writes = [], {}

    def _keep(self, *arrays: cupy.ndarray) -> None:
        """While a graph is recorded: keep alive the arrays that it uses from outside its own pool."""
        if self._recording:
            self._kept += [a for a in arrays if a.data.mem.ptr not in self._own]

    @_in_turn
    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Run `step`, which compiles its kernels, then once more to record it as a CUDA graph.

        Both allocate from a pool that belongs to the graph. So later arrays never get memory that the graph writes at
        each replay, and within the graph successive arrays reuse memory as usual. The pool's memory is given back with
        the returned function.
        """
        if self._capturing:
            raise BackendError("a capture inside a capture: capture the whole step once")
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
                self._join()
                self._stream.synchronize()
                graph = self._record(step)
        finally:
            self._capturing, self._pool = False, cupy.get_default_memory_pool()
            self._side_arrays, self._side_writes = [], {}
        graph.upload(self._stream)

        def replay(_kept=(pool, self._kept)) -> None:  # keeps alive what the graph refers to
            with self._lock:
                self._device.use()
                graph.launch(self._stream)

        weakref.finalize(replay, _free, pool, self._device)  # CuPy does not do that when a pool goes away
        return replay

    def _record(self, step: Callable[[], None]) -> cupy.cuda.Graph:
        self._recorder.begin_capture()
        self._recording = True
        try:
            step()
            self._join()
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to report
                self._recorder.end_capture()
            raise
        finally:
            self._recording = False
        graph = self._recorder.end_capture()
        self._events = []
        return graph

    @_in_turn
    def synchronize(self) -> None:
        self._stream.synchronize()

    def elapsed(self, work: Callable[[], Any]) -> float:
        """Seconds of device time for the work that `work` launches."""
        self._device.use()
        return elapsed(work, self._stream)


def _extent(array: cupy.ndarray) -> tuple[int, int]:
    """[start, end) of a contiguous array's memory."""
    return array.data.ptr, array.data.ptr + array.nbytes


def _free(pool: cupy.cuda.MemoryPool, device: cupy.cuda.Device) -> None:
    """Give the pool's memory back: it gives back that of the current device alone, and any thread may come by."""
    with device:
        pool.free_all_blocks()
