"""`gpucnn bench` on the command line."""

import json

import pytest
from typer.testing import CliRunner

from gpucnn.cli import app
from gpucnn.errors import ConfigurationError
from gpucnn.throughput import chart

SMALL = (
    "bench",
    "--quick",
    "--backend",
    "numpy",
    "--math",
    "fast",
    "--batch-size",
    "2",
    "--job",
    "inference",
    "--no-pytorch",
)


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_json_and_chart(tmp_path):
    result = run(*SMALL, "--json", "--plot", str(tmp_path / "chart.svg"))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert {"machine", "results", "ratios"} <= report.keys()
    (row,) = report["results"]
    measured = ("model", "job", "batch", "backend", "threads", "images_per_second", "spread", "peak_fraction")
    assert all(row[name] is not None for name in measured)
    assert "lenet5 inference, batch 2: checking" in result.stderr
    assert (tmp_path / "chart.svg").read_text().lstrip().startswith("<?xml")


def test_a_chart_that_cannot_be_written_costs_no_figure(tmp_path, monkeypatch):
    def full(path, content):
        raise ConfigurationError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(chart, "write_file", full)
    result = run(*SMALL, "--json", "--plot", str(tmp_path / "chart.svg"))
    assert result.exit_code == 2 and json.loads(result.stdout)["results"]
    assert result.stderr.splitlines()[-1].endswith("chart.svg: No space left on device")


def test_table():
    result = run(*SMALL, "--threads", "1", "--threads", "2")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("numpy fast") == 2
    assert "images/s" in result.stdout and "first step" in result.stdout and "GFLOP/s" in result.stdout
    assert "quiet: " in result.stdout or "NOT RELIABLE: " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "nonsense"), "lenet5"),
        (("--job", "sleeping"), "inference"),
        (("--backend", "nonsense"), "numba"),
        (("--math", "nonsense"), "exact"),
        (("--plot", "chart.txt"), ".png"),
        (("--plot", "no/such/folder/chart.png"), "no/such/folder"),
    ],
)
def test_wrong_input_ends_with_a_sentence_before_any_work(arguments, message):
    result = run("bench", "--quick", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == "" and message in result.stderr and result.stderr.count("\n") == 1
