"""Random processes killed at random moments: nothing is lost, and the run ends in the weights of an undisturbed one."""

import json
import os
import random
import signal
import time

import pytest

from tests.parallel import mpi

pytestmark = mpi.needed

EPOCHS = 60
SETTINGS = ["--run", "run", "--threads", "1", "--json"]
FRESH = [*SETTINGS, "--epochs", EPOCHS, "--batch-size", "96", "--validation", "0.1", "--model", "mlp", "--hidden", "16"]


def kill(tmp_path, times: int, seed: int) -> None:
    """Kill a random process `times` times, continue with a random number of them, and compare the weights."""
    (tmp_path / "alone").mkdir()
    (tmp_path / "killed").mkdir()
    folder, draws = tmp_path / "killed", random.Random(seed)
    alone, err = mpi.start(FRESH, tmp_path / "alone", 1).communicate(timeout=900)
    expected = json.loads(alone)
    killed = 0
    while killed < times:
        count = draws.randint(2, 4)
        begun = (folder / "run" / "config.json").exists()
        process = mpi.start([*SETTINGS, "--resume"] if begun else FRESH, folder, count)
        until = time.monotonic() + draws.uniform(0, 8)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        pids = mpi.children(process, folder)
        if process.poll() is not None:  # it came to its end: begin anew
            assert process.returncode == 0, process.communicate()[1]
            assert json.loads(process.communicate()[0])["weights_sha256"] == expected["weights_sha256"]
            (folder / "run").rename(folder / f"done{len(list(folder.iterdir()))}")
        elif pids:
            os.kill(draws.choice(pids), signal.SIGKILL)
            _, err = process.communicate(timeout=120)
            assert process.returncode == 3 and sum(line.startswith("gpucnn:") for line in err.splitlines()) == 1, err
            killed += 1
        else:  # not started yet: the next one
            process.kill()
            process.communicate()
    last = [*SETTINGS, "--resume"] if (folder / "run" / "config.json").exists() else FRESH
    out, err = mpi.start(last, folder, draws.randint(1, 5)).communicate(timeout=900)
    assert json.loads(out)["weights_sha256"] == expected["weights_sha256"], err


@pytest.mark.slow
def test_three_random_kills(tmp_path):
    kill(tmp_path, 3, seed=1)


@pytest.mark.long
def test_fifty_random_kills(tmp_path):
    kill(tmp_path, 50, seed=2)
