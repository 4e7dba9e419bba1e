"""Which kernels a piece of work needs, found out without a GPU, and their compilation in several processes at once."""

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from gpucnn.backends.cuda.backend import CudaBackend
from gpucnn.backends.cuda.compiler import compiled
from gpucnn.backends.cuda.launcher import Launcher
from gpucnn.backends.processors import processors

Kernel = tuple[str, str]  # the file in kernels/cuda, and the C++ name with its template arguments


class PlanningLauncher(Launcher):
    """Computes nothing; `kernels` are those requested so far, `launches` the (kernel, grid, block, overlaps) and the
    copies, memory clears and exchanges between, as ("copy", bytes), ("clear", bytes) and ("gather", bytes).

    `processors` is the number of multiprocessors of the GPU that is planned for: tiles depend on it.
    """

    xp, device, graph = np, "none", False  # with `graph` small networks are fused, as in a recorded step

    def __init__(self, processors: int):
        self.processors = processors
        self.kernels: dict[Kernel, None] = {}
        self.launches: list[tuple] = []

    def empty(self, shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
        return np.zeros(shape, dtype)

    def address(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def clear(self, array: np.ndarray) -> None:
        self.launches.append(("clear", array.nbytes))

    def write(self, array: np.ndarray, host: np.ndarray) -> None:
        array[...] = host.reshape(array.shape)  # the host reads some of it back, such as "no step was bad"
        self.launches.append(("copy", array.nbytes))

    def read(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def kernel(self, file: str, expression: str = "") -> Kernel:
        self.kernels[file, expression] = None
        return file, expression

    def launch(
        self, kernel: Kernel, grid: tuple[int, ...], block: tuple[int, ...], *arguments, overlap=(), branch=0
    ) -> None:
        self.launches.append((kernel, grid, block, bool(overlap)))

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        step()
        return step

    def gather(self, processes, sent: np.ndarray, received: np.ndarray) -> None:
        self.launches.append(("gather", received.nbytes))

    def synchronize(self) -> None:
        pass


def planned(work: Callable[[CudaBackend], object], processors: int) -> list[Kernel]:
    """The kernels that `work(backend)` requests on a GPU with so many multiprocessors, layer by layer and recorded."""
    launcher = PlanningLauncher(processors)
    for launcher.graph in (False, True):
        work(CudaBackend(launcher))
    return list(launcher.kernels)


def compile_kernels(kernels: Iterable[Kernel], architecture: str, processes: int = 0) -> int:
    """Put the compiled kernels into the cache, for `architecture` ("sm_90"), in so many processes (0: one a core).

    Returns their number. Raises BackendError with the compiler's messages for the first that does not compile.
    """
    kernels = list(dict.fromkeys(kernels))
    # Not forked: a process that uses a GPU cannot be, and the compiler needs nothing from this one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes or processors(), context) as pool:
        for done in [pool.submit(_compile, *kernel, architecture) for kernel in kernels]:
            done.result()
    return len(kernels)


def _compile(file: str, expression: str, architecture: str) -> None:
    compiled(file, expression, architecture)  # into the cache; the machine code need not come back
