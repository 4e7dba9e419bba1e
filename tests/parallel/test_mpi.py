"""Real processes under mpirun: the command line, a script, mixed backends, and what a fault looks like."""

import io
import json
import os
import re
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest

import gpucnn
from gpucnn.cli.processes import together
from gpucnn.errors import ConfigurationError
from gpucnn.parallel import Alone, join
from gpucnn.parallel.launch import _pass_on
from gpucnn.parallel.mpi import MpiProcesses
from gpucnn.parallel.watch import Watch
from tests.parallel import mpi
from tests.processes import checkout

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


PATCHED = "import gpucnn; gpucnn.__version__ = '9.9'; from gpucnn.__main__ import main; main()"


def test_another_version_of_gpucnn(tmp_path):
    program = ["train", "--epochs", "1", "--threads", "1", "--time-limit", "60", "--run", "run"]
    # The first process or another one, and settings that differ too: the version is compared before them.
    for rank, programs in enumerate(([["-c", PATCHED], ["-m", "gpucnn"]], [["-m", "gpucnn"], ["-c", PATCHED]])):
        done = mpi.under_mpirun([[*programs[0], *program, "--seed", "3"], [*programs[1], *program]], tmp_path, 300)
        assert done.returncode == 2
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("gpucnn: ")]
        words = [
            rf"gpucnn {version}, sources \w{{12}} \(.*/gpucnn on .*\)"
            for version in (re.escape(gpucnn.__version__), "9.9")
        ]
        assert re.fullmatch(
            f"gpucnn: process 1 runs {words[rank]} and process 0 runs {words[1 - rank]}; install the same version of "
            "gpucnn for all processes",
            line,
        )
        assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


def test_other_sources_of_the_same_version(tmp_path):
    """One kernel differs, and the script does not say which gpucnn it imports."""
    other = checkout(tmp_path / "other", {"kernels/cuda/parts.cu": ("// Adding up", "// Adding")})
    script = """
import sys
sys.path[:0] = sys.argv[1:]
import gpucnn
trainer = gpucnn.Trainer(gpucnn.models.lenet5(), progress=False)
print("made")
"""
    (tmp_path / "script.py").write_text(script)
    done = mpi.under_mpirun([["script.py"], ["script.py", other], ["script.py"]], tmp_path, 300)
    assert done.returncode == 1 and "made" not in done.stdout
    assert done.stderr.count("Traceback") == 1 and "ProcessError: process 1 runs gpucnn 0.1.0, sources" in done.stderr
    assert f"({other}/gpucnn on " in done.stderr
    again = mpi.under_mpirun([["script.py"], ["script.py", checkout(tmp_path / "same")]], tmp_path, 300)
    assert again.returncode == 0 and again.stdout.split() == ["made", "made"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "rank", "words"),
    [
        (signal.SIGKILL, 1, "gpucnn: process 1 of 3 was ended by signal 9 (SIGKILL)"),
        (signal.SIGSTOP, 2, "has waited 10 seconds for the others"),
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
    process = mpi.start([*settings, "--time-limit", "10"], tmp_path, 3)
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
    assert _pass_on([line + "\n" for line in lines], said.append) == (("process 2", 9), False)
    assert said == ["epoch 1/2", "last"]


def test_one_process_alone_says_that_it_gave_up():
    said = []
    lines = [f"gpucnn: process {rank} of 3 has waited 10 seconds for the others, of which ...\n" for rank in (0, 1)]
    rule = "-" * 70 + "\n"
    lines += [rule, "process rank 2 with PID 9 on node n exited on signal 15 (Terminated).\n", rule, "gpucnn: last\n"]
    assert _pass_on(lines, said.append) == (("process 2", 15), True)
    assert said == [lines[0].rstrip(), "gpucnn: last"]


@pytest.mark.parametrize("limit", [2.0, 600.0])
def test_processes_give_up_ten_seconds_apart(monkeypatch, limit):
    """Also where the limit is set once they wait: they were apart as of the usual one, a fifth of a second of ten."""
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    for rank in range(3):
        watch, waited = Watch(rank, 3, 600.0), []

        def wait(seconds, watch=watch, waited=waited):
            watch.limit = limit
            waited.append(seconds)

        watch._stopped = SimpleNamespace(wait=wait)
        monkeypatch.setattr(watch, "_give_up", lambda: sys.exit("all"))
        watch.__enter__()
        with pytest.raises(SystemExit):
            watch._run()
        assert sum(waited[2:]) == pytest.approx(limit + 10 * rank, abs=limit / 25)


def test_all_end_where_a_stream_cannot_be_written(monkeypatch):
    """As a full one that was the reason: its second error kept the others waiting."""

    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

    one, ended, closed = object.__new__(MpiProcesses), [], io.StringIO()
    one._world = SimpleNamespace(Abort=ended.append)
    closed.close()
    for stream in (Full(), closed, None):
        monkeypatch.setattr("sys.stdout", stream)
        one.leave(2)
    assert ended == [2, 2, 2]


def test_a_package_that_one_process_lacks_ends_all(monkeypatch, capsys):
    """As where a machine was set up in another way: the others waited for it, ten minutes long."""
    ended = []

    class Two(Alone):
        size = 2

        def leave(self, code):
            ended.append(code)

    monkeypatch.setattr("gpucnn.cli.processes.join", lambda *_: Two())
    with together(None, None):
        import gpucnn_of_another_machine  # noqa: F401
    said = "gpucnn: process 0 of 2: No module named 'gpucnn_of_another_machine'; all processes end\n"
    assert (ended, capsys.readouterr().err) == ([2], said)


@pytest.mark.parametrize("limit", [0.5, -1, float("inf"), float("nan"), 1e12, "60"])
def test_limits_that_cannot_be_waited_for(limit):
    """The thread that counts them ended in an error of its own, and nobody gave up any more."""
    with pytest.raises(ConfigurationError, match=r"^time_limit is .*; give a number from 1 to 1e\+09"):
        join(2, limit)
