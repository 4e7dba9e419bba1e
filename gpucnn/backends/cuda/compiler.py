"""Compiling the kernels of kernels/cuda for one GPU architecture, with a cache on disk.

NVRTC compiles to machine code (cubin) without a GPU and without a CUDA toolkit: it is installed as a Python wheel. It
is called directly and not through cupy.RawModule, because CuPy appends -ftz=true to every compilation, which flushes
subnormals. The cache's key consists of the sources with all includes, the kernel's name, the options, the architecture
and the versions.
"""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpucnn.backends.cuda.launcher import SOURCES
from gpucnn.cache import Kernels
from gpucnn.errors import BackendError

# Nothing is fused, flushed or estimated unless a kernel writes it.
OPTIONS = ("--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true")
_CACHE = Kernels("cuda")
listeners: list[Callable[[str], None]] = []


@dataclass(frozen=True, slots=True)
class Compiled:
    """A kernel's machine code, and its symbol in it."""

    symbol: str
    code: bytes


@dataclass(frozen=True, slots=True)
class Translation:
    """NVRTC's output for kernels of one file: a cubin or PTX, each kernel's symbol in it, and the compiler's log."""

    code: bytes
    symbols: dict[str, str]
    log: str


def compiled(file: str, expression: str, architecture: str) -> Compiled:
    """Kernel `expression` of kernels/cuda/`file` for `architecture` ("sm_90"), from the cache or from NVRTC.

    Raises BackendError with NVRTC's log if it does not compile, ImportError if NVRTC is missing.
    """
    name = f"{_stem(file, expression)}-{_key(file, expression, architecture)}"
    found = _load(name)
    if found is None:
        for listener in listeners:
            listener(f"{file}: {expression}")
        made = translate(file, [expression], [f"--gpu-architecture={architecture}"])
        found = Compiled(made.symbols[expression], made.code)
        _keep(name, found)
    return found


def translate(
    file: str, expressions: list[str], options: list[str], ptx: bool = False, folder: Path = SOURCES
) -> Translation:
    """Run NVRTC on kernels of one file, with `options` after the project's own; `code` is a cubin, or PTX with
    `ptx`."""
    from cuda.bindings import nvrtc

    def call(function, *arguments):
        status, *results = function(*arguments)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise BackendError(f"NVRTC does not compile {', '.join(expressions)} of {file}: {status.name}\n{log()}")
        return results[0] if results else None

    def text(size_of, read) -> bytes:
        buffer = bytearray(size_of(program)[1])  # bytes are not to be written to: those of length 1 are shared by all
        call(read, program, buffer)
        return bytes(buffer)

    def log() -> str:
        return text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).decode(errors="replace").strip("\0 \n")

    headers = {path.name: path.read_bytes() for path in sorted(folder.glob("*.cuh"))}
    flags = [option.encode() for option in (*OPTIONS, *options)]
    names = [name.encode() for name in headers]
    source = (folder / file).read_bytes()
    program = call(nvrtc.nvrtcCreateProgram, source, file.encode(), len(headers), list(headers.values()), names)
    try:
        for expression in expressions:
            call(nvrtc.nvrtcAddNameExpression, program, expression.encode())
        call(nvrtc.nvrtcCompileProgram, program, len(flags), flags)
        symbols = {e: call(nvrtc.nvrtcGetLoweredName, program, e.encode()).decode() for e in expressions}
        readers = (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX) if ptx else (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
        return Translation(text(*readers), symbols, log())
    finally:
        nvrtc.nvrtcDestroyProgram(program)


@functools.cache
def _sources() -> bytes:
    """A digest of every file that a kernel may include: editing one recompiles all kernels."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.cu*")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.digest()


@functools.cache
def _versions() -> tuple:
    # NVRTC's version number does not distinguish its releases; the wheel's version does.
    from importlib import metadata

    from cuda.bindings import nvrtc

    wheels = "nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"
    return nvrtc.nvrtcVersion()[1:], tuple((name, _version(metadata, name)) for name in wheels)


def _version(metadata, name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _stem(file: str, expression: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in f"{Path(file).stem}-{expression}")[:60]


def _key(file: str, expression: str, architecture: str) -> str:
    key = repr((_sources(), _versions(), OPTIONS, file, expression, architecture))
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _load(name: str) -> Compiled | None:
    symbol, _, code = (_CACHE.read(name) or b"").partition(b"\n")
    return Compiled(symbol.decode("latin1"), code) if code else None


def _keep(name: str, found: Compiled) -> None:
    _CACHE.write(name, found.symbol.encode() + b"\n" + found.code)
