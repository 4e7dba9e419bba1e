"""The machine and the library versions, recorded with every measurement."""

import datetime
import importlib.metadata
import os
import platform

_LIBRARIES = (
    "numpy",
    "numba",
    "llvmlite",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "cuda-core",
    "numba-cuda",
    "torch",
    "onnxruntime",
)


def machine() -> dict:
    """date (ISO 8601, UTC), processor, cores, memory_gib, system, python, and versions of the libraries installed."""
    from gpucnn import __version__

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": _memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {"gpucnn": __version__} | {n: v for n in _LIBRARIES if (v := _version(n)) is not None},
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The system's name for it, with family and model, since virtual machines often hide the name."""
    try:
        with open("/proc/cpuinfo") as file:
            pairs = (line.split(":", 1) for line in file if ":" in line)
            fields = {key.strip(): value.strip() for key, value in pairs}
        return f"{fields['model name']} (family {fields['cpu family']}, model {fields['model']})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
