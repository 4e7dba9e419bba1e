"""gpucnn.check of the GPU's kernels without a GPU, and its report of results that are not in a GPU's memory."""

import importlib.metadata
import json
import subprocess
import sys
import types
from typing import ClassVar

import numpy as np
import pytest

import gpucnn.check
from gpucnn.backends import get_backend
from gpucnn.check import check, simulator
from gpucnn.check.cases import all_cases, small_cases
from gpucnn.check.device_memory import DeviceMemoryMonitor, on_gpu
from gpucnn.check.networks import NETWORKS
from gpucnn.emulation import compiler, get_emulated_backend, why_not
from gpucnn.errors import BackendError, ConfigurationError
from tests.processes import environment

pytestmark = pytest.mark.slow

EMULATED, SIMULATED = "cupy (emulated)", "numba-cuda (simulated)"
INSTALLED = {each.metadata["Name"] for each in importlib.metadata.distributions()}

needs_emulation = pytest.mark.skipif(why_not() is not None, reason=f"emulation: {why_not()}")
needs_simulator = pytest.mark.skipif("numba-cuda" not in INSTALLED, reason="numba-cuda is not installed")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """As on a machine without a GPU, whatever this one has."""

    def choose(name, math=None, **settings):
        if name in ("cupy", "numba-cuda"):
            raise BackendError(f"backend {name!r} is not usable here: there is no NVIDIA driver")
        return get_backend(name, math, **settings)

    rows = [
        {"name": name, "usable": name in ("numba", "numpy"), "math": ["exact"]}
        for name in ("cupy", "numba", "numba-cuda", "numpy")
    ]
    monkeypatch.setattr(gpucnn.check, "get_backend", choose)
    monkeypatch.setattr(gpucnn.check, "known_backends", lambda: rows)


@pytest.fixture
def few(monkeypatch):
    """Cut short: one operation and no network."""
    monkeypatch.setattr(gpucnn.check, "all_cases", lambda: (case for case in all_cases() if case.operation == "relu"))
    monkeypatch.setattr(gpucnn.check, "NETWORKS", ())


class Simulated:
    """A replacement of Simulator with a ready report."""

    differences: ClassVar[list[str]] = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def report(self):
        operation = {"name": "relu", "backend": SIMULATED, "values": 7, "differing": len(self.differences)}
        network = {"network": "small plain", "backend": SIMULATED, "weights_sha256": "ab", "expected_sha256": "ab"}
        return {
            "passed": not self.differences,
            "operations": [operation],
            "training": [network],
            "differences": self.differences,
        }


# ---- the replacements ------------------------------------------------------------------------------------------------


@needs_emulation
def test_all_backends_are_compared(few, monkeypatch):
    monkeypatch.setattr(simulator, "Simulator", Simulated)
    report = check(emulate=True)
    assert report["passed"]
    assert [row["backend"] for row in report["operations"]] == [EMULATED, "numba", "numpy", SIMULATED]
    assert report["training"] == Simulated().report()["training"]
    assert set(report) == {"passed", "operations", "training", "differences"}


@needs_emulation
def test_only_what_was_asked_for_stands_in(few, monkeypatch):
    monkeypatch.setattr(simulator, "Simulator", lambda: pytest.fail("simulated"))
    assert {row["backend"] for row in check(["numba", "cupy"], emulate=True)["operations"]} == {"numba", EMULATED}
    assert {row["backend"] for row in check(["numpy"], emulate=True)["operations"]} == {"numpy"}


def test_a_difference_in_the_simulator_fails_the_whole(few, monkeypatch):
    monkeypatch.setattr(Simulated, "differences", ["relu on a simulated GPU: wrong"])
    monkeypatch.setattr(simulator, "Simulator", Simulated)
    report = check(["numba", "numba-cuda"], emulate=True)
    assert not report["passed"]
    assert report["differences"] == Simulated.differences


@needs_emulation
def test_a_difference_in_the_emulation_is_reported(few, monkeypatch):
    from gpucnn.backends.cuda.backend import CudaBackend

    monkeypatch.setattr(CudaBackend, "elementwise", lambda self, name, x: x)
    report = check(["cupy"], emulate=True)
    assert not report["passed"]
    assert f"{EMULATED} gives" in report["differences"][0]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cupy", "numba-cuda"])
def test_without_a_gpu_the_way_out_is_named(name):
    with pytest.raises(BackendError, match="no NVIDIA driver.*--emulate"):
        check([name])


