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
    """The SHA-256 of the weights of one of check's networks after ten steps in so many processes.

    Raises BackendError where there is no MPI, and with what the processes said if they failed.
    """
    settings = json.dumps([network, backend.name])
    command, environment = mpirun()
    done = subprocess.run(
        [*command, "-n", str(processes), sys.executable, "-m", "gpucnn.check.processes", settings],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=_TIME_LIMIT,
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise BackendError(f"{processes} processes could not train {network} on {backend.name}: {' '.join(lines[-8:])}")
    return done.stdout.split()[-1]


def _main() -> None:
    """In each process."""
    from gpucnn.backends import get_backend
    from gpucnn.check.networks import train
    from gpucnn.emulation import get_emulated_backend
    from gpucnn.parallel import join

    network, name = json.loads(sys.argv[1])
    emulated = name.endswith("(emulated)")
    digest = train(network, get_emulated_backend() if emulated else get_backend(name, "exact"))
    if join().first:
        print(digest)


if __name__ == "__main__":
    _main()
