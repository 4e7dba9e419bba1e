"""Whether several processes give the bits of one: the networks of `check`, trained by processes that mpirun starts."""

import json
import os
import subprocess
import sys

from gpucnn.backends.protocol import Backend
from gpucnn.errors import BackendError
from gpucnn.parallel.launch import mpirun

_TIME_LIMIT = 1800.0  # seconds for a training, kernels compiled


def train_in(processes: int, network: str, backend: Backend) -> str:
    """The SHA-256 of the weights of one of check's networks after ten steps in so many processes, which record their
    steps if `backend` does.

    Raises BackendError where there is no MPI, if they take too long, and with what the processes said if they failed.
    """
    settings = json.dumps([network, backend.name, backend.graph])
    command, environment = mpirun()
    what = f"train {network} on {backend.name}"
    try:
        done = subprocess.run(
            [*command, "-n", str(processes), sys.executable, "-m", "gpucnn.check.processes", settings],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            timeout=_TIME_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"{processes} processes did not {what} within {_TIME_LIMIT:g} seconds; try fewer") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise BackendError(f"{processes} processes could not {what}: {' '.join(lines[-8:])}")
    return done.stdout.split()[-1]


def _main() -> None:
    """In each process."""
    from gpucnn.backends import get_backend
    from gpucnn.check.networks import train
    from gpucnn.emulation import get_emulated_backend
    from gpucnn.parallel import join

    network, name, graph = json.loads(sys.argv[1])
    backend = get_emulated_backend() if name.endswith("(emulated)") else get_backend(name, "exact")
    backend.graph = graph
    digest = train(network, backend)
    if join().first:
        print(digest)


if __name__ == "__main__":
    _main()
