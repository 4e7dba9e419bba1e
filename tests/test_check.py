"""gpucnn.check: both CPU backends pass, the committed hashes are numpy's, a planted difference is reported."""

import json
import re
import subprocess

import numpy as np
import pytest
from typer.testing import CliRunner

import gpucnn.check
from gpucnn.backends import get_backend
from gpucnn.backends.numba.backend import NumbaBackend
from gpucnn.backends.numba.inference import NativePlan
from gpucnn.backends.protocol import Backend
from gpucnn.check import HASHES, check, processes
from gpucnn.check.cases import KINDS, all_cases
from gpucnn.check.networks import NETWORKS, train
from gpucnn.cli import app
from gpucnn.errors import BackendError

GENERAL = "numba, general kernels"


@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.slow)])
def test_both_cpu_backends_pass(threads):
    messages = []
    report = check(["numpy", "numba"], threads=threads, progress=messages.append)
    assert report["passed"] and report["differences"] == []
    names = {case.operation for case in all_cases()}
    rows = [(row["name"], row["backend"]) for row in report["operations"]]
    assert set(rows) - {(n, GENERAL) for n in names} == {(n, b) for n in names for b in ("numpy", "numba")}
    assert {n for n, b in rows if b == GENERAL} >= {"convolution", "convolution with max pool", "dense", "max pool"}
    assert [n for n, _ in rows] == sorted((n for n, _ in rows), key=[n for n, _ in rows].index), "by operation"
    assert all(row["differing"] == 0 < row["values"] for row in report["operations"])
    assert {(row["network"], row["backend"]) for row in report["training"]} == {
        (n, b) for n in NETWORKS for b in ("numpy", "numba")
    }
    assert all(row["weights_sha256"] == row["expected_sha256"] for row in report["training"])
    assert json.loads(json.dumps(report)) == report, "it is printed as JSON"
    assert messages


@pytest.mark.slow
def test_it_covers_every_operation_of_the_protocol(monkeypatch):
    """Each method of the backend that computes is called by a case, and each kind of numbers is used."""
    memory = {"zeros", "array", "assign", "host", "host_into", "staging", "pack", "unpack", "rows", "load_labels"}
    recording = {"capture", "capture_step", "prepare", "arrivals", "between"}  # the networks' training steps do
    about = {"memory", "synchronize", "elapsed", "general"}  # the backend itself, which compute nothing
    used = set()

    class Spy:
        def __init__(self, backend):
            self.backend = backend

        def __getattr__(self, name):
            used.add(name)
            return getattr(self.backend, name)

    Backend.register(Spy)
    everything = list(all_cases())
    for case in everything:
        if case.kind in ("random", ""):
            case.run(Spy(get_backend("numba", "exact")))
    methods = {name for name, value in vars(Backend).items() if callable(value) and not name.startswith("_")}
    assert methods - memory - recording - about <= used
    for kind in KINDS:
        assert sum(case.kind == kind for case in everything) > 30


def test_cases_declare_their_gradients():
    """Gradients are named as calculus does, and only they are; concatenation's are ranges of channels."""
    calculus = re.compile(r"d(x|z|w|b|p|gamma|beta|logits)\b")
    backend, returned, declared = get_backend("numpy", "exact"), {}, {}
    for case in all_cases():
        if case.kind in ("random", "") and case.operation != "concatenation":
            returned.setdefault(case.operation, set()).update(case.run(backend))
            declared.setdefault(case.operation, set()).update(case.gradients)
    assert declared == {name: {label for label in labels if calculus.match(label)} for name, labels in returned.items()}


@pytest.mark.parametrize("network", NETWORKS)
def test_committed_hashes_are_numpys(network):
    """hashes.json changes only with a commit that says why."""
    committed = json.loads(HASHES.read_text())
    assert set(committed) == set(NETWORKS)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in committed.values())
    assert train(network, get_backend("numpy", "exact")) == committed[network]


def planted(monkeypatch, operations=("dense",), networks=()) -> None:
    """numba's dense layers give one wrong bit, in the last output of the first image, and check is cut short."""
    dense = NumbaBackend.dense

    def wrong(self, x, w, bias, relu=False):
        y = dense(self, x, w, bias, relu)
        if not relu:  # whose output decides about gradients, too
            y.data.view(np.uint32)[0, -1, 0] ^= 1
        return y

    monkeypatch.setattr(NumbaBackend, "dense", wrong)
    few = [case for case in all_cases() if case.operation in operations]
    monkeypatch.setattr(gpucnn.check, "all_cases", lambda: iter(few))
    monkeypatch.setattr(gpucnn.check, "NETWORKS", networks)


def test_a_planted_difference_is_reported(monkeypatch):
    planted(monkeypatch, ("dense", "relu"))
    report = check(["numpy", "numba"])
    assert not report["passed"]
    rows = {(row["name"], row["backend"]): row["differing"] for row in report["operations"]}
    count = sum(case.operation == "dense" for case in all_cases())
    of_dense = {("dense", "numpy"): 0, ("dense", "numba"): count, ("dense", GENERAL): count}
    assert rows == {**of_dense, ("relu", "numpy"): 0, ("relu", "numba"): 0}
    number = r"-?0x1\.[0-9a-f]{13}p[+-]\d+"
    pattern = (
        rf"dense \(random, 17 images, 37 to 10\), y\[0, 9\]: numpy gives .*\(({number})\), numba gives .*\(({number})\)"
    )
    (match,) = (m for m in (re.search(pattern, line) for line in report["differences"]) if m)
    numpy, numba = (np.float32(float.fromhex(text)) for text in match.groups())
    assert numpy.view(np.uint32) ^ numba.view(np.uint32) == 1, "both values, exactly"


