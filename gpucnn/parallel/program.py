"""Whether all processes run the same gpucnn: with another one a process may add in another order, or wait for ever."""

import hashlib
import importlib.util
import platform
from collections.abc import Iterator
from pathlib import Path

from gpucnn.errors import ProcessError
from gpucnn.parallel.processes import Processes

_SOURCES = "*.py", "*.cu", "*.cuh"


def check_program(processes: Processes) -> None:
    """Raises ProcessError on all where one of them runs another version, or the same one with other sources."""
    programs = processes.everyone(_program())
    for rank, (program, place) in enumerate(programs):
        first, there = programs[0]
        if program != first:
            error = ProcessError(
                f"process {rank} runs {program} ({place}) and process 0 runs {first} ({there}); install the same "
                "version of gpucnn for all processes"
            )
            error.shared = True
            raise error


def _program() -> tuple[str, str]:
    """(version and digest of the sources, where they are)."""
    from gpucnn import __version__

    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    kernels = importlib.util.find_spec("gpucnn.kernels")
    assert kernels is not None and kernels.submodule_search_locations
    for name, path in sorted(_sources(package, Path(kernels.submodule_search_locations[0]))):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"gpucnn {__version__}, sources {digest.hexdigest()[:12]}", f"{package} on {platform.node()}"


def _sources(package: Path, kernels: Path) -> Iterator[tuple[str, Path]]:
    """(name, file) of each; the kernels have the same names in a checkout, where they are beside the package."""
    for kind in _SOURCES:
        for path in package.rglob(kind):
            if not path.is_relative_to(kernels):
                yield path.relative_to(package).as_posix(), path
        for path in kernels.rglob(kind):
            yield f"kernels/{path.relative_to(kernels).as_posix()}", path
