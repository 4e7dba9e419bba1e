"""Commands that run in several processes."""

import contextlib
import sys
from collections.abc import Iterator

import typer

from gpucnn.cli.output import note, say, silence
from gpucnn.errors import GpucnnError
from gpucnn.parallel import Processes, join, started
from gpucnn.storage import first_line


@contextlib.contextmanager
def together(processes: int | None, time_limit: float | None) -> Iterator[Processes]:
    """The processes that run this command, of which the first speaks; they are started here if they were not yet.

    What fails on one of them and not on all ends all, with one sentence and exit code 2.
    """
    rank, there = started()
    if processes is not None and processes > 1 and there == 1:
        from gpucnn.parallel.launch import launch

        try:
            raise typer.Exit(launch(processes, sys.argv[1:], note))
        except KeyboardInterrupt:  # mpirun ends those that know the run's folder at once
            note("gpucnn: continue the run with --resume and its folder as --run, with any number of processes")
            raise
    if rank:
        silence()
    group = join(processes, time_limit)
    try:
        yield group
    except (GpucnnError, ImportError, MemoryError, OSError) as error:
        if group.size == 1 or getattr(error, "shared", False):
            raise
        reason = str(error) if isinstance(error, GpucnnError) else first_line(error) or "out of memory"
        say(f"gpucnn: process {group.rank} of {group.size}: {' '.join(reason.split())}; all processes end")
        group.leave(2)
