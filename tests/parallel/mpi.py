"""Starting gpucnn under mpirun, for tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpucnn.errors import BackendError
from gpucnn.parallel.launch import mpirun
from tests.processes import environment


def why_not() -> str | None:
    """Why no processes can be started here; None if they can."""
    try:
        mpirun()
    except BackendError as error:
        return str(error)
    return None


needed = pytest.mark.skipif(why_not() is not None, reason=f"mpi: {why_not()}")


def start(arguments: list, folder: Path, processes: int, **settings: str) -> subprocess.Popen:
    """`gpucnn train ... --processes N` in `folder`."""
    command = [sys.executable, "-m", "gpucnn", "train", *map(str, arguments), "--processes", str(processes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment(**settings), **pipes)


def under_mpirun(programs: list[list], folder: Path, timeout: float = 900) -> subprocess.CompletedProcess:
    """One process for each list of arguments of Python, all together."""
    command, settings = mpirun()
    for number, program in enumerate(programs):
        command += [*([":"] if number else []), "-n", "1", sys.executable, *map(str, program)]
    return subprocess.run(
        command, cwd=folder, env=environment(**settings), capture_output=True, text=True, timeout=timeout, check=False
    )


def children(process: subprocess.Popen, folder: Path) -> list[int]:
    """The processes that train, of those that `process` has started, in the order of their ranks."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == process.pid:
            continue
        try:
            words = dict(line.split(b"=", 1) for line in (entry / "environ").read_bytes().split(b"\0") if b"=" in line)
            here = os.readlink(entry / "cwd") == str(folder)
        except OSError:
            continue
        if here and b"OMPI_COMM_WORLD_RANK" in words:
            found.append((int(words[b"OMPI_COMM_WORLD_RANK"]), int(entry.name)))
    return [pid for _, pid in sorted(found)]
