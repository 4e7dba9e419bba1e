"""Kernels that arrive while a step already runs on general ones: the same bits, whichever runs."""

import json
import os
import shutil
import time

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.backends.numba import ahead
from gpucnn.backends.numba.base import NumbaBase
from gpucnn.backends.numba.later import Later
from gpucnn.check.cases import all_cases
from gpucnn.layers import Dense, Flatten, Sequential
from gpucnn.models import Model
from gpucnn.training import Callback, Trainer
from tests.backends.guarded import assert_bits, guarded
from tests.processes import finish, start

needs_fork = pytest.mark.skipif(not ahead.CAN_FORK, reason="needs fork")
EXACT = get_backend("numpy", "exact")
# What a general kernel can compute.
CASES = [case for case in all_cases() if any(name in case.operation for name in ("conv", "dense", "pool"))]


@pytest.mark.parametrize("threads", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_general_kernels_give_the_specified_bits(threads, monkeypatch):
    """Every case of `gpucnn check` that has a kernel for its shape, without it."""
    tried, attempt = [], NumbaBase._try
    monkeypatch.setattr(NumbaBase, "_try", lambda self, *ls: tried.append(ls[-1][0].name) or attempt(self, *ls))
    backend = guarded()(threads).general()
    for case in CASES:
        results, expected = case.run(backend), case.run(EXACT)
        for name, values in expected.items():
            assert_bits(results[name], values)
        backend.verify()
    assert backend.replaced == len(tried)
    kinds = ("conv rows", "conv ", "conv with max pool", "weight gradient rows", "dense weight", "max pool", "maps")
    assert not [kind for kind in kinds if not any(kind in name for name in tried)], sorted(set(tried))


TRAIN = """
import gc, json
import numpy as np
from gpucnn.backends import compilation, get_backend
from gpucnn.backends.numba.later import later
from gpucnn.kernels.numba.compiler import Kernel
from gpucnn.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, Sequential
from gpucnn.models import Model
from gpucnn.training import Callback, Trainer

told = []
compilation.listeners.append(told.append)

class Wait(Callback):
    def on_epoch_begin(self, trainer, epoch):
        if epoch == ARRIVES:
            later.wait()

if not ARRIVES:
    later._look = lambda: None
layer = Sequential(
    Conv2d(6, 3, activation="relu"), MaxPool2d(2), Conv2d(8, 3, padding=1), BatchNorm(),
    Conv2d(8, 3, padding=1, groups=8), Conv2d(8, 2, stride=2), Dropout(0.3), Flatten(), Dense(3),
)
rng = np.random.default_rng(0)
images, labels = rng.random((53, 1, 12, 12)).astype(np.float32), rng.integers(0, 3, 53)
trainer = Trainer(
    Model(layer, (1, 12, 12)), backend=get_backend("numba", threads=2), seed=0, batch_size=20, progress=False,
    callbacks=[Wait()],
)
trainer.fit(images, labels, 4)
used = sorted(k.name for k in gc.get_objects() if type(k) is Kernel and k.routines)
print(json.dumps([trainer.model.weights_sha256(), told, used, len(later._awaited)]))
"""


def trained(arrives: int, cache) -> tuple[str, list[str], list[str], int]:
    """Kernels made for its shapes reach the training in epoch `arrives`, in 0 never."""
    code = TRAIN.replace("ARRIVES", str(arrives))
    return finish(start(code, GPUCNN_CACHE=str(cache), NUMBA_NUM_THREADS="2"))


@needs_fork
@pytest.mark.slow
def test_held_back_arriving_and_there_from_the_start_give_the_same_weights(tmp_path):
    numpy = TRAIN.replace('get_backend("numba", threads=2)', '"numpy"').replace("ARRIVES", "9")
    expected, *_ = finish(start(numpy))

    def special(names: list[str]) -> list[str]:
        return [name for name in names if name.startswith(("conv rows", "weight gradient rows"))]

    weights, told, used, awaited = trained(0, tmp_path / "held")
    assert weights == expected and awaited and not special(used), used
    assert "faster kernels meanwhile" in told[0]
    general = ["".join(c if c.isalnum() else "-" for c in name) for name in used]
    shutil.copytree(tmp_path / "held", tmp_path / "middle")  # these are compiled once for both
    for file in (tmp_path / "middle").rglob("*-*"):
        if file.name.rpartition("-")[0] not in general:
            file.unlink()
    weights, told, used, awaited = trained(3, tmp_path / "middle")
    assert weights == expected and not awaited and special(used), used
    assert "conv 4x4, kernel width any, strided rows, packed weights" in used, "the first steps had general ones"
    weights, told, used, awaited = trained(9, tmp_path / "middle")
    assert weights == expected and special(used) and told == [], told


def test_steps_are_recorded_again_when_kernels_have_arrived(monkeypatch):
    def weights(arrivals: list[int]) -> str:
        """Of a training before whose epochs so many kernels have arrived in all."""
        model = Model(Sequential(Flatten(), Dense(2)), (1, 2, 2)).initialize(0)

        class Arrive(Callback):
            def on_epoch_begin(self, trainer, epoch):
                arrived.append(arrivals[epoch - 1])

        backend, images = get_backend("numba", threads=1), np.eye(4, dtype=np.float32).reshape(4, 1, 2, 2)
        trainer = Trainer(model, backend=backend, batch_size=4, callbacks=[Arrive()], progress=False)
        trainer.fit(images, np.arange(4) % 2, len(arrivals))
        return model.weights_sha256()

    arrived, recorded, capture = [0], [], NumbaBase.capture
    monkeypatch.setattr(NumbaBase, "arrivals", lambda self: arrived[-1])
    monkeypatch.setattr(NumbaBase, "capture", lambda self, step: recorded.append(1) or capture(self, step))
    before = weights([0] * 6)
    assert len(recorded) == 1
    assert weights([0, 0, 1, 1, 1, 2]) == before
    assert len(recorded) == 1 + 3


# ---- the processes that compile ------------------------------------------------------------------------------------


def jobs_of(folder, numbers, work=lambda number: None):
    """Jobs that leave a file each."""

    def job(number: int) -> None:
        work(number)
        (folder / str(number)).write_text(str(os.getpid()))

    return {(f"kernel {number}", ()): lambda number=number: job(number) for number in numbers}


@pytest.fixture
def later():
    made = Later()
    yield made
    made.end()


def wait(later: Later, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while later.is_busy:
        assert time.monotonic() < until
        later.arrivals()
        time.sleep(0.01)


@needs_fork
def test_kernels_are_awaited_until_they_arrive(tmp_path, later):
    jobs = jobs_of(tmp_path, range(5), lambda number: time.sleep(0.05))
    later.compile(jobs, 2)
    assert later.arrivals() == 0 and all(later.is_awaited(*job) for job in jobs)
    wait(later)
    assert later.arrivals() >= 1 and not any(later.is_awaited(*job) for job in jobs)
    by = {(tmp_path / str(number)).read_text() for number in range(5)}
    assert len(by) == 2 and str(os.getpid()) not in by
    assert not later._children


@needs_fork
def test_kernels_count_whose_process_has_not_ended_yet(tmp_path, later, monkeypatch):
    with monkeypatch.context() as slow:
        slow.setattr(ahead, "remove_ended", lambda children: None)
        jobs = jobs_of(tmp_path, range(2), lambda number: None)
        later.compile(jobs, 1)
        until = time.monotonic() + 60
        while any(later.is_awaited(*job) for job in jobs):
            assert time.monotonic() < until
            later.arrivals()
    wait(later)
    assert later.arrivals() == 1 and not later._children


@needs_fork
def test_further_kernels_follow_and_none_is_made_twice(tmp_path, later):
    def once(number: int) -> None:
        assert not (tmp_path / str(number)).exists()
        time.sleep(0.05)

    first, second = jobs_of(tmp_path, range(3), once), jobs_of(tmp_path, range(3, 5), once)
    later.compile(first, 1)
    later.compile({**first, **second}, 1)
    wait(later)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3", "4"]
    assert later.arrivals() >= 1


@needs_fork
def test_a_process_that_dies_leaves_nothing_awaited(tmp_path, later):
    jobs = jobs_of(tmp_path, range(4), lambda number: number < 2 or os._exit(1))
    later.compile(jobs, 1)
    wait(later)
    assert not any(later.is_awaited(*job) for job in jobs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"] and later.arrivals() >= 1


@needs_fork
def test_a_few_arrive_while_others_take_long(tmp_path, later, monkeypatch):
    monkeypatch.setattr("gpucnn.backends.numba.later._TOGETHER", 0.2)
    jobs = jobs_of(tmp_path, range(2), lambda number: time.sleep(60 * number))
    later.compile(jobs, 1)
    until = time.monotonic() + 30
    while not later.arrivals():
        assert time.monotonic() < until
        time.sleep(0.01)
    first, second = jobs
    assert not later.is_awaited(*first) and later.is_awaited(*second)


ENDS = """
import json, os, time
from gpucnn.backends.numba.later import later

later.compile({("kernel", ()): lambda: time.sleep(600)}, 1)
child = os.fork()
if not child:  # what is under way is its parent's
    os._exit(len(later._awaited) + len(later._children))
assert os.waitpid(child, 0)[1] == 0 and later._awaited
print(json.dumps(later._children), flush=True)
"""


@needs_fork
@pytest.mark.parametrize("killed", [False, True])
def test_a_program_that_ends_waits_for_nothing(killed):
    """Its pipes are closed with it, and its processes end; if it is killed, they end after the kernel at hand."""
    begun = time.monotonic()
    process = start(ENDS + "os.kill(os.getpid(), 9)" * killed)
    (child,) = json.loads(process.communicate(timeout=15)[0])
    assert time.monotonic() - begun < 60
    if killed:
        os.kill(child, 9)
        return
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
