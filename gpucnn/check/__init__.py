"""Proving on this machine that the device changes nothing but the speed.

Every operation, forward and backward, runs on each backend and on NumPy's exact math, which is the specification, and
so do ten training steps of two networks. Raw bits are compared; the networks' weights also against hashes that are kept
with the source, so that two machines agree as well as two backends. On a GPU the results must be in its memory.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn.backends import Backend, get_backend, maths
from gpucnn.backends import backends as known_backends
from gpucnn.check.cases import all_cases
from gpucnn.check.comparison import Comparison
from gpucnn.check.device_memory import DeviceMemoryMonitor, on_gpu
from gpucnn.check.networks import NETWORKS, train
from gpucnn.emulation import get_emulated_backend
from gpucnn.errors import BackendError

HASHES = Path(__file__).with_name("hashes.json")
# The backends whose kernels can run on the CPU too.
_GPU_BACKENDS = ("cupy", "numba-cuda")


def check(
    backends: list[str] | None = None,
    *,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
    emulate: bool = False,
    graph: bool = True,
) -> dict:
    """Compare `backends` (None: all that are usable here and have exact math) with the specification, bit by bit.

    With `emulate`, a GPU backend that is not usable here, which would be an error, runs its kernels on the CPU: cupy's
    under the emulation, as "cupy (emulated)", and numba-cuda's in Numba's simulator, as "numba-cuda (simulated)", which
    is slow: small cases only, and four small networks against numpy's weights.

    With `graph` off no backend records its training steps (see get_backend).

    Returns a dict for machines: `passed`; `operations`, a list of (name, backend, values, differing); `training`, one
    of (network, backend, weights_sha256, expected_sha256); `differences`, sentences naming operation, index and both
    values, the first few of each operation, or an operation whose results are outside the GPU's memory. `progress` is
    called with a line of text now and then.
    Raises BackendError for a name that is wrong or not usable, and where the CPU cannot stand in (no g++, say).
    """
    say = progress or (lambda text: None)
    specification = get_backend("numpy", "exact", threads=threads, graph=graph)
    chosen, simulate = _chosen(backends, threads, emulate, graph)
    found = Comparison()
    with contextlib.ExitStack() as stack:
        if simulate:
            from gpucnn.check.simulator import NAME, Simulator

            say(f"{NAME}: started, for a minute or so")
            simulated = stack.enter_context(Simulator())
        if chosen:
            _operations(found, chosen, specification, say)
            _training(found, chosen, say)
        if simulate:
            say(f"{NAME}: waiting for it to end")
            found.merge(simulated.report())
    return found.report()


def _operations(found: Comparison, chosen: list[Backend], specification: Backend, say: Callable[[str], None]) -> None:
    monitors: dict[str, Any] = {backend.name: DeviceMemoryMonitor(backend) for backend in chosen if on_gpu(backend)}
    for number, case in enumerate(everything := list(all_cases()), start=1):
        if number % 20 == 1:
            say(f"operations: {number} of {len(everything)} cases ({case.operation})")
        expected = case.run(specification)
        for backend in chosen:
            got = expected if backend is specification else case.run(monitors.get(backend.name, backend))
            found.results(case, backend.name, expected, got)
    for monitor in monitors.values():
        found.differ(monitor.misplaced)


def _training(found: Comparison, chosen: list[Backend], say: Callable[[str], None]) -> None:
    committed = json.loads(HASHES.read_text())
    for network in NETWORKS:
        for backend in chosen:
            say(f"training: ten steps of {network} on {backend.name}")
            found.weights(network, backend.name, train(network, backend), committed[network])


def _chosen(names: list[str] | None, threads: int | None, emulate: bool, graph: bool) -> tuple[list[Backend], bool]:
    """The backends to compare in this process, and whether numba-cuda is simulated in another one."""
    if names is None:
        standing_in = _GPU_BACKENDS if emulate else ()
        rows = [row for row in known_backends() if "exact" in row["math"]]
        names = [row["name"] for row in rows if row["usable"] or row["name"] in standing_in]
    chosen: list[Backend] = []
    simulate = False
    for name in dict.fromkeys(names):
        backend: Backend | None
        try:
            # A wrong name lists the right ones.
            backend = get_backend(name, "exact" if "exact" in maths(name) else None, threads=threads, graph=graph)
        except BackendError as error:
            if name not in _GPU_BACKENDS:
                raise
            if not emulate:
                raise BackendError(f"{error}. With --emulate (emulate=True) its kernels run on the CPU") from None
            backend = get_emulated_backend() if name == "cupy" else None
            if backend is not None:
                backend.graph = graph
        if "exact" not in maths(name):
            raise BackendError(f"backend {name!r} has no exact math to check")
        if backend is None or (name == "numba-cuda" and backend.xp is np):  # under NUMBA_ENABLE_CUDASIM=1
            simulate = True
        else:
            chosen.append(backend)
    return chosen, simulate
