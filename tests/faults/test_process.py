"""What the process around a backend allows: its processors, its environment, and forks."""

import json
import os
import subprocess
import sys

import pytest

from gpucnn.backends import processors
from tests.processes import finish, start

POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
TRAIN = """
import json, os, sys
import numpy as np
from gpucnn.backends import get_backend
from tests.training import small

images, labels = small.data()

def train(**settings):
    trainer = small.trainer(backend=get_backend("numba", **settings))
    trainer.fit(images, labels, 2)
    return trainer.model.weights_sha256()

def forked(function, *arguments):
    read, write = os.pipe()
    if not os.fork():
        os.close(read)
        os.write(write, json.dumps(function(*arguments)).encode())
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        result = json.loads(pipe.read())
    os.wait()
    return result
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux sets the processors of a process")
@pytest.mark.parametrize("settings", [{}, {"NUMBA_NUM_THREADS": "1"}])
def test_a_process_with_one_processor(settings):
    """As under taskset -c 0, Slurm or in a container, and where Numba itself was told."""
    code = "import os\n"
    if not settings:
        code += "os.environ.pop('NUMBA_NUM_THREADS', None); os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code += TRAIN + "print(json.dumps([get_backend('numba').threads, train()]))"
    threads, digest = finish(start(code, **settings))
    assert threads == 1
    assert digest == finish(start(TRAIN + "print(json.dumps(train()))"))


@pytest.mark.parametrize(
    ("files", "share"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, float("inf")),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        ({"proc/self/cgroup": "0::/of/the/host\n", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/a\n0::/\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        ({"proc/self/cgroup": "nonsense\n0::/\n", "sys/fs/cgroup/cpu.max": "nonsense"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_the_share_of_a_control_group(tmp_path, monkeypatch, files, share):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processors._share(tmp_path) == share
    monkeypatch.setattr(processors, "_share", lambda: share)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(2)), raising=False)
    assert processors.processors() == {0.5: 1}.get(share, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("NUMBA_DISABLE_JIT", "1", "switches Numba's compiler off"),
        ("NUMBA_NUM_THREADS", "0", "must be > 0"),
    ],
)
def test_settings_of_numba_that_keep_it_from_computing(tmp_path, name, value, words):
    """One sentence of the command line where numba is named; where it is not, something else computes."""
    program = [sys.executable, "-m", "gpucnn", "backends", "--json"]
    run = {
        "capture_output": True,
        "text": True,
        "env": {**os.environ, name: value},
    }
    listed = subprocess.run(program, check=False, **run)
    row = next(row for row in json.loads(listed.stdout)["backends"] if row["name"] == "numba")
    assert not row["usable"] and words in row["reason"]
    command = [*program[:-2], "train", "--backend", "numba", "--run", str(tmp_path / "run")]
    refused = subprocess.run(command, check=False, **run)
    assert refused.returncode == 2 and words in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.slow
@POSIX
def test_a_process_forked_after_use_computes_the_same_bits():
    """Its parent's helpers do not live there: it starts its own. So do its own children."""
    code = (
        TRAIN
        + """
import multiprocessing

def in_child(depth):
    found = [[train(), get_backend("numba").threads, get_backend("numba", threads=1).threads]]
    return found + forked(in_child, depth - 1) if depth else found

before = forked(in_child, 1)
alone = train()
with multiprocessing.get_context("fork").Pool(2) as pool:
    pool = pool.map(in_child, [0, 0])
print(json.dumps([before, alone, forked(in_child, 1) + pool[0] + pool[1], train(), get_backend("numba").threads]))
"""
    )
    before, alone, after, again, threads = finish(start(code, NUMBA_NUM_THREADS="2"))
    assert again == alone and threads == before[0][1]
    assert len(after) == 4 and {found[0] for found in before + after} == {alone}
    assert {found[1] for found in after} == {threads}


def test_several_threads_train_at_once():
    """One of them leads the helpers, the others work alone: all get the same bits."""
    code = (
        TRAIN
        + """
from concurrent.futures import ThreadPoolExecutor
alone = train()
with ThreadPoolExecutor(4) as pool:
    found = [done.result() for done in [pool.submit(train, graph=number % 2 == 0) for number in range(8)]]
print(json.dumps([alone, found]))
"""
    )
    alone, found = finish(start(code, NUMBA_NUM_THREADS="2"), timeout=120)
    assert found == [alone] * 8


@POSIX
def test_a_fork_while_another_thread_computes():
    code = (
        TRAIN
        + """
import threading
alone, running = train(), True

def busy():
    while running:
        train(graph=False)

thread = threading.Thread(target=busy)
thread.start()
found = [forked(train) for _ in range(5)]
running = False
thread.join()
print(json.dumps([alone, found]))
"""
    )
    alone, found = finish(start(code, NUMBA_NUM_THREADS="2"), timeout=120)
    assert found == [alone] * 5


def test_a_thread_trains_on_when_the_main_thread_has_ended(tmp_path):
    """As in a script whose last line starts it; images stay in their file."""
    code = f"""
import threading
import gpucnn

def train():
    threading.main_thread().join()
    from tests.training import small
    import json, numpy as np
    images, labels = small.data()
    np.save({str(tmp_path / "images.npy")!r}, images)
    np.save({str(tmp_path / "labels.npy")!r}, labels)
    data, _ = gpucnn.data.load({str(tmp_path)!r})
    assert type(data.images).__name__ == "Mapped"
    hashes = []
    for chosen in (data.images, np.asarray(data.images)):
        trainer = small.trainer({str(tmp_path)!r} + f"/{{len(hashes)}}")
        trainer.fit(chosen, data.labels, 2, validation=0.2)
        hashes.append(trainer.model.weights_sha256())
    print(json.dumps(hashes))

threading.Thread(target=train).start()
"""
    streamed, resident = finish(start(code))
    assert streamed == resident
