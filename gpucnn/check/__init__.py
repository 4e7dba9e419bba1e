"""`gpucnn check`: whether all backends give the same bits on this machine.

Every operation, forward and backward, runs on each backend and on NumPy's exact math, which is the specification, and
so do predictions, and ten training steps of two networks. Where a backend has general kernels, which serve while those
for a shape are being compiled, operations run on both. Raw bits are compared; the networks' weights also with hashes
that are committed with the source, so that two machines agree as well as two backends. On a GPU the results must be in
its memory.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn.arguments import integer
from gpucnn.backends import Backend, get_backend, maths
from gpucnn.backends import backends as known_backends
from gpucnn.check.cases import all_cases
from gpucnn.check.comparison import Comparison
from gpucnn.check.device_memory import DeviceMemoryMonitor, on_gpu
from gpucnn.check.networks import NETWORKS, train
from gpucnn.check.processes import train_in
from gpucnn.emulation import get_emulated_backend
from gpucnn.errors import BackendError
from gpucnn.parallel.launch import mpirun

HASHES = Path(__file__).with_name("hashes.json")
# The backends whose kernels can also run on the CPU.
_GPU_BACKENDS = ("cupy", "numba-cuda")


def check(
    backends: list[str] | None = None,
    *,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
    emulate: bool = False,
    graph: bool = True,
    processes: int | None = None,
) -> dict:
    """Compare `backends` (None: all that are usable here and have exact math) with the specification, bit by bit.

    With `emulate`, a GPU backend that is not usable here is no error, but runs its kernels on the CPU: cupy's under the
    emulation, as "cupy (emulated)", and numba-cuda's in Numba's simulator, as "numba-cuda (simulated)", which is slow:
    small cases only, and four small networks compared with numpy's weights.

    With `graph` off no backend records its training steps (see get_backend). With `processes` the networks are also
    trained by so many processes, which mpirun starts; their rows name the backend "numba, 4 processes".

    Returns a dict that can be written as JSON: `passed`; `operations`, dicts of (name, backend, values, differing);
    `training`, dicts of (network, backend, weights_sha256, expected_sha256); `differences`, sentences naming operation,
    index and both values, the first few of each operation, or an operation whose results are outside the GPU's memory.
    `progress` is called with lines of text.

    Raises BackendError for several processes without MPI, for a backend that is unknown or not usable, or if its
    kernels cannot run on the CPU (without g++, for example).
    """
    say = progress or (lambda text: None)
    if processes is not None:
        processes = integer("processes", processes)
        mpirun()
    specification = get_backend("numpy", "exact", threads=threads, graph=graph)
    chosen, simulate = _chosen(backends, threads, emulate, graph)
    comparison = Comparison()
    with contextlib.ExitStack() as stack:
        if simulate:
            from gpucnn.check.simulator import NAME, Simulator

            say(f"{NAME}: started, takes about a minute")
            simulated = stack.enter_context(Simulator())
        if chosen:
            _operations(comparison, chosen, specification, say)
            _training(comparison, chosen, say, processes)
        if simulate:
            say(f"{NAME}: waiting for it to end")
            comparison.merge(simulated.report())
    return comparison.report()


def _operations(
    comparison: Comparison, chosen: list[Backend], specification: Backend, say: Callable[[str], None]
) -> None:
    monitors: dict[str, Any] = {backend.name: DeviceMemoryMonitor(backend) for backend in chosen if on_gpu(backend)}
    generals = {backend.name: general for backend in chosen if (general := backend.general())}
    cases = list(all_cases())
    for number, case in enumerate(cases, start=1):
        if number % 20 == 1:
            say(f"operations: {number} of {len(cases)} cases ({case.operation})")
        expected = case.run(specification)
        for backend in chosen:
            result = expected if backend is specification else case.run(monitors.get(backend.name, backend))
            comparison.results(case, backend.name, expected, result)
            if general := generals.get(backend.name):
                before, result = general.replaced, case.run(general)
                if general.replaced != before:
                    comparison.results(case, f"{backend.name}, general kernels", expected, result)
    for monitor in monitors.values():
        comparison.differ(monitor.misplaced)


def _training(comparison: Comparison, chosen: list[Backend], say: Callable[[str], None], processes: int | None) -> None:
    committed = json.loads(HASHES.read_text())
    for network in NETWORKS:
        for backend in chosen:
            say(f"training: ten steps of {network} on {backend.name}")
            comparison.weights(network, backend.name, train(network, backend), committed[network])
            if processes is not None and backend.shares_batches:
                say(f"training: ten steps of {network} on {backend.name} in {processes} processes")
                where = f"{backend.name}, {processes} processes"
                comparison.weights(network, where, train_in(processes, network, backend), committed[network])


def _chosen(names: list[str] | None, threads: int | None, emulate: bool, graph: bool) -> tuple[list[Backend], bool]:
    """The backends to compare in this process, and whether numba-cuda is simulated in another one."""
    if names is None:
        emulated = _GPU_BACKENDS if emulate else ()
        rows = [row for row in known_backends() if "exact" in row["math"]]
        names = [row["name"] for row in rows if row["usable"] or row["name"] in emulated]
    chosen: list[Backend] = []
    simulate = False
    for name in dict.fromkeys(names):
        backend: Backend | None
        try:
            # The error for an unknown name lists the known ones.
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
