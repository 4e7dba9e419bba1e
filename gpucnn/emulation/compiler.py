"""Compiling .cu files for the CPU with g++, with a cache on disk.

Objects are stored in the user's cache folder, one file per key, under a temporary name until complete. The key consists
of all sources, the kernel's name, the options and g++'s version. Only the folder's owner may write to it.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from gpucnn.cache import Kernels, is_own, refusal
from gpucnn.errors import BackendError

HERE = Path(__file__).parent
# These optimizations change no results: no -ffast-math, and contraction is off.
_OPTIONS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared", "-g1", "-fno-gnu-unique")
_QUIET = ("-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused")
_SANITIZE = ("-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined")


@functools.cache
def why_not() -> str | None:
    """Why kernels cannot be emulated on this machine; None if they can."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        return f"emulating CUDA kernels needs Linux on x86-64, not {platform.system()} on {platform.machine()}"
    if shutil.which(_compiler()) is None:
        return f"emulating CUDA kernels needs the C++ compiler {_compiler()}, which is not installed: apt install g++"
    return None


def build(source: Path, expression: str, sanitize: bool) -> Path:
    """The shared object that holds kernel `expression` of the .cu file `source`.

    Raises BackendError with g++'s messages if it does not compile.
    """
    text = f"""#include "cuda_host.h"
#include "{source}"
extern "C" char cuh_shared_first[] __attribute__((weak)), cuh_shared_last[] __attribute__((weak));  // from shared.ld
extern "C" void cuh_bind(cuh::Context* context) {{ cuh_context = context; }}
extern "C" void cuh_kernel(void** a) {{ cuh::call(&{expression}, a); }}
extern "C" const int* cuh_sizes() {{ return cuh::sizes(&{expression}); }}
extern "C" char* cuh_first() {{ return cuh_shared_first; }}
extern "C" char* cuh_last() {{ return cuh_shared_last; }}
"""
    included = b"".join(p.read_bytes() for p in sorted(source.parent.glob("*.cuh")))
    sources = source.read_bytes() + included + (HERE / "cuda_host.h").read_bytes() + (HERE / "shared.ld").read_bytes()
    options = list(_SANITIZE) if sanitize else ["-fdata-sections", f"-Wl,-T,{HERE / 'shared.ld'}"]
    return _compile(text, sources, f"{source.stem}-{expression}", [*options, f"-I{HERE}", f"-I{source.parent}"])


def build_text(text: str, name: str) -> Path:
    """The shared object of a kernel in C++ that is complete but for the emulation's headers."""
    headers = b"".join((HERE / file).read_bytes() for file in ("cuda_host.h", "ptx_host.h", "shared.ld"))
    quiet = "-Wno-maybe-uninitialized"  # a register that no path reads
    return _compile(text, headers, name, [quiet, "-fdata-sections", f"-Wl,-T,{HERE / 'shared.ld'}", f"-I{HERE}"])


@functools.cache
def runtime(sanitize: bool) -> ctypes.CDLL:
    """The library of the fiber scheduler, runtime.cpp."""
    path = _compile((HERE / "runtime.cpp").read_text(), b"", "runtime", list(_SANITIZE) if sanitize else [])
    library = ctypes.CDLL(str(path))
    library.cuh_runtime.restype = ctypes.c_void_p
    library.cuh_launch.restype = ctypes.c_char_p
    library.cuh_launch.argtypes = [ctypes.c_void_p] * 5
    return library


def _compile(text: str, included: bytes, name: str, options: list[str]) -> Path:
    options = [*_OPTIONS, *_QUIET, *_processor(), *options]
    key = hashlib.sha256(repr((text, included, options, _version())).encode()).hexdigest()[:24]
    stem = "".join(c if c.isalnum() else "-" for c in name)[:60]
    path = Kernels("emulation").folder / f"{stem}-{key}.so"
    with contextlib.suppress(OSError):  # there is none
        if is_own(path.stat()):
            return path
    if reason := why_not():
        raise BackendError(reason)
    if reason := refusal():
        raise BackendError(f"what g++ compiles cannot be kept: {reason}")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source, built = Path(folder) / "kernel.cpp", Path(folder) / "object.so"
        source.write_text(text)
        run = subprocess.run(
            [_compiler(), *options, str(source), "-o", str(built)], capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise BackendError(f"g++ does not compile {name}:\n{run.stderr.strip()}")
        built.chmod(0o755)  # the folder is this user's alone until here
        os.replace(built, path)
    return path


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


@functools.cache
def _version() -> str:
    return subprocess.run([_compiler(), "--version"], capture_output=True, text=True, check=False).stdout


@functools.cache
def _processor() -> list[str]:
    """Without the fma instruction g++ calls the C library's fmaf: the same bits, slowly."""
    try:
        return ["-mfma"] if " fma " in Path("/proc/cpuinfo").read_text() else []
    except OSError:
        return []
