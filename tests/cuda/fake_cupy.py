"""Enough of CuPy to run the CuPy backend without a GPU: memory pools that reuse, a stream that records, launches
emulated.

What it cannot show is whether the real CuPy has these functions with these arguments; tests/cuda/test_device.py does
that.
"""

import contextlib
import ctypes
import sys
import threading
import types
import weakref
from typing import ClassVar

import numpy as np

from gpucnn.backends.cuda.compiler import Compiled
from gpucnn.emulation import compiler
from gpucnn.emulation.launcher import EmulatedLauncher


class OutOfMemoryError(MemoryError):
    pass


class _Current(threading.local):
    """The thread's current device."""

    device = 0


class Device:
    """The current device, or one by its number."""

    compute_capability = "90"

    def __init__(self, number: int | None = None):
        self.id = _current.device if number is None else number

    def use(self) -> None:
        _current.device = self.id

    def __enter__(self):
        self._before, _current.device = _current.device, self.id
        return self

    def __exit__(self, *error):
        _current.device = self._before


_current = _Current()


class _OnDevice:
    """Something of the device that is current when it is made, which must be current where it is used."""

    def __init__(self):
        self._device = _current.device

    def verify(self) -> None:
        here = type(self).__name__, threading.current_thread().name
        assert _current.device == self._device, f"{here} of device {self._device}, used on device {_current.device}"


class _Memory(_OnDevice):
    """One allocation: `ptr` and the buffer there."""

    def __init__(self, buffer: np.ndarray):
        super().__init__()
        self.buffer, self.ptr = buffer, buffer.ctypes.data


def _recording() -> bool:
    return any(stream.recording for stream in _state.streams)


class _Pointer:
    """A place in an allocation."""

    def __init__(self, mem: _Memory, ptr: int):
        self.mem, self.ptr = mem, ptr

    def memset_async(self, value: int, size: int, stream) -> None:
        assert stream is not None, "work on the legacy stream"
        address = self.ptr  # a recorded clear does not keep the memory alive
        stream.do(lambda: ctypes.memset(address, value, size))


class MemoryPool:
    """Reuses freed memory of the same size first; free memory holds NaN. New memory while a graph is recorded is
    an error.
    """

    limit = 1 << 30
    made: ClassVar[list] = []  # weak references to all pools

    def __init__(self):
        self._free: dict[tuple[int, int], list[np.ndarray]] = {}  # by device and size
        self._used = 0
        MemoryPool.made.append(weakref.ref(self))

    def malloc(self, size: int) -> _Pointer:
        if size > self.limit:
            raise OutOfMemoryError
        found = self._free.get((_current.device, size))
        assert found or not _recording(), "cudaMalloc while a graph is recorded"
        buffer = found.pop() if found else np.empty(max(size, 1), np.uint8)
        buffer[...] = 0xFF
        memory = _Memory(buffer)
        self._used += size
        weakref.finalize(memory, self._give_back, buffer, _current.device, size)
        return _Pointer(memory, memory.ptr)

    def _give_back(self, buffer: np.ndarray, device: int, size: int) -> None:
        self._used -= size
        buffer[...] = 0xFF
        self._free.setdefault((device, size), []).append(buffer)

    def used_bytes(self) -> int:
        return self._used

    def free_bytes(self) -> int:
        return sum(size * len(buffers) for (_, size), buffers in self._free.items())

    def free_all_blocks(self) -> None:
        """Of the current device."""
        self._free = {key: buffers for key, buffers in self._free.items() if key[0] != _current.device}