def test_the_program_ends_with_2():
    code = (
        "import sys, gpucnn.check\n"
        "from gpucnn.errors import BackendError\n"
        "def none(*a, **k): raise BackendError('no driver')\n"
        "gpucnn.check.check.__globals__['get_backend'] = lambda n, *a, **k: none() if n == 'cupy' else n\n"
        "sys.argv = ['gpucnn', 'check', '--backends', 'cupy']\n"
        "import runpy; runpy.run_module('gpucnn', run_name='__main__')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert run.returncode == 2, run.stderr
    assert "--emulate" in " ".join(run.stderr.split())


def test_without_a_compiler_a_sentence_says_so(monkeypatch):
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    compiler.why_not.cache_clear()
    try:
        with pytest.raises(BackendError, match=r"needs the C\+\+ compiler .* not installed: apt install g\+\+|Linux"):
            check(["cupy"], emulate=True)
    finally:
        monkeypatch.undo()
        compiler.why_not.cache_clear()


def test_without_numba_cuda_a_sentence_says_so(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(simulator.importlib.metadata, "version", missing)
    with pytest.raises(BackendError, match="pip install numba-cuda"):
        check(["numba-cuda"], emulate=True)


@needs_simulator
def test_a_simulation_that_fails_is_reported(monkeypatch):
    start = subprocess.Popen
    failing = [sys.executable, "-c", "raise SystemExit('no luck')"]
    monkeypatch.setattr(simulator.subprocess, "Popen", lambda command, **options: start(failing, **options))
    with pytest.raises(BackendError, match="could not be simulated: no luck"):
        check(["numba-cuda"], emulate=True)


def test_wrong_settings_are_refused_before_anything_runs():
    with pytest.raises(BackendError, match="there is no backend 'cuda9'"):
        check(["cupy", "cuda9"], emulate=True)
    with pytest.raises(ConfigurationError, match="threads is 0"):
        check(["cupy"], threads=0, emulate=True)


# ---- the real thing --------------------------------------------------------------------------------------------------


def test_the_small_cases_cover_every_operation():
    assert {case.operation for case in small_cases()} == {case.operation for case in all_cases()}


@needs_emulation
def test_the_kernels_pass_on_the_cpu():
    """Those of numba-cuda: tests/numba_cuda/test_simulator.py."""
    report = json.loads(json.dumps(check(["cupy"], emulate=True)))
    assert report["passed"] and report["differences"] == []
    names = {case.operation for case in all_cases()}
    assert {(row["name"], row["backend"]) for row in report["operations"]} == {(name, EMULATED) for name in names}
    assert all(row["differing"] == 0 < row["values"] for row in report["operations"])
    assert {(row["network"], row["backend"]) for row in report["training"]} == {(n, EMULATED) for n in NETWORKS}
    assert all(row["weights_sha256"] == row["expected_sha256"] for row in report["training"])


# ---- where results are -----------------------------------------------------------------------------------------------


class DeviceArray:
    """An array of a made-up GPU at an address: from 1000 the device's memory, below it pinned memory of the
    host."""

    def __init__(self, values, address=2000):
        self.values, self.address = np.asarray(values), address
        self.dtype, self.shape, self.size = self.values.dtype, self.values.shape, self.values.size

    @property
    def __cuda_array_interface__(self):
        return {"data": (self.address, False), "shape": self.shape, "typestr": "<f4", "version": 3}


XP = types.SimpleNamespace(
    cuda=types.SimpleNamespace(
        runtime=types.SimpleNamespace(
            pointerGetAttributes=lambda address: types.SimpleNamespace(type=2 if address > 1000 else 1)
        )
    ),
    ndarray=np.ndarray,
)


def made_up(**results):
    """A backend whose operations return these."""
    methods = {name: (lambda *a, _value=value, **k: _value) for name, value in results.items()}
    return types.SimpleNamespace(name="made up", threads=0, xp=XP, **methods)


def test_results_in_the_devices_memory_are_well():
    array = DeviceArray([1.0])
    batch = gpucnn.backends.Batch(array, 1, None)
    backend = made_up(zeros=array, add=batch, max_pool=(batch, array), sgd=None, host=np.ones(1), capture=lambda: None)
    monitored = DeviceMemoryMonitor(backend)
    for name in ("zeros", "add", "max_pool", "sgd", "host", "capture"):
        assert getattr(monitored, name)(1, 2) is getattr(backend, name)()
    assert monitored.misplaced == []
    assert monitored.name == "made up" and monitored.xp is XP


@pytest.mark.parametrize(
    ("result", "where"),
    [
        (np.ones(3, np.float32), "an array of numpy"),
        (gpucnn.backends.Batch(np.ones((1, 1, 32), np.float32), 1, None), "an array of numpy"),
        ((DeviceArray([1.0]), DeviceArray([1.0], 500)), "memory of CUDA's type 1"),
    ],
)
def test_results_elsewhere_are_reported_once(result, where):
    monitored = DeviceMemoryMonitor(made_up(max_pool=result))
    monitored.max_pool()
    monitored.max_pool()
    assert monitored.misplaced == [f"max_pool on made up: its result is in {where}, not in the GPU's memory"]


@pytest.mark.parametrize("name", ["predictions of a network", "layers of predictions"])
def test_predictions_are_checked_on_a_watched_backend(name):
    """A model compares its backend with that of a batch."""
    specification = get_backend("numpy", "exact")
    case = next(case for case in all_cases() if case.operation == name)
    expected, results = case.run(specification), case.run(DeviceMemoryMonitor(specification))
    assert {key: value.tobytes() for key, value in results.items()} == {k: v.tobytes() for k, v in expected.items()}


def test_check_fails_where_a_gpu_leaves_results_on_the_host(few, monkeypatch):
    """numpy's exact math, claiming to be a GPU: all bits are right, and all of them are on the host."""
    pretender = type("Pretender", (type(get_backend("numpy", "exact")),), {"name": "cupy"})
    backend = pretender(threads=1, dtype=np.dtype(np.float32))
    backend.threads, backend.xp = 0, XP
    assert on_gpu(backend)
    assert not on_gpu(get_backend("numpy", "exact"))
    specification = get_backend("numpy", "exact")
    monkeypatch.setattr(gpucnn.check, "get_backend", lambda n, *a, **k: backend if n == "cupy" else specification)
    report = check(["cupy"])
    assert not report["passed"]
    assert all(row["differing"] == 0 for row in report["operations"])
    assert {text.split(" ")[0] for text in report["differences"]} == {"pack", "elementwise", "elementwise_gradient"}


@needs_emulation
def test_emulated_kernels_are_not_asked_where_they_live():
    assert not on_gpu(get_emulated_backend())
