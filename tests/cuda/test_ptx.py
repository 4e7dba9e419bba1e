"""NVRTC's own output, executed: every operation has the specified bits, and an approximation does not even compile."""

import importlib

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.backends.cuda.backend import CudaBackend
from gpucnn.check.cases import all_cases, small_cases
from gpucnn.check.small_networks import SMALL_NETWORKS, train_small
from gpucnn.emulation.ptx import PtxLauncher
from gpucnn.errors import BackendError
from tests.cuda.emulated import differing, needs_emulation
from tests.cuda.test_fused import _model, _trained


def _missing() -> str | None:
    try:
        importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        return f"NVRTC: {error}; pip install cuda-bindings nvidia-cuda-nvrtc"
    return None


pytestmark = [needs_emulation, pytest.mark.skipif(_missing() is not None, reason=str(_missing()))]


# Other shapes and orders of threads are tried on what g++ makes of the same sources (test_operations.py), each time.
@pytest.mark.parametrize(
    ("cases", "order"),
    [
        pytest.param(small_cases, "forward", marks=pytest.mark.slow),
        *(pytest.param(all_cases, order, marks=pytest.mark.long) for order in ("forward", "reversed")),
    ],
)
def test_every_operation_gives_the_specified_bits(cases, order):
    compiled, specification = CudaBackend(PtxLauncher(order)), get_backend("numpy", "exact")
    for case in cases():
        assert differing(case.run(specification), case.run(compiled)) == [], str(case)


@pytest.mark.slow
@pytest.mark.parametrize("network", SMALL_NETWORKS)
def test_small_networks_are_trained_as_by_the_specification(network):
    assert train_small(network, CudaBackend(PtxLauncher())) == train_small(network, get_backend("numpy", "exact"))


@pytest.mark.slow
def test_softmax_of_maps_whose_values_an_int_does_not_count(tmp_path):
    """2**31 of them are between the first class and the third. g++ computes such addresses right by chance."""
    positions = 2**25 + 32
    launcher, z = PtxLauncher(), np.memmap(tmp_path / "z", np.float32, "w+", shape=(3, positions, 32))
    z[:, 0] = np.log(np.array([[1], [2], [5]], np.float32))
    sizes = map(np.int32, (3, positions, 1))
    launcher.launch(launcher.kernel("loss.cu", "softmax"), (1,), (32, 4), z, z, *sizes)  # the first position alone
    assert np.allclose(z[:, 0], [[0.125], [0.25], [0.625]])


# What g++ makes of the same sources trains all of them each time (test_fused.py).
@pytest.mark.slow
@pytest.mark.parametrize(
    "network", ["residual", *(pytest.param(n, marks=pytest.mark.long) for n in ("odd windows", "dense"))]
)
def test_fused_networks_are_trained_as_by_the_specification(network):
    backend = CudaBackend(PtxLauncher())
    specified = _trained(get_backend("numpy", "exact"), _model(network), 1)
    assert _trained(backend, _model(network), 1) == specified
    assert any(file == "fused.cu" for file, _ in backend.launcher._kernels)


@pytest.fixture
def run(tmp_path):
    """A function that runs a kernel k(float* x) of 32 threads, given its statement, on random values."""

    def run(statement: str) -> tuple[np.ndarray, np.ndarray]:
        source = f"__global__ void k(float* x) {{ const int i = threadIdx.x; {statement} }}\n"
        (tmp_path / "k.cu").write_text(source)
        launcher = PtxLauncher(folder=tmp_path)
        x = launcher.empty((32,))
        x[...] = np.random.default_rng(0).standard_normal(32)
        before = x.copy()
        launcher.launch(launcher.kernel("k.cu", "k"), (1,), (32,), x)
        return before, x

    return run


def test_compiling_changes_nothing_that_python_shares(run):
    """NVRTC wrote the empty log, of one byte, into the b" " of the whole process: struct.pack gave 0 for 32."""
    run("x[i] = x[i] + 0.25f;")
    assert [bytes([number])[0] for number in range(256)] == list(range(256))


def test_a_fused_operation_shows(run):
    before, after = run("x[i] = __fmaf_rn(x[i], x[i], x[i]);")
    assert (after != before * before + before).any()
    before, after = run("x[i] = x[i] * x[i] + x[i];")
    assert (after == before * before + before).all()


def test_what_is_executed_is_what_was_compiled(run):
    """Branches, shared memory, a barrier, a shuffle, integers of both signs and conversions."""
    before, after = run(
        "__shared__ float s[32]; s[31 - i] = x[i]; __syncthreads();"
        "float v = __shfl_xor_sync(0xffffffffu, s[i], 1);"
        "for (int k = -2; k < i % 3; k++) v = __fadd_rn(v, float(k * i / 2));"
        "x[i] = v > 0.0f ? v : __double2float_rn(__ddiv_rn(double(v), 3.0));"
    )
    expected = before[::-1].reshape(-1, 2)[:, ::-1].reshape(-1).copy()
    for i in range(32):
        for k in range(-2, i % 3):
            expected[i] += np.float32(int(k * i / 2))
        expected[i] = expected[i] if expected[i] > 0 else np.float32(np.float64(expected[i]) / 3)
    assert after.tobytes() == expected.tobytes()


@pytest.mark.parametrize("line", ["x[i] = expf(x[i]);", "x[i] = rsqrtf(x[i]);", "atomicAdd(x, x[i]);"])
def test_what_differs_between_devices_is_refused(run, line):
    with pytest.raises(BackendError, match="does not compile|uses local memory|unknown"):
        run(line)


def test_a_stray_address_is_found(run):
    with pytest.raises(BackendError, match="illegal address"):
        run("x[i + 32] = 1.0f;")