def test_a_difference_in_training_is_reported(monkeypatch):
    planted(monkeypatch, (), ("batch norm net",))
    report = check(["numba"])
    assert not report["passed"] and report["operations"] == []
    (row,) = report["training"]
    assert row["weights_sha256"] != row["expected_sha256"] == json.loads(HASHES.read_text())["batch norm net"]
    (sentence,) = report["differences"]
    assert "batch norm net" in sentence and "numba" in sentence and row["weights_sha256"] in sentence


@pytest.mark.parametrize("operation", ["convolution", "max pool"])
def test_a_difference_in_general_kernels_alone_is_reported(operation, monkeypatch):
    original = getattr(NumbaBackend, method := {"convolution": "conv", "max pool": "max_pool_gradient"}[operation])

    def wrong(self, *arguments, **options):
        y = original(self, *arguments, **options)
        if self.replaced:
            y.data.view(np.uint32)[0, 0, ..., 0] ^= 1
        return y

    monkeypatch.setattr(NumbaBackend, method, wrong)
    few = [case for case in all_cases() if case.operation == operation and case.kind == "random"]
    monkeypatch.setattr(gpucnn.check, "all_cases", lambda: iter(few))
    monkeypatch.setattr(gpucnn.check, "NETWORKS", ())
    report = check(["numba"])
    assert [(row["backend"], row["differing"] > 0) for row in report["operations"]] == [
        ("numba", False),
        (GENERAL, True),
    ]
    assert not report["passed"] and all(f"{GENERAL} gives" in sentence for sentence in report["differences"])


def test_differences_in_predictions_are_reported(monkeypatch):
    """In what follows a convolution, and in plans of networks, which numba computes by kernels of their own."""

    def end(self, *arguments, **options):
        y = Backend.conv_inference(self, *arguments, **options)
        y.data.view(np.uint32)[-1, -1, ..., 0] ^= 1
        return y

    def run(self, images, outputs, again):
        finite = plan(self, images, outputs, again)
        outputs.view(np.uint32)[-1, ..., -1] ^= 1
        return finite

    plan = NativePlan.run
    monkeypatch.setattr(NumbaBackend, "conv_inference", end)
    monkeypatch.setattr(NativePlan, "run", run)
    few = [case for case in all_cases() if "predictions" in case.operation and case.kind == "random"]
    monkeypatch.setattr(gpucnn.check, "all_cases", lambda: iter(few))
    monkeypatch.setattr(gpucnn.check, "NETWORKS", ())
    report = check(["numba"])
    rows = {row["name"]: row["differing"] for row in report["operations"] if row["backend"] == "numba"}
    assert rows.keys() == {"layers of predictions", "predictions of a network"} and all(rows.values())


def test_values_of_another_shape_or_type_differ(monkeypatch):
    monkeypatch.setattr(NumbaBackend, "unpack", lambda self, batch: np.zeros(batch.shape))
    few = [next(case for case in all_cases() if case.operation == "relu")]
    monkeypatch.setattr(gpucnn.check, "all_cases", lambda: iter(few))
    monkeypatch.setattr(gpucnn.check, "NETWORKS", ())
    report = check(["numba"])
    assert not report["passed"] and report["operations"][0]["differing"] == report["operations"][0]["values"]


def test_the_command_ends_with_1(monkeypatch):
    planted(monkeypatch)
    result = CliRunner().invoke(app, ["check", "--backend", "numba", "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert list(report)[:3] == ["passed", "operations", "training"] and report["passed"] is False
    assert set(report["operations"][0]) == {"name", "backend", "values", "differing"}
    text = CliRunner().invoke(app, ["check", "--backend", "numba"])
    assert text.exit_code == 1 and "FAILED" in text.stdout and "dense (" in text.stdout and "numpy gives" in text.stdout


def test_the_command_ends_with_0(monkeypatch):
    monkeypatch.setattr(
        gpucnn.check, "all_cases", lambda: iter([next(case for case in all_cases() if case.operation == "relu")])
    )
    monkeypatch.setattr(gpucnn.check, "NETWORKS", ("lenet5",))
    result = CliRunner().invoke(app, ["check", "--backend", "numpy", "--backend", "numba", "--json"])
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["passed"] is True
    assert {"backend", "weights_sha256"} <= set(report["training"][0])
    assert {row["backend"] for row in report["training"]} == {"numpy", "numba"}


def test_wrong_names_are_refused():
    with pytest.raises(BackendError, match="there is no backend 'cuda9'"):
        check(["numpy", "cuda9"])


def test_several_processes_record_no_steps_where_the_backend_does_not(monkeypatch):
    """With graph=False each of them did all the same."""
    backends, asked = [get_backend("numba", graph=graph) for graph in (True, False)], []

    def run(command, **settings):
        asked.append(json.loads(command[-1]))
        return subprocess.CompletedProcess(command, 0, "5e\n", "")

    monkeypatch.setattr(processes, "mpirun", lambda: (["mpirun"], {}))
    monkeypatch.setattr(subprocess, "run", run)
    assert [processes.train_in(2, "lenet5", backend) for backend in backends] == ["5e", "5e"]
    assert asked == [["lenet5", "numba", True], ["lenet5", "numba", False]]


def test_processes_that_take_too_long_end_in_a_sentence(monkeypatch):
    pytest.importorskip("mpi4py")
    monkeypatch.setattr(processes, "_TIME_LIMIT", 0.01)
    with pytest.raises(BackendError, match=r"did not train lenet5 on numpy within 0\.01 seconds; try fewer$"):
        processes.train_in(2, "lenet5", get_backend("numpy"))
