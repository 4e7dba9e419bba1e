"""The comparison with PyTorch can fail: each wrong result and each wrong setting is reported by name."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import pytorch_agreement
from gpucnn import functional
from pytorch_agreement import COLUMNS, compare, judge, main, summary, table

torch = pytest.importorskip("torch", reason="PyTorch, which the script compares with, is not installed")

import agreement_cases  # needs PyTorch
from agreement_cases import CYCLE, OPERATIONS, Expected, draw

pytestmark = pytest.mark.pytorch

SEED = 1  # not that of the committed result
FIRST = {name: CYCLE.index(name) for name in OPERATIONS}
EXPECTED = {name: draw(number, SEED).expected() for name, number in FIRST.items()}


def rounded(expected):
    """The results of a perfect implementation."""
    return {name: right.value.astype(np.float32) for name, right in expected.items()}


def plant(monkeypatch, results):
    """Make `results` what this project computes, whatever the configuration."""
    monkeypatch.setattr(
        agreement_cases, "draw", lambda number, seed: dataclasses.replace(draw(number, seed), ours=lambda _: results)
    )


def test_the_cycle_holds_every_operation():
    assert len(CYCLE) == 30 and set(CYCLE) == set(OPERATIONS)
    assert {name for names in COLUMNS.values() for name in names} == {n for e in EXPECTED.values() for n in e}
    # In 300, numpy runs each place of the cycle once.
    assert sorted(n % 30 for n in range(300) if n % 10 == n // 30 % 10) == list(range(30))


def test_a_configuration_is_the_same_each_time_it_is_drawn():
    for name, number in FIRST.items():
        first, again = draw(number, SEED), draw(number, SEED)
        assert again.operation == name
        # Both now: PyTorch's last bits depend on how many threads it has, and other tests change that.
        values = first.expected()
        assert all(np.array_equal(right.value, values[n].value) for n, right in again.expected().items())
    assert draw(0, 1).settings != draw(0, 2).settings


@pytest.mark.parametrize("operation", OPERATIONS)
def test_bounds_are_narrow_and_hold_for_perfect_results(operation):
    for name, right in EXPECTED[operation].items():
        assert right.bound.shape == right.value.shape and (right.bound >= 0).all(), name
        assert right.bound.max() < 1e-3 * np.abs(right.value).max() or not right.value.any(), name
        assert compare(rounded(EXPECTED[operation])[name], right)["ratio"] <= 1, name


@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_value_off_by_four_bounds_is_reported(operation, monkeypatch, capsys):
    """In each result of each operation; where the bound is 0, the next float32."""
    for name, right in EXPECTED[operation].items():
        results = rounded(EXPECTED[operation])
        at = np.unravel_index(np.argmax(np.abs(right.value)), right.value.shape)
        results[name][at] += np.float32(4 * right.bound[at])
        if right.bound[at] == 0:
            results[name][at] = np.nextafter(results[name][at], np.float32(np.inf))
        plant(monkeypatch, results)
        (wrong,) = [row for row in judge([FIRST[operation]], SEED) if row["ratio"] > 1 and row["backend"] == "numba"]
        assert wrong["result"] == name and wrong["ratio"] > 2.9
        monkeypatch.undo()


def test_a_disagreement_ends_the_script_and_names_the_configuration(monkeypatch, capsys):
    results = rounded(EXPECTED["layer norm"])
    results["dx"] *= 1.001
    plant(monkeypatch, results)
    monkeypatch.setattr(pytorch_agreement, "record", lambda *_, **__: pytest.fail("a disagreement was recorded"))
    number = FIRST["layer norm"]
    with pytest.raises(SystemExit) as ended:
        main(["--seed", str(SEED), "--only", str(number)])
    out = capsys.readouterr().out
    assert ended.value.code == 1
    assert f"DISAGREES: configuration {number}, layer norm on numba: dx is" in out
    assert f"python bench/pytorch_agreement.py --seed {SEED} --only {number}" in out


def first_number(operation, fits):
    """The first configuration of an operation whose settings fit."""
    return next(n for n in range(300) if CYCLE[n % 30] == operation and fits(draw(n, SEED).settings))


MISTAKES = {
    "padding mode": ("convolution, reflect", "conv", {"padding_mode": "replicate"}, lambda s: s["padding"] != "valid"),
    "padding value": ("convolution, constant", "conv", {"padding_value": 0.25}, lambda s: s["padding"] != "valid"),
    "padding that counts": (
        "average pooling",
        "avg_pool",
        {"count_include_pad": True},
        lambda s: not s["count_include_pad"] and any(map(any, s["padding"])),
    ),
    "eps": ("group norm", "group_norm", {"eps": 0.101}, lambda s: s["eps"] == 0.1),
    "output padding": (
        "transposed convolution",
        "conv_transpose",
        {"output_padding": 0},
        lambda s: any(s["output_padding"]),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistaken_setting_is_reported(mistake, monkeypatch):
    operation, function, setting, fits = MISTAKES[mistake]
    for name in (function, f"{function}_backward"):
        right = getattr(functional, name)
        monkeypatch.setattr(functional, name, lambda *args, f=right, **options: f(*args, **options | setting))
    rows = judge([first_number(operation, fits)], SEED)
    assert max(row["ratio"] for row in rows) > 100


@pytest.mark.parametrize("wrong", [["--count", "0"], ["--seed", "-1"], ["--only", "3", "-2"]])
def test_numbers_out_of_range_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2 and "or more" in capsys.readouterr().err


def test_what_cannot_be_compared_is_infinitely_far():
    right = Expected(np.ones((2, 3)), np.full((2, 3), np.inf))
    values = np.ones((2, 3), np.float32)
    assert compare(values, right)["ratio"] == 0
    values[1, 2] = np.nan
    assert compare(values, right)["ratio"] == np.inf
    for wrong in (np.ones((3, 2), np.float32), np.ones((2, 3))):
        assert compare(wrong, right)["ratio"] == np.inf and "PyTorch" in compare(wrong, right)["problem"]


def test_the_summary_takes_the_worst():
    about = {"operation": "op", "settings": {}, "values": 5}
    rows = [
        {**about, "number": 0, "backend": "numba", "result": "y", "ratio": 0.5},
        {**about, "number": 0, "backend": "numpy", "result": "y", "ratio": 0.25},
        {**about, "number": 1, "backend": "numba", "result": "dw", "ratio": 0.75},
    ]
    (row,) = summary(rows)
    assert (row["configurations"], row["on_numpy_too"], row["values"]) == (2, 1, 15)
    assert row["worst_ratio"] == 0.75 and row["worst"]["number"] == 1 and row["worst_ratios"] == {"y": 0.5, "dw": 0.75}
    assert table([row]).splitlines()[-1].split() == ["all", "2", "1", "15", "0.500", "0.750"]


@pytest.mark.slow
def test_each_operation_agrees():
    rows = judge(FIRST.values(), SEED)
    assert {row["operation"] for row in rows} == set(OPERATIONS)
    assert [row for row in rows if not row["ratio"] <= 1] == []


def test_the_committed_result_is_of_300_configurations():
    paths = sorted(Path(pytorch_agreement.__file__).parent.glob("results/pytorch-agreement-*.json"))
    content = json.loads(paths[-1].read_text())["agreement"]
    assert sum(row["configurations"] for row in content["results"]) == content["configurations"] == 300
    assert {row["operation"] for row in content["results"]} == set(OPERATIONS)
    assert all(row["worst_ratio"] <= 1 for row in content["results"]) and content["machine"]["versions"]["torch"]
