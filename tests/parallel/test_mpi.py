"""Real processes under mpirun: the command line, a script, mixed backends, and what a fault looks like."""

import json
import os
import signal
import time

import pytest

from gpucnn.parallel.launch import _pass_on
from tests.parallel import mpi

pytestmark = mpi.needed

QUICK = ["--epochs", "2", "--batch-size", "96", "--threads", "1", "--validation", "0.1", "--json"]


def result(process, timeout=900):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return json.loads(out), err


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds."""
    folder = tmp_path_factory.mktemp("alone")
    return result(mpi.start([*QUICK, "--run", "run"], folder, 1))[0]


@pytest.mark.slow
def test_three_processes_train_to_the_same_weights(tmp_path, alone):
    found, err = result(mpi.start([*QUICK, "--run", "run"], tmp_path, 3))
    assert {key: found[key] for key in ("weights_sha256", "test_loss", "validation_loss", "best_epoch")} == {
        key: alone[key] for key in ("weights_sha256", "test_loss", "validation_loss", "best_epoch")
    }
    assert err.count("epoch 1/2") == 1 and "in 3 processes" in err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["processes"] == 3


@pytest.mark.slow
def test_a_script_on_two_backends(tmp_path, alone):
    script = """
import sys, gpucnn
from gpucnn.optimizers import SGD
train, test = gpucnn.data.load("digits")
settings = {"optimizer": SGD(0.1), "batch_size": 48, "run": "run", "progress": False}
trainer = gpucnn.Trainer(gpucnn.models.lenet5(), backend=sys.argv[1], **settings)
trainer.fit(train.images[:80], train.labels[:80], 1, resume=True)
if trainer.processes.first:
    print(trainer.processes.size, trainer.model.weights_sha256())
"""
    (tmp_path / "script.py").write_text(script)
    (tmp_path / "one").mkdir()
    done = mpi.under_mpirun([["../script.py", "numba"]], tmp_path / "one")
    both = mpi.under_mpirun([["script.py", "numba"], ["script.py", "numpy"]], tmp_path)
    assert done.returncode == both.returncode == 0, both.stderr
    assert done.stdout.split()[0] == "1" and both.stdout.split()[0] == "2"
    assert done.stdout.split()[1] == both.stdout.split()[1]


@pytest.mark.slow
def test_the_first_process_alone_names_the_folder(tmp_path):
    program = ["-m", "gpucnn", "train", *QUICK, "--model", "mlp", "--hidden", "16", "--time-limit", "60"]
    done = mpi.under_mpirun([[*program, "--run", "here"], program], tmp_path, 300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "here" and (tmp_path / "here" / "metrics.jsonl").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_an_exception_in_one_process_ends_all(tmp_path):
    script = """
import gpucnn
train, test = gpucnn.data.load("digits")
trainer = gpucnn.Trainer(gpucnn.models.lenet5(), progress=False)
if trainer.processes.rank == 1:
    raise RuntimeError("no more")
trainer.fit(train.images, train.labels, 1)
"""
    (tmp_path / "script.py").write_text(script)
    done = mpi.under_mpirun([["script.py"], ["script.py"]], tmp_path, 300)
    assert done.returncode != 0 and "RuntimeError: no more" in done.stderr


@pytest.mark.slow
def test_other_settings_on_the_command_line(tmp_path):
    program = ["-m", "gpucnn", "train", "--epochs", "1", "--threads", "1", "--run", "run"]
    done = mpi.under_mpirun([program, [*program, "--seed", "3"]], tmp_path, 300)
    assert done.returncode == 2
    assert "gpucnn: process 1 differs from process 0: seed is None there and 3 here" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "rank", "words"),
    [
        (signal.SIGKILL, 1, "gpucnn: process 1 of 3 was ended by signal 9 (SIGKILL)"),
        (signal.SIGSTOP, 2, "has waited 20 seconds for the others"),
    ],
)
def test_a_process_that_goes_ends_all_and_loses_nothing(tmp_path, number, rank, words):
    settings = [
        "--epochs",
        "1500",
        "--schedule",
        "constant",
        "--batch-size",
        "96",
        "--threads",
        "1",
        "--run",
        "run",
        "--json",
    ]
    process = mpi.start([*settings, "--time-limit", "20"], tmp_path, 3)
    pids = wait_for_epochs(process, tmp_path, 3)
    os.kill(pids[rank], number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 3
    assert sum(line.startswith("gpucnn: ") for line in err.splitlines()) == 1
    assert words in err and "--resume" in err
    assert not mpi.children(process, tmp_path)
    done = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    epochs = ["--epochs", done + 2]
    found, _ = result(mpi.start(["--run", "run", "--resume", "--threads", "1", "--json", *epochs], tmp_path, 2))
    expected, _ = result(mpi.start([*settings, *epochs, "--run", "other"], tmp_path, 1))
    assert found["weights_sha256"] == expected["weights_sha256"]


def wait_for_epochs(process, folder, count):
    """The processes, once there are `count` whole epochs."""
    metrics = folder / "run" / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    return mpi.children(process, folder)


def test_mpiruns_own_words_are_left_out():
    rule, said = "-" * 70, []
    lines = ["epoch 1/2", rule, "Primary job terminated", rule, "", rule]
    lines += ["prterun noticed that process rank 2 with PID 9 on node n exited on", "signal 9 (Killed).", rule, "last"]
    assert _pass_on([line + "\n" for line in lines], said.append) == ("process 2", 9)
    assert said == ["epoch 1/2", "last"]
