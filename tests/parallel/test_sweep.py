"""Sweeps: every combination once, killed and continued, several workers."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from gpucnn.cli import app
from gpucnn.errors import CheckpointError, ConfigurationError
from gpucnn.storage import locked
from gpucnn.training import load_run
from tests.processes import environment

pytest.importorskip("optuna", reason="sweep: Optuna is not installed")

from gpucnn.sweep import Plan, Sweep, rows

PLAN = ["--model", "mlp", "--lr", "0.001,0.003", "--seed", "0,5"]
TRAINING = ["--hidden", "16", "--epochs", "2", "--validation", "0.1"]


def sweep(folder, *arguments):
    command = [sys.executable, "-m", "gpucnn", "sweep", "--study", "study", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment(), start_new_session=True, **pipes)


@pytest.mark.slow
def test_a_killed_sweep_continues_to_the_same_weights(tmp_path):
    first = sweep(tmp_path, *PLAN, *TRAINING, "--workers", "2")
    runs = tmp_path / "study" / "runs"
    while not list(runs.glob("*/metrics.jsonl")):
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    out, err = sweep(tmp_path, "--workers", "2", "--json").communicate(timeout=600)
    found = json.loads(out)["trainings"]
    assert sorted((row["lr"], row["seed"]) for row in found) == [(0.001, 0), (0.001, 5), (0.003, 0), (0.003, 5)], err
    assert (tmp_path / "study" / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    for row in found:
        options = ["--model=mlp", f"--lr={row['lr']}", f"--seed={row['seed']}", *TRAINING, "--run=alone", "--json"]
        folder = tmp_path / f"alone{row['number']}"
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "gpucnn", "train", *options],
            cwd=folder,
            env=environment(),
            capture_output=True,
            check=True,
        )
        expected = json.loads(done.stdout)
        assert row["weights_sha256"] == expected["weights_sha256"]
        assert row["loss"] == expected["validation_loss"]
        assert load_run(tmp_path / row["run"]).history.last["epoch"] == 2


def running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("whole_group", "by", "code"),
    [
        (True, signal.SIGINT, 130),
        pytest.param(False, signal.SIGINT, 130, marks=pytest.mark.long),
        (False, signal.SIGTERM, 143),
    ],
)
def test_an_interrupted_sweep_ends_its_workers_and_their_trainings(tmp_path, whole_group, by, code):
    """Ctrl-C reaches all processes of a terminal, `kill` one; a worker leaves no traceback and no training."""
    begun = sweep(tmp_path, *PLAN, "--epochs", "100000", "--workers", "2")
    while len(list((tmp_path / "study" / "runs").glob("*/metrics.jsonl"))) < 2:
        assert begun.poll() is None, begun.communicate()[1]
        time.sleep(0.05)
    (os.killpg if whole_group else os.kill)(begun.pid, by)
    _, err = begun.communicate(timeout=60)
    assert begun.returncode == code and "Traceback" not in err
    last = ["gpucnn: continue with: gpucnn sweep --study study", "gpucnn: interrupted"]
    assert err.splitlines()[-2:] == last if by == signal.SIGINT else err.splitlines()[-1:] == last[:1]
    for lock in (tmp_path / "study" / "runs").glob("*/run.lock"):
        number = int(lock.read_text().split()[1])
        deadline = time.monotonic() + 20
        while running(number):
            assert time.monotonic() < deadline, "a training goes on"
            time.sleep(0.1)


def test_plans():
    plan = Plan(("a", "b"), (0.1, 0.2), (0, 1, 2))
    assert plan.size() == len(plan.grid()) == 12 and plan.grid()[5] == {"model": "a", "lr": 0.2, "seed": 2}
    assert Plan(("a",), (1e-4, 1e-2), (0,), trials=7).size() == 7
    for wrong in (
        {"seeds": (1, 1)},
        {"models": ()},
        {"trials": 3, "rates": (1e-3,)},
        {"trials": 3, "rates": (1.0, 0.1)},
    ):
        with pytest.raises(ConfigurationError):
            Plan(**{"models": ("a",), "rates": (0.1,), "seeds": (0,), **wrong})


def test_a_folder_keeps_its_plan(tmp_path):
    with pytest.raises(ConfigurationError, match="holds no sweep; say what to try"):
        Sweep(tmp_path / "study")
    plan = Plan(("mlp",), (0.1,), (0,))
    made = Sweep(tmp_path / "study", plan)
    assert Sweep(tmp_path / "study").plan == plan == made.plan and rows(made) == []
    with pytest.raises(
        ConfigurationError, match=r"is a sweep with another plan: seeds was \[0\] there and is \[1\] now"
    ):
        Sweep(tmp_path / "study", Plan(("mlp",), (0.1,), (1,)))


def test_workers_that_start_together_wait_for_each_other(tmp_path):
    """As jobs of an array do: all but the first were refused."""
    plan = Plan(("mlp",), (0.1,), (0, 1))
    begun = threading.Event()

    def first():
        with locked(tmp_path / "sweep.lock", tmp_path, ""):
            begun.set()
            time.sleep(0.3)

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    assert Sweep(tmp_path, plan).plan == plan
    thread.join()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--epocs", "3"), "No such option: --epocs"),
        (("--epochs", "many"), "Invalid value for '--epochs'"),
        (("--optimizer", "none"), "no optimizer 'none'"),
        (("--recipe", "none"), "no recipe 'none'"),
        (("--run", "mine"), "--run and --resume are chosen for each training"),
        (("--model", "mlp,lenet6"), "model is 'lenet6'"),
        (("--model", "mlp,lenet5", "--variant", "wide"), "mlp has no option 'variant'"),
        (("--lr", "0.1,-1"), "lr is -1.0"),
        (("--seed", "0,-1"), "seed is -1; give an integer from 0"),
        (("--seed", f"0,{2**64}"), f"seed is {2**64}; give an integer from 0"),
        (("--data", "nowhere"), "nowhere is neither a built-in data set nor a path"),
        (("--validation", "2"), "validation is 2.0"),
        (("--patience", "3", "--monitor", "f2"), "monitor is 'f2'"),
    ],
)
def test_options_that_train_refuses_start_no_training(tmp_path, options, words):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["sweep", "--study", str(tmp_path / "study"), *options])
    assert result.exit_code == 2 and words in result.stderr
    assert not (tmp_path / "study").exists()


def test_a_sweep_takes_the_rate_of_its_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(Sweep, "work", lambda *_: None)
    mnist = ("--recipe", "mnist", "--data", "digits")
    for options, rate in ((mnist, 0.1), (("--optimizer=sgd",), 0.02), (("--seed", "0,1"), 0.002)):
        study = tmp_path / str(rate)
        CliRunner().invoke(app, ["sweep", "--study", str(study), *options])
        assert Sweep(study).plan.rates == (rate,)


def test_a_training_that_fails_is_a_row(tmp_path):
    made = Sweep(tmp_path / "study", Plan(("mlp",), (0.1,), (0,), ("--epochs", "1", "--flip", "--data", "nowhere")))
    said = []
    made.work(1, said.append)
    (row,) = rows(made)
    assert row["loss"] is None and "nowhere" in row["failed"] and len(said) == 2
    made = Sweep(tmp_path / "typed", Plan(("mlp",), (0.1,), (0,), ("--epocs", "1")))
    made.work(1, said.append)
    assert rows(made)[0]["failed"].startswith("No such option: --epocs")


def test_what_failed_is_tried_again_by_the_next_command(tmp_path, monkeypatch):
    """A disk that was full, say: once, and not by another worker of the same command."""
    room, tried = [], []

    def run(command, **_):
        tried.append(command)
        if room:
            return subprocess.CompletedProcess(command, 0, json.dumps({"validation_loss": 2.0}), "")
        return subprocess.CompletedProcess(command, 2, "", "gpucnn: no space left")

    monkeypatch.setattr(subprocess, "run", run)
    study = tmp_path / "study"
    plan = Plan(("mlp",), (0.1,), (0, 1))
    for made in (Sweep(study, plan), Sweep(study)):
        made.work()
        assert len(tried) == 2
        assert [(row["loss"], row["failed"]) for row in rows(made)] == [(None, "no space left")] * 2
    room.append(True)
    made = Sweep(study)
    made.try_again()
    assert rows(made) == []
    made.work()
    assert len(tried) == 4
    assert [(row["loss"], row.get("failed")) for row in rows(made)] == [(2.0, None)] * 2


def test_a_worker_that_the_system_refuses_ends_the_others(tmp_path, monkeypatch):
    """They went on training when the command had ended."""
    ended = []

    class Worker:
        def __init__(self, _):
            if len(made) == 2:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            made.append(self)

        def terminate(self):
            ended.append(self)

    made: list[Worker] = []
    monkeypatch.setattr(sys.modules["gpucnn.cli.sweep"], "subprocess", SimpleNamespace(Popen=Worker))
    options = ["--study", str(tmp_path / "study"), "--model", "mlp", "--epochs", "1", "--workers", "4"]
    result = CliRunner().invoke(app, ["sweep", *options])
    assert result.exit_code == 2 and "Resource temporarily unavailable" in result.stderr
    assert ended == made and len(made) == 2


def test_what_other_workers_have_not_ended_is_said(tmp_path, monkeypatch):
    """A worker of an array that ended first listed a part of the trainings, as if there were no others, and one that
    found nothing to do said that no training succeeded.
    """
    done = json.dumps({"validation_loss": 2.0, "test_accuracy": 0.5, "weights_sha256": "0" * 64})
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, done, ""))
    study = tmp_path / "study"
    (study / "runs").mkdir(parents=True)
    command = ["sweep", "--study", str(study), "--model", "mlp", "--seed", "0,1", "--epochs", "1", "--json"]
    with locked(study / "runs" / "001-mlp-lr0.002-seed1.lock", study, ""):
        with locked(study / "runs" / "000-mlp-lr0.002-seed0.lock", study, ""):
            found = [CliRunner().invoke(app, command)]
        found.append(CliRunner().invoke(app, command))
    found.append(CliRunner().invoke(app, command))
    assert [(one.exit_code, len(json.loads(one.stdout)["trainings"])) for one in found] == [(0, 0), (0, 1), (0, 2)]
    assert [re.findall(r"(\d) trainings? ha\w+ not ended", one.stderr) for one in found] == [["2"], ["1"], []]


def test_two_workers_that_ask_at_once_train_nothing_twice(tmp_path, monkeypatch):
    """Both saw that the last training was waiting; one got it, and the other a further one that nobody had planned."""
    import optuna

    ask = optuna.Study.ask

    def late(study):
        time.sleep(0.3)
        return ask(study)

    monkeypatch.setattr(optuna.Study, "ask", late)
    done = subprocess.CompletedProcess([], 0, json.dumps({"validation_loss": 2.0}), "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    plan = Plan(("mlp",), (0.1,), (0,))
    threads = [threading.Thread(target=Sweep(tmp_path / "study", plan).work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows(Sweep(tmp_path / "study"))) == 1


def test_what_another_worker_has_ended_meanwhile_is_passed_over(tmp_path, monkeypatch):
    """Of what a killed one had begun: whoever came second ended in an error of Optuna's."""
    done = subprocess.CompletedProcess([], 0, json.dumps({"validation_loss": 2.0}), "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    first, second = (Sweep(tmp_path / "study", Plan(("mlp",), (0.1,), (0, 1))) for _ in range(2))
    for _ in range(2):
        first.study.ask()
    begun = second._running()
    first.work()
    for trial in begun:
        second._run(trial, None, pytest.fail)
    assert [row["loss"] for row in rows(second)] == [2.0, 2.0]


def test_a_sweep_that_is_killed_while_it_is_entered(tmp_path, monkeypatch):
    """What had been entered was entered again: trained twice, in place of as many at the end."""
    import optuna

    entered, enter = [], optuna.Study.enqueue_trial

    def interrupted(*arguments, **settings):
        if len(entered) == 2:
            raise KeyboardInterrupt
        entered.append(enter(*arguments, **settings))

    done = subprocess.CompletedProcess([], 0, json.dumps({"validation_loss": 2.0}), "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    plan = Plan(("mlp",), (0.1, 0.2), (0, 1))
    with monkeypatch.context() as context:
        context.setattr(optuna.Study, "enqueue_trial", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Sweep(tmp_path / "study", plan)
    with pytest.raises(ConfigurationError, match="is a sweep with another plan"):
        Sweep(tmp_path / "study", Plan(("mlp",), (0.3,), (0, 1)))
    made = Sweep(tmp_path / "study")
    made.work()
    assert sorted((row["lr"], row["seed"]) for row in rows(made)) == [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]


def test_a_picture_that_cannot_be_written_costs_no_result(tmp_path, monkeypatch):
    done = json.dumps({"validation_loss": 2.0, "test_accuracy": 0.5, "weights_sha256": "0" * 64})
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, done, ""))
    study = tmp_path / "study"
    (study / "sweep.png").mkdir(parents=True)
    result = CliRunner().invoke(app, ["sweep", "--study", str(study), "--model", "mlp", "--epochs", "1", "--json"])
    assert result.exit_code == 2 and json.loads(result.stdout)["trainings"][0]["loss"] == 2.0
    assert result.stderr.splitlines()[-1].endswith("sweep.png: it is a folder")


def test_a_journal_that_is_damaged(tmp_path, monkeypatch):
    """What a full disk left of a last line spoils no other; anything else is one sentence."""
    done = subprocess.CompletedProcess([], 0, json.dumps({"validation_loss": 2.0}), "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    plan = Plan(("mlp",), (0.1,), (0, 1))
    study, journal = tmp_path / "study", tmp_path / "study" / "journal.log"
    Sweep(study, plan)
    with journal.open("ab") as file:
        file.write(b'{"op_code":')
    for _ in range(3):
        made = Sweep(study)
        made.work()
        assert [row["loss"] for row in rows(made)] == [2.0, 2.0]
    lines = journal.read_bytes().splitlines(keepends=True)
    for damaged in (b"".join([*lines[:2], b"{}\n", *lines[3:]]), b"".join([*lines[:2], b"\xff\n", *lines[3:]])):
        journal.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"journal.log cannot be read: cut short, altered, or no journal"):
            Sweep(study)


@pytest.mark.parametrize(("arguments", "kept"), [((), "--validation=0.1"), (("--validation", "0.3"), "0.3")])
def test_the_test_images_choose_nothing(tmp_path, monkeypatch, arguments, kept):
    """Without --validation a part of the training images is kept for it; of two options the last one counts."""

    def run(command, **_):
        assert kept in [word for word in command if "0." in word and "lr" not in word][-1]
        return subprocess.CompletedProcess(command, 0, json.dumps({"validation_loss": 2.0, "test_loss": 1.0}), "")

    monkeypatch.setattr(subprocess, "run", run)
    made = Sweep(tmp_path / "study", Plan(("mlp",), (0.1,), (0,), arguments))
    made.work()
    assert [row["loss"] for row in rows(made)] == [2.0]
