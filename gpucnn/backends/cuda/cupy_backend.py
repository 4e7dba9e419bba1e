"""The CuPy backend: kernels/cuda on an NVIDIA GPU. Importing this module checks that it can be used.

Raises BackendError, with what is missing and how to install it, if there is no driver, no GPU, no CuPy, no NVRTC, or
if their versions do not match.
"""

import ctypes
import importlib
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.backend import CudaBackend
from gpucnn.errors import BackendError
from gpucnn.extras import INSTALL_CUDA, PACKAGES, install


def check_machine() -> None:
    """Raises BackendError with the first missing dependency. Cheap checks come first."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        raise BackendError(f"there is no NVIDIA driver ({library} does not load): install the GPU's driver") from None
    for module, what in (("cupy", "CuPy"), ("cuda.bindings.nvrtc", "the CUDA compiler NVRTC")):
        try:
            importlib.import_module(module)
        except (ImportError, RuntimeError, OSError) as error:
            raise BackendError(f"{what} cannot be imported ({error}): {INSTALL_CUDA}") from None
    import cupy
    from cuda.bindings import nvrtc

    try:
        devices = cupy.cuda.runtime.getDeviceCount()
        driver = cupy.cuda.runtime.driverGetVersion()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendError(f"the NVIDIA driver does not answer CuPy ({error}): {INSTALL_CUDA}") from None
    if not devices:
        raise BackendError("the NVIDIA driver sees no GPU; CUDA_VISIBLE_DEVICES may hide it")
    try:
        major = nvrtc.nvrtcVersion()[1]
        known = nvrtc.nvrtcGetSupportedArchs()[1]
    except RuntimeError as error:  # the bindings are installed, the library is not
        raise BackendError(f"the CUDA compiler NVRTC does not load ({error}): {INSTALL_CUDA}") from None
    if major > driver // 1000:
        extra = f"cuda{driver // 1000}"
        older = f", or {install(extra)}" if extra in PACKAGES else ""
        raise BackendError(
            f"the driver supports CUDA {driver // 1000}.{driver % 1000 // 10}, the compiler is of CUDA {major}: "
            f"install a newer driver{older}"
        )
    capability = cupy.cuda.Device().compute_capability
    if int(capability) not in known:
        raise BackendError(
            f"this GPU is an sm_{capability}, which NVRTC {major} does not compile for; it supports sm_{min(known)} to "
            f"sm_{max(known)}: pip install --upgrade nvidia-cuda-nvrtc, for an old GPU {install('cuda12')}"
        )


check_machine()

import cupy  # only after the check

from gpucnn.backends import compilation
from gpucnn.backends.cuda import compiler as cuda_compiler
from gpucnn.backends.cuda.cupy_launcher import CupyLauncher
from gpucnn.backends.cuda.measured import Tiles

if compilation.announce not in cuda_compiler.listeners:
    cuda_compiler.listeners.append(compilation.announce)


class _Loaded(threading.local):
    """A thread's last batch: its images, and the bytes in use before it."""

    images = before = 0


class CupyBackend(CudaBackend):
    """CudaBackend on the current CUDA device; with `graph` training steps are captured as CUDA graphs."""

    launcher: CupyLauncher

    def __init__(self, threads: int = 0, dtype: np.dtype = np.dtype(np.float32)):
        """`threads` is ignored."""
        super().__init__(CupyLauncher())
        self.tiles = Tiles(self.device)
        self._loaded = _Loaded()

    def elapsed(self, work: Callable[[], Any]) -> float:
        return self.launcher.elapsed(work)

    def memory(self) -> int:
        return self.launcher.memory

    def load_images(self, images, indices, count: int, *arguments, **options) -> Batch:
        self._loaded.images, self._loaded.before = count, self.launcher.used_bytes()
        return super().load_images(images, indices, count, *arguments, **options)

    def _empty(self, shape: tuple[int, ...], dtype=np.float32):
        try:
            return super()._empty(shape, dtype)
        except cupy.cuda.memory.OutOfMemoryError:
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            raise BackendError(self._too_much(size)) from None

    def _too_much(self, size: int) -> str:
        """The error message for an array of `size` bytes that could not be allocated."""
        launcher, loaded = self.launcher, self._loaded
        free, used = launcher.free_bytes(), launcher.used_bytes()
        text = (
            f"the GPU's memory is full: an array of {_size(size)} did not fit into the {_size(free)} that are free of "
            f"{_size(launcher.memory)}"
        )
        if loaded.images:
            # The current batch uses this much so far, and would need more; batches fill whole blocks of 32 lanes.
            so_far = max(used - loaded.before, 0) + size
            fits = loaded.images * (free + used - loaded.before) // so_far // self.lanes * self.lanes
            text += f"; a batch of {loaded.images} needs {_size(so_far)} at least"
            text += f", one of {fits} may fit" if fits else ", and no smaller one will fit: take a smaller model"
        return text


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
