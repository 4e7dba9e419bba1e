"""The Numba-CUDA kernels in Numba's simulator: raw bits against numpy's exact math, and errors planted in a copy."""

import importlib.metadata
from pathlib import Path

import pytest

from gpucnn.backends import get_backend
from gpucnn.check.cases import all_cases
from gpucnn.check.simulator import NAME, Simulator
from gpucnn.check.small_networks import SMALL_NETWORKS, train_small
from tests.processes import checkout, finish, start

pytestmark = [
    pytest.mark.skipif(
        "numba-cuda" not in {each.metadata["Name"] for each in importlib.metadata.distributions()},
        reason="numba-cuda is not installed: pip install numba-cuda; the simulator needs no more",
    ),
    pytest.mark.slow,
]

SCRIPT = Path(__file__).with_name("simulated.py")


def simulate(what, root=None):
    """Start `what` of simulated.py; the result's finish() returns its output."""
    code = f"import sys, runpy; sys.argv[1:] = [{what!r}]; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    return start(code, root, NUMBA_ENABLE_CUDASIM="1")


@pytest.fixture(scope="module")
def running():
    """Beside the report: it takes a minute and needs no memory to speak of."""
    return simulate("random")


@pytest.fixture(scope="module")
def report(running, tmp_path_factory):
    """What gpucnn check says of the small cases and networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))  # the other process must find the package from anywhere
        with Simulator() as simulator:
            return simulator.report()


@pytest.fixture(scope="module")
def random(running):
    return finish(running)


def test_the_report_is_of_all_small_cases(report):
    assert report["passed"] and report["differences"] == []
    names = {case.operation for case in all_cases()}
    assert {(row["name"], row["backend"]) for row in report["operations"]} == {(name, NAME) for name in names}
    assert all(row["differing"] == 0 < row["values"] for row in report["operations"])


@pytest.mark.parametrize(
    "operation",
    [
        "convolution",
        "convolution with max pool",
        "dense",
        "max pool",
        "average pool",
        "global average pool",
        "relu",
        "map along an axis",
        "padding",
        "upsampling",
        "padded convolution",
        "adaptive average pool",
        "adaptive max pool",
        "global max pool",
        "tanh",
        "sigmoid",
        "addition",
        "dropout",
        "batch norm",
        "softmax cross-entropy",
        "SGD",
        "Adam",
        "AdamW",
        "group norm",
        "loading with random shift",
        "loading with augmentation",
        "watch for non-finite numbers",
        "leaky relu",
        "gelu",
        "silu",
        "softmax",
        "weighted cross-entropy",
        "mean squared",
        "mean absolute",
        "huber",
        "binary cross entropy",
        "gradient clipping",
        "transposed convolution",
        "bias addition",
        "concatenation",
    ],
)
def test_operation_gives_the_same_bits(report, operation):
    (row,) = [row for row in report["operations"] if row["name"] == operation]
    assert row["differing"] == 0 < row["values"]


@pytest.mark.parametrize(("operation", "number"), [("convolution", 8), ("max pool", 4), ("average pool", 4)])
def test_random_shapes_give_the_same_bits(random, operation, number):
    assert random[operation] == [number, {}]


@pytest.mark.parametrize("operation", ["sums", "weight gradient"])
def test_all_levels_of_the_sums_give_the_same_bits(random, operation):
    assert random[operation] == [4, {}]


@pytest.mark.parametrize("network", SMALL_NETWORKS)
def test_training_gives_the_same_weights(report, network):
    (row,) = [row for row in report["training"] if row["network"] == network]
    numba = train_small(network, get_backend("numba", "exact"))
    assert row["weights_sha256"] == row["expected_sha256"] == numba


def test_the_simulated_fma_rounds_once_and_takes_no_float64():
    found = finish(simulate("rounding"))
    assert found["values"] > 70_000
    assert found["double rounding differs"] > 1000  # the inputs distinguish the two
    assert found["differing"] == 0
    assert found["refused"] == 4


MASK = "    if there(b * LANES + lane, images):\n        for p in range("
UNMASKED = MASK.replace("there(b * LANES + lane, images)", "True")
PLANTED = {
    "an unmasked lane in weight gradients": ("conv.py", (MASK, UNMASKED)),
    "an unmasked lane in sums": ("norm.py", (MASK, UNMASKED)),
    "an unmasked lane in group norm": ("group_norm.py", (MASK, UNMASKED)),
    "another group's gamma": ("group_norm.py", ("first = line %", "first = 0 * line %")),
    "multiply, then add": ("arithmetic.py", ("return np.float32(total)", "return a * b + c")),
    "the dot product backwards": ("dense.py", ("in range(w.shape[1])", "in range(w.shape[1] - 1, -1, -1)")),
    "blocks of 32 images": ("../contract.py", ("BLOCK = 16", "BLOCK = 32")),
    "a band one position too long": (
        "../../gpucnn/backends/spatial.py",
        ("return -(-BAND //", "return -(-(BAND + 1) //"),
    ),
    "a missing barrier": ("sums.py", ("            cuda.syncthreads()\n", "")),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """What the planted errors change, all running side by side, and what nothing planted changes."""
    running = {"nothing": simulate("planted")}
    for name, (file, edit) in PLANTED.items():
        folder = checkout(tmp_path_factory.mktemp("planted"), {f"kernels/numba_cuda/{file}": edit})
        running[name] = simulate("planted", folder)
    return {name: finish(process) for name, process in running.items()}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_error_is_found(faulty, name):
    assert all(differing == {} for _, differing in faulty["nothing"].values())
    assert any(differing for _, differing in faulty[name].values())


def test_a_second_rounding_is_found(tmp_path):
    edit = ("if rest != 0 and", "if False and")
    found = finish(simulate("rounding", checkout(tmp_path, {"kernels/numba_cuda/arithmetic.py": edit})))
    assert found["differing"] > 1000


@pytest.mark.parametrize("settings", [{}, {"NUMBA_ENABLE_CUDASIM": "1"}])
def test_usable_in_the_simulator_and_a_reason_without(settings):
    code = "import json; from gpucnn.backends import backends; print(json.dumps(backends()))"
    (row,) = [row for row in finish(start(code, **settings)) if row["name"] == "numba-cuda"]
    assert row["math"] == ["exact"]
    if settings:
        assert row["usable"]
        assert "simulator" in row["device"]
    elif not row["usable"]:
        assert "GPU" in row["reason"] or "pip install" in row["reason"]
