"""Comparing Numba-CUDA's kernels in Numba's simulator with the specification, in another process.

Numba reads NUMBA_ENABLE_CUDASIM when it is imported, so a process with Numba's kernels for the CPU cannot switch.
"""

import importlib.metadata
import json
import os
import subprocess
import sys

import numpy as np

from gpucnn.backends import Backend, Batch, get_backend
from gpucnn.check.cases import small_cases
from gpucnn.check.comparison import Comparison
from gpucnn.check.small_networks import SMALL_NETWORKS, train_small
from gpucnn.errors import BackendError

NAME = "numba-cuda (simulated)"


def poisoned(backend: Backend) -> Backend:
    """The backend, with numbers where images that are not there fill up a batch's last block: no result may depend on
    them.
    """
    pack = backend.pack

    def packed(images: np.ndarray) -> Batch:
        batch = pack(images)
        last = batch.images % backend.lanes
        if last:
            there = batch.data[-1, ..., last:]
            there[...] = 100 * np.random.default_rng(0).standard_normal(there.shape)
        return batch

    backend.pack = packed  # type: ignore[method-assign]
    return backend


def compare() -> dict:
    """The report on numba-cuda: the small cases and the small networks. NUMBA_ENABLE_CUDASIM=1 must be set."""
    # The simulator polls threads that wait at a barrier; switch threads sooner than after Python's 5 ms.
    sys.setswitchinterval(1e-4)
    specification, backend = get_backend("numpy", "exact"), poisoned(get_backend("numba-cuda"))
    comparison = Comparison()
    for case in small_cases():
        comparison.results(case, NAME, case.run(specification), case.run(backend))
    for network in SMALL_NETWORKS:
        comparison.weights(network, NAME, train_small(network, backend), train_small(network, specification))
    return comparison.report()


class Simulator:
    """`compare` in another process, which ends with the `with` block. `report` waits for its result.

    Raises BackendError if numba-cuda is not installed; so does `report` if the process fails.
    """

    def __init__(self):
        try:
            importlib.metadata.version("numba-cuda")
        except importlib.metadata.PackageNotFoundError:
            raise BackendError("simulating numba-cuda's kernels needs the package: pip install numba-cuda") from None
        # It imports from the same places as this process, whatever the current folder.
        code = f"import sys; sys.path[:] = {sys.path!r}; from gpucnn.check import simulator; simulator.main()"
        environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Simulator":
        return self

    def __exit__(self, *error) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def report(self) -> dict:
        out, err = self._process.communicate()
        if self._process.returncode:
            last = (err.strip().splitlines() or [f"exit code {self._process.returncode}"])[-1]
            raise BackendError(f"numba-cuda's kernels could not be simulated: {last}")
        return json.loads(out.splitlines()[-1])


def main() -> None:
    """Run in the other process: print the report as JSON."""
    print(json.dumps(compare()))
