"""The program as a process: `python -m gpucnn`, clean streams, exit codes, help that a newcomer finds, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMANDS = ["train", "evaluate", "predict", "check", "backends", "summary"]
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-m", "gpucnn"]
# The checkout, wherever the program is started; wide, so that help is not folded.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160", "NO_COLOR": "1"}


def run(*arguments, cwd=ROOT):
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_help_lists_the_commands():
    result = run("--help")
    assert result.returncode == 0
    assert all(command in result.stdout for command in COMMANDS)
    assert run("--version").stdout.startswith("gpucnn ")


def test_without_arguments_comes_the_help():
    result = run()
    assert "Usage: gpucnn" in result.stdout + result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_and_the_common_options(cli, command):
    result = cli(command, "--help")
    assert result.exit_code == 0
    for option in ("--backend", "--math", "--json", "--help"):
        assert option in result.stdout


def test_help_is_quick():
    code = "import sys, gpucnn.cli; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"numba", "sklearn", "matplotlib", "PIL", "safetensors", "scipy"}.isdisjoint(modules)


def test_json_is_all_of_stdout(tmp_path):
    result = run("train", "--epochs", 1, "--json", "--run", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["epochs"] == 1
    assert "epoch 1/1" in result.stderr


def test_an_error_is_one_line(tmp_path):
    result = run("train", "--model", "lenet6", "--json", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("gpucnn: ")


def test_a_missing_package_is_one_sentence_and_a_missing_module_of_gpucnn_a_traceback(cli, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    refused = cli.refused("train", "--model", "mlp", "--run", tmp_path / "run")
    assert refused.startswith("gpucnn: a package that gpucnn needs cannot be imported (import of sklearn.datasets")
    monkeypatch.setitem(sys.modules, "gpucnn.training", None)
    with pytest.raises(ImportError):
        cli("train", "--model", "mlp", "--run", tmp_path / "run")


def test_ctrl_c_in_several_processes_says_how_to_resume(cli, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gpucnn.parallel.launch.launch", interrupted)
    result = cli("train", "--processes", 2)
    assert result.exit_code == 130
    first, last = result.stderr.splitlines()
    assert "continue the run with --resume" in first and last == "gpucnn: interrupted"


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to a single process")
def test_ctrl_c_says_how_to_resume(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [*PROGRAM, "train", "--run", folder, "--epochs", "100000", "--schedule", "constant"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 240
        while not (folder / "checkpoint.safetensors").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1] == f"gpucnn: interrupted; continue with: gpucnn train --resume --run {folder}"
    assert "Traceback" not in stderr
