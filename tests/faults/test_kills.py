"""A process that trains is stopped at each thing that it does to files: what is there is whole, and the run goes on.

The run that goes on ends in the bits of one that nobody stopped. Likewise where the disk is full, or fails, at each
point in turn: a sentence, and the run is kept.
"""

import errno
import functools
import json
import os
import signal

import numpy as np
import pytest

from gpucnn.errors import GpucnnError
from gpucnn.models.files import read_tensors
from gpucnn.training import load_run, run
from tests.faults.kills import Points, forked
from tests.training import small

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

X, Y = small.data()
EPOCHS = 3
FILES = ["best.safetensors", "checkpoint.safetensors", "config.json", "curves.png", "metrics.jsonl"]


def train(folder, points=None) -> str:
    """The digest of the weights; the curves are not drawn but as good as drawn, since drawing takes its time."""
    run.draw_curves = lambda history: b"a picture" * 100
    if points:
        points.patch()
    trainer = small.trainer(folder, math="fast")
    trainer.fit(X, Y, EPOCHS, validation=0.3, resume=True)
    return trainer.model.weights_sha256()


def tried(folder, points) -> tuple[str, str]:
    """What became of training with these points: ("done", digest) or ("refused", message)."""
    try:
        return "done", train(folder, points)
    except GpucnnError as error:
        return "refused", str(error)


def counted(folder) -> int:
    points = Points()
    status, found = forked(lambda: [train(folder, points), points.count, points.names])
    assert status == 0, found
    assert {"open", "write", "fsync", "replace", "unlink", "mkdir", "ftruncate"} <= set(found[2])
    return found[1]


def check(folder) -> int:
    """Whatever is there is whole; the number of epochs kept."""
    if not folder.exists():
        return 0
    names = {path.name for path in folder.iterdir()}
    if "config.json" in names:
        json.loads((folder / "config.json").read_text())
    if "metrics.jsonl" in names:
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for name in {"checkpoint.safetensors", "best.safetensors"} & names:
        read_tensors(folder / name)
    if "checkpoint.safetensors" not in names:
        return 0
    assert "config.json" in names
    load_run(folder, small.model(), best=True)
    return load_run(folder, small.model()).epoch


def finish(folder, expected: str) -> None:
    status, digest = forked(lambda: train(folder))
    assert (status, digest) == (0, expected)
    assert sorted(path.name for path in folder.iterdir()) == FILES


def stop(folder, number: int, how: str) -> bool:
    """Whether the process came as far as this point and died there."""
    status, found = forked(lambda: train(folder, Points(number, how)))
    assert status in (0, -signal.SIGKILL), found
    return status != 0


def run_all(tmp_path, rounds: list[list[tuple[int, str]]]) -> dict[str, int]:
    """Each round is a run that is stopped at these points in turn and then finished; what it came to."""
    status, expected = forked(lambda: train(tmp_path / "whole"))
    assert status == 0, expected
    kills = kept = 0
    for number, points in enumerate(rounds):
        folder, before = tmp_path / f"run{number}", 0
        for point in points:
            kills += stop(folder, *point)
            epochs = check(folder)
            assert epochs >= before, "an epoch that was kept is gone"
            before = epochs
            kept += epochs > 0
        finish(folder, expected)
    return {"kills": kills, "of them with epochs kept": kept, "wrong": 0}


@pytest.mark.slow
def test_each_point_in_turn(tmp_path):
    """Here every third, each in one of the three ways; all of them in the long test."""
    count = counted(tmp_path / "count")
    ways = ("before", "after", "half")
    found = run_all(tmp_path, [[(number, ways[number % 9 // 3])] for number in range(1, count + 1, 3)])
    assert found["kills"] == len(range(1, count + 1, 3))


def errors(tmp_path, numbers, codes) -> int:
    """The system fails at each of these points, once; how many were refused."""
    _, expected = forked(lambda: train(tmp_path / "whole"))
    refused = 0
    for number in numbers:
        for code in codes:
            folder = tmp_path / f"run{number}-{code}"
            status, found = forked(functools.partial(tried, folder, Points(number, "error", code)))
            assert status == 0, found
            assert found[0] == "refused" or found[1] == expected
            refused += found[0] == "refused"
            assert "\n" not in found[1]
            check(folder)
            finish(folder, expected)
    return refused


@pytest.mark.slow
def test_a_disk_that_fails_at_each_point(tmp_path):
    count = counted(tmp_path / "count")
    assert errors(tmp_path, range(1, count + 1, 5), [errno.ENOSPC]) > 5


@pytest.mark.long
def test_a_thousand_kills(tmp_path):
    """Every point in every way, then runs that are stopped again and again at random points."""
    count = counted(tmp_path / "count")
    rounds = [[(number, how)] for number in range(1, count + 1) for how in ("before", "after", "half")]
    rng = np.random.default_rng(0)
    while sum(map(len, rounds)) < 1300:
        rounds.append([(int(rng.integers(1, 40)), str(rng.choice(["before", "after", "half"]))) for _ in range(8)])
    found = run_all(tmp_path, rounds)
    failed = errors(tmp_path / "errors", range(1, count + 1), [errno.ENOSPC, errno.EIO, errno.EROFS])
    print(json.dumps({**found, "failures of the system": failed}))
    assert found["kills"] >= 1000
