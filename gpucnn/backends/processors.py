"""How many processors this process may use, which are often fewer than the machine has."""

import math
import os
from pathlib import Path

_ON_THIS_MACHINE = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")  # Open MPI's, MPICH's
_NUMBER_HERE = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")


def processors() -> int:
    """Those that the system lets it run on (taskset, Slurm, a container's CPU set), and no more than its control
    group's share of their time (`docker run --cpus`), rounded up."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        allowed = os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _share())))


def default_threads(name: str) -> int:
    """How many threads a backend uses where nobody says it; Numba may have been started with fewer."""
    own = max(1, processors() // beside())
    if name != "numba":
        return own
    from gpucnn.backends.numba.process import most_threads

    return min(own, most_threads())


def beside() -> int:
    """How many processes of one MPI run share this machine, this one included; 1 without MPI."""
    return max(1, _told(_ON_THIS_MACHINE, 1))


def number_here() -> int:
    """This process's number among them, from 0."""
    return _told(_NUMBER_HERE, 0)


def _told(names: tuple[str, ...], otherwise: int) -> int:
    """What an MPI launcher has put into the environment."""
    number = next((os.environ[name] for name in names if name in os.environ), "")
    return int(number) if number.isdecimal() else otherwise


def _share(root: Path = Path("/")) -> float:
    """The smallest share of CPU time, in processors, of the control groups around this process; inf without any."""
    shares = [math.inf]
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2) if line.count(":") > 1 else ("", "none", "")
        if not controllers:  # version 2: one tree for everything, "max 100000" or "150000 100000"
            top, files = root / "sys/fs/cgroup", ["cpu.max"]
        elif "cpu" in controllers.split(","):  # version 1
            top, files = root / "sys/fs/cgroup/cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        inside = top / path.strip("/")
        # In a container the path is often the host's, of which only the top is to be seen.
        for folder in {top, inside, *(up for up in inside.parents if top in up.parents)}:
            numbers = [word for file in files for word in _read(folder / file).split()]
            if len(numbers) == 2 and all(word.isdigit() for word in numbers) and int(numbers[1]):
                shares.append(int(numbers[0]) / int(numbers[1]))
    return min(shares)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
