"""On a GPU: the CuPy backend passes the check, its arrays are on the device, and a captured step gives a launched one's
bits."""

import importlib
import json

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.check import HASHES
from gpucnn.check.cases import all_cases
from gpucnn.check.device_memory import DeviceMemoryMonitor
from gpucnn.check.networks import NETWORKS, train
from gpucnn.check.small_networks import SMALL_NETWORKS, train_small
from gpucnn.errors import BackendError
from tests.cuda.emulated import differing

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cupy_backend():
    return get_backend("cupy")


def test_every_operation_gives_the_specified_bits(cupy_backend):
    specification, monitored = get_backend("numpy", "exact"), DeviceMemoryMonitor(cupy_backend)
    for case in all_cases():
        assert differing(case.run(specification), case.run(monitored)) == [], str(case)
    assert monitored.misplaced == []  # all results are on the device


def test_the_device_tells_how_long_it_worked(cupy_backend):
    x = cupy_backend.pack(np.ones((256, 64, 32, 32), np.float32))
    once, often = (
        cupy_backend.elapsed(lambda n=n: [cupy_backend.elementwise("tanh", x) for _ in range(n)]) for n in (1, 50)
    )
    assert 0 < once < often


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("network", SMALL_NETWORKS)
def test_small_networks_are_trained_as_by_the_specification(cupy_backend, network, graph):
    cupy_backend.graph = graph
    try:
        assert train_small(network, cupy_backend) == train_small(network, get_backend("numpy", "exact"))
    finally:
        cupy_backend.graph = True


@pytest.mark.parametrize("fused", [False, True])
def test_relu_of_zeros_and_of_what_is_no_number(cupy_backend, fused):
    """The compiler makes `v > 0 ? v : 0` a maximum: -0 and NaN must become +0 all the same."""
    special = np.array([[-0.0, 0.0, np.nan, -np.nan, -np.inf, np.inf, -1e-45, 1e-45]], np.float32)
    expected = np.array([[0, 0, 0, 0, 0, np.inf, 0, 1e-45]], np.float32)
    x = cupy_backend.pack(special)
    if fused:
        y = cupy_backend.add(x, cupy_backend.pack(np.full_like(special, -0.0)), relu=True)
    else:
        y = cupy_backend.elementwise("relu", x)
    assert y.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("network", NETWORKS)
def test_ten_steps_give_the_committed_weights(cupy_backend, network, graph):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    cupy_backend.graph = graph
    try:
        assert train(network, cupy_backend) == json.loads(HASHES.read_text())[network]
    finally:
        cupy_backend.graph = True


def test_results_live_on_the_device(cupy_backend):
    cupy = importlib.import_module("cupy")
    x = cupy_backend.pack(np.ones((3, 2, 4, 4), np.float32))
    y = cupy_backend.elementwise("relu", x)
    assert isinstance(y.data, cupy.ndarray)
    assert cupy.cuda.runtime.pointerGetAttributes(y.data.data.ptr).type == 2  # cudaMemoryTypeDevice


def test_a_captured_step_repeats_on_the_same_arrays(cupy_backend):
    b = cupy_backend
    x, total = b.pack(np.full((3, 4), 2, np.float32)), b.zeros((4,))
    w = b.array(np.eye(4, dtype=np.float32))

    def step():
        db = b.zeros((4,))
        b.bias_gradient(b.dense(x, w, None), db)
        b.update_running(total, db, 0.5)

    repeat = b.capture(step)
    assert b.host(total).tolist() == [3.0] * 4
    b.assign(w, 2 * np.eye(4, dtype=np.float32))
    others = [b.zeros((4096,)) for _ in range(50)]  # memory that the graph must not write to
    repeat()
    assert b.host(total).tolist() == [7.5] * 4
    assert all(not b.host(other).any() for other in others)


def test_too_large_a_batch_says_how_much_it_needed(cupy_backend):
    with pytest.raises(BackendError, match=r"memory is full.*GiB"):
        cupy_backend.zeros((2**50,), np.uint8)