class ndarray(np.ndarray):  # CuPy's name
    """Memory from the current allocator; views know whose memory they share."""

    def __new__(cls, shape, dtype):
        shape = shape if isinstance(shape, tuple) else (shape,)
        pointer = _state.allocate(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
        array = super().__new__(cls, shape, dtype, buffer=pointer.mem.buffer)
        array._memory = pointer.mem
        return array

    def __array_finalize__(self, source):
        self._memory = getattr(source, "_memory", None)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        """CuPy's own kernels run on the legacy stream here."""
        assert not _recording(), "work on the legacy stream while a graph is recorded"
        plain = [a.view(np.ndarray) if isinstance(a, ndarray) else a for a in inputs]
        if out is not None:
            options["out"] = tuple(a.view(np.ndarray) if isinstance(a, ndarray) else a for a in out)
        result = getattr(ufunc, method)(*plain, **options)
        return out[0] if out is not None else result

    @property
    def __array_interface__(self):
        raise AttributeError("CuPy's arrays have none")

    @property
    def __cuda_array_interface__(self) -> dict:
        return {"data": (self.ctypes.data, False)}

    @property
    def data(self) -> _Pointer:
        return _Pointer(self._memory, self.ctypes.data)

    def set(self, host, stream) -> None:
        assert not stream.recording, "a copy from the host while a graph is recorded"
        stream.verify()
        self._memory.verify()
        assert host.shape == self.shape
        assert host.dtype == self.dtype
        self.view(np.ndarray)[...] = host

    def get(self, stream, out=None) -> np.ndarray:
        assert not stream.recording, "a copy to the host while a graph is recorded"
        stream.verify()
        self._memory.verify()
        if out is None:
            return np.array(self.view(np.ndarray))
        assert (out.shape, out.dtype) == (self.shape, self.dtype)
        assert out.flags.c_contiguous
        out[...] = self.view(np.ndarray)
        return out


class _Once:
    """Work that is done the first time it is waited for."""

    def __init__(self, work):
        self.work, self.done = work, False

    def __call__(self) -> None:
        if not self.done:
            self.done = True
            self.work()


class Graph:
    """What was recorded: work on the stream that records and on others, and where one waits for another.

    The streams of graph `late` ("first", "others" or None) do their work only when somebody waits for it, the rest as
    soon as it was launched. Whatever a GPU does lies between.
    """

    late: str | None = None

    def __init__(self, steps: list):
        self._steps = steps

    def upload(self, stream) -> None:
        pass

    def launch(self, stream) -> None:
        stream.verify()
        waiting: dict[Stream, list] = {}
        for kind, stream, what in self._steps:
            late = self.late == ("first" if stream is self._steps[0][1] else "others")
            own = waiting.setdefault(stream, [])
            if kind == "work" and late:
                own.append(_Once(what))
            elif kind == "work":
                what()
            elif kind == "record" and late:
                what.behind = list(own)
            elif kind == "wait" and not late:
                for work in what.behind:
                    work()
                what.behind = []
        left = [work for works in waiting.values() for work in works if not work.done]
        assert not left or self.late == "first", "the graph ends before a branch of it is waited for"
        for work in left:
            work()


class Event(_OnDevice):
    """A point in a stream. `now` is the device's clock, which the test turns."""

    now = 0.0  # milliseconds

    def __init__(self, disable_timing: bool = False):
        super().__init__()
        self.behind: list = []
        self.in_graph = False
        self.timing, self.at, self.waited_for = not disable_timing, None, False

    def synchronize(self) -> None:
        assert self.at is not None, "waits for an event that was never recorded"
        self.waited_for = True


def get_elapsed_time(start: Event, end: Event) -> float:
    assert start.timing and end.timing and end.waited_for
    return end.at - start.at


class Stream(_OnDevice):
    """Runs work at once, or records it after begin_capture or after waiting for an event of a recording stream."""

    steps: ClassVar[list] = []  # of the graph that is being recorded, by all streams

    def __init__(self, non_blocking: bool):
        super().__init__()
        self.ptr, self.recording, self.blocking = len(_state.streams) + 7, False, not non_blocking
        _state.streams.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def _note(self, kind: str, what) -> None:
        Stream.steps.append((kind, self, what))

    def do(self, work) -> None:
        self.verify()
        if self.recording:
            self._note("work", work)
        else:
            work()

    def record(self, event: Event) -> None:
        self.verify()
        event.verify()
        event.in_graph, event.at = self.recording, Event.now
        if self.recording:
            self._note("record", event)

    def wait_event(self, event: Event) -> None:
        assert event.in_graph or not self.recording, "a stream that records waits for one that does not"
        self.recording = event.in_graph
        assert not (self.recording and self.blocking), "a blocking stream records: work on the legacy stream would fail"
        if self.recording:
            self._note("wait", event)

    def synchronize(self) -> None:
        self.verify()
        assert not self.recording, "waiting while a graph is recorded"

    def begin_capture(self) -> None:
        self.verify()
        assert not self.recording
        assert not self.blocking, "a blocking stream records: work on the legacy stream would fail"
        self.recording, Stream.steps = True, []
        self._note("begin", None)

    def end_capture(self) -> Graph:
        for stream in _state.streams:
            stream.recording = False
        return Graph(Stream.steps)


class _State:
    def __init__(self):
        self.pool = MemoryPool()
        self.allocate = self.pool.malloc
        self.streams: list[Stream] = []
        self.emulated = EmulatedLauncher(guard=None)
        self.kernels: list = []
        self.names: list[str] = []


_state: _State
# Milliseconds that a kernel takes by its name in C++, on the clock of events; and the bytes that its registers spill.
cost = spills = lambda expression: 0


@contextlib.contextmanager
def _using_allocator(allocate):
    before, _state.allocate = _state.allocate, allocate
    try:
        yield
    finally:
        _state.allocate = before


def _launch(kernel, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra) -> None:
    assert (shared, extra) == (0, 0)
    found = _state.kernels[kernel]
    # CUDA copies the arguments when a kernel is launched or recorded.
    pointers = (ctypes.c_void_p * len(found.sizes)).from_address(parameters)
    values = [ctypes.string_at(pointer, size) for pointer, size in zip(pointers, found.sizes, strict=True)]

    def run() -> None:
        buffers = [ctypes.create_string_buffer(value, len(value)) for value in values]
        copied = (ctypes.c_void_p * len(buffers))(*(ctypes.addressof(b) for b in buffers))
        configuration = (ctypes.c_uint * 7)(gx, gy, gz, bx, by, bz, 0)
        wrong = compiler.runtime(False).cuh_launch(found.entry, ctypes.addressof(copied), configuration, *found.shared)
        assert not wrong, wrong
        Event.now += cost(_state.names[kernel])

    assert stream, "work on the legacy stream"
    _state.streams[stream - 7].do(run)


def _load(code: bytes) -> int:
    file, expression = code.decode().split("\n")
    _state.kernels.append(_state.emulated.kernel(file, expression))
    _state.names.append(expression)
    return len(_state.kernels) - 1


def install(monkeypatch) -> None:
    """Make `import cupy` find this, and let compiled kernels be their own names."""
    global _state  # noqa: PLW0603 - one made-up GPU at a time, as there is one driver
    _state = _State()
    cupy, cuda = types.ModuleType("cupy"), types.ModuleType("cupy.cuda")
    facts = {"multiProcessorCount": 16, "totalGlobalMem": 1 << 30, "name": b"made up"}
    cuda.driver = types.SimpleNamespace(
        moduleLoadData=_load,
        moduleGetFunction=lambda module, name: module,
        launchKernel=_launch,
        funcGetAttribute=lambda attribute, kernel: spills(_state.names[kernel]) if attribute == 3 else 0,
        CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES=3,
    )
    cuda.runtime = types.SimpleNamespace(
        free=lambda pointer: None,
        getDeviceProperties=lambda device: facts,
        memGetInfo=lambda: (1 << 29, 1 << 30),
        getDeviceCount=lambda: 2,
        driverGetVersion=lambda: 13000,
        CUDARuntimeError=RuntimeError,
    )
    monkeypatch.setattr(_current, "device", 0)
    cuda.Device = Device
    cuda.Stream, cuda.Graph, cuda.MemoryPool, cuda.using_allocator = Stream, Graph, MemoryPool, _using_allocator
    cuda.Event, cuda.get_elapsed_time = Event, get_elapsed_time
    cuda.alloc_pinned_memory = bytearray
    cuda.memory = types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
    cupy.cuda, cupy.ndarray, cupy.ascontiguousarray = cuda, ndarray, lambda a: a
    cupy.get_default_memory_pool = lambda: _state.pool
    nvrtc = types.ModuleType("cuda.bindings.nvrtc")
    nvrtc.nvrtcVersion, nvrtc.nvrtcGetSupportedArchs = lambda: (0, 13, 0), lambda: (0, [75, 90])
    bindings, root = types.ModuleType("cuda.bindings"), types.ModuleType("cuda")
    root.bindings, bindings.nvrtc = bindings, nvrtc
    fakes = {"cupy": cupy, "cupy.cuda": cuda, "cuda": root, "cuda.bindings": bindings, "cuda.bindings.nvrtc": nvrtc}
    for name, module in fakes.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in (f"gpucnn.backends.cuda.{part}" for part in ("cupy_backend", "cupy_launcher", "cupy_events")):
        # Not delitem: what the test imports under these names, bound to this made-up CuPy, must be gone after it too.
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    real = ctypes.CDLL
    found = lambda name, *a, **k: None if "libcuda.so" in str(name) else real(name, *a, **k)  # noqa: E731
    monkeypatch.setattr(ctypes, "CDLL", found)
    monkeypatch.setattr(
        "gpucnn.backends.cuda.compiler.compiled",
        lambda file, expression, architecture: Compiled("symbol", f"{file}\n{expression}".encode()),
    )
