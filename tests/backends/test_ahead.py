"""A step's kernels compiled by several processes before it runs: the same bits, whoever compiled, and whoever fails."""

import errno
import gc
import os
import re
import time

import numpy as np
import pytest
from gpucnn.kernels.numba.compiler import Kernel

from gpucnn.backends import compilation, get_backend
from gpucnn.backends.numba import ahead, general
from gpucnn.backends.numba.later import Later
from gpucnn.layers import Dense, Flatten, Layer, Sequential
from gpucnn.models import Model
from gpucnn.training import Trainer
from tests.processes import finish, start

pytestmark = pytest.mark.skipif(not ahead.CAN_FORK, reason="needs fork")

TRAIN = """
import json
import numpy as np
from gpucnn.backends import compilation, get_backend
from gpucnn.backends.numba.later import later
from gpucnn.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, Sequential
from gpucnn.models import Model
from gpucnn.training import Trainer

told = []
compilation.listeners.append(told.append)
layer = Sequential(Conv2d(3, 3, activation="relu"), MaxPool2d(2), BatchNorm(), Dropout(0.3), Flatten(), Dense(3))
rng = np.random.default_rng(0)
images, labels = rng.random((37, 1, 8, 8)).astype(np.float32), rng.integers(0, 3, 37)
trainer = Trainer(Model(layer, (1, 8, 8)), backend=BACKEND, seed=0, batch_size=16, progress=False)
trainer.fit(images, labels, 2)
later.wait()
print(json.dumps([trainer.model.weights_sha256(), told]))
"""
TWO = TRAIN.replace("BACKEND", "get_backend('numba', threads=2)")


@pytest.mark.slow
def test_an_empty_cache_two_processes_and_a_full_one_give_the_same_bits(tmp_path):
    expected, _ = finish(start(TRAIN.replace("BACKEND", "'numpy'")))
    cold = [start(TWO, GPUCNN_CACHE=str(tmp_path), NUMBA_NUM_THREADS="2") for _ in range(2)]
    for weights, told in map(finish, cold):
        assert weights == expected
        assert re.fullmatch(r"\d+ kernels on 2 processors, \d faster kernels meanwhile", told[0]), told
        assert len(told) < 4, told
    weights, told = finish(start(TWO, GPUCNN_CACHE=str(tmp_path), NUMBA_NUM_THREADS="2"))
    assert (weights, told) == (expected, [])


def jobs_of(tmp_path, count: int, first=lambda: None):
    """Jobs that leave a file each, with the number of the process that did it; `first` is called in each before."""

    def job(number: int) -> None:
        first()
        time.sleep(0.02)
        with (tmp_path / str(number)).open("a") as file:
            file.write(f"{os.getpid()}\n")

    return [lambda number=number: job(number) for number in range(count)]


def test_each_job_is_done_once_by_several_processes(tmp_path):
    ahead.compile_all(jobs_of(tmp_path, 30), 3)
    done = [(tmp_path / str(number)).read_text().split() for number in range(30)]
    assert all(len(by) == 1 for by in done)
    assert len({by[0] for by in done}) == 3 and str(os.getpid()) in {by[0] for by in done}


def test_a_process_that_dies_takes_no_other_with_it(tmp_path):
    here = os.getpid()
    ahead.compile_all(jobs_of(tmp_path, 10, lambda: os.getpid() == here or os._exit(1)), 2)
    assert len(list(tmp_path.iterdir())) == 9
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_job_that_raises_here_ends_the_others_at_once(tmp_path):
    here = os.getpid()

    def first() -> None:
        if os.getpid() == here:
            raise KeyboardInterrupt
        time.sleep(60)

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ahead.compile_all(jobs_of(tmp_path, 4, first), 3)
    assert time.monotonic() - begun < 30 and not list(tmp_path.iterdir())
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    messages: list[str] = []
    compilation.listeners.append(messages.append)
    compilation.announce("heard again")
    compilation.listeners.remove(messages.append)
    assert messages == ["heard again"]


# ---- a system that starts no further process -----------------------------------------------------------------------

REFUSED = "on fewer processors, since the system refuses to start another process (Resource temporarily unavailable)"


@pytest.fixture
def refuse(monkeypatch):
    """Function that has os.fork fail after so many more calls; returns the list of announcements from then on."""
    fork, told = os.fork, []

    def refuse(after: int) -> list[str]:
        left = iter(range(after))

        def limited() -> int:
            if next(left, None) is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return fork()

        monkeypatch.setattr(os, "fork", limited)
        return told

    ahead.tell_of_refusal.cache_clear()
    monkeypatch.setattr(compilation, "listeners", [told.append])
    return refuse


def open_files() -> set[str]:
    gc.collect()  # what other tests have left is closed now, not meanwhile
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("after", [0, 1])
def test_kernels_are_compiled_by_those_processes_that_the_system_starts(tmp_path, refuse, after):
    before, told = open_files(), refuse(after)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        ahead.compile_all(jobs_of(tmp_path / name, 30), 4)
        assert len(list((tmp_path / name).iterdir())) == 30
    assert told == [REFUSED] and open_files() <= before
    assert len({path.read_text() for path in (tmp_path / "first").iterdir()}) == 1 + after


@pytest.mark.parametrize("after", [0, 1])
def test_kernels_that_no_process_compiles_are_not_awaited(tmp_path, refuse, after):
    before, told, later = open_files(), refuse(after), Later()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        jobs = jobs_of(tmp_path / name, 3)
        later.compile({(name, (number,)): job for number, job in enumerate(jobs)}, 2)
        later.wait()
        assert len(list((tmp_path / name).iterdir())) == (3 if after and name == "first" else 0)
    assert later.arrivals() >= 1 and told == [REFUSED] and open_files() <= before
    refuse(1)
    later.compile({("third", (0,)): jobs[0]}, 1)
    later.wait()
    assert (tmp_path / "second" / "0").exists() and open_files() <= before


@pytest.mark.parametrize("after", [0, 1])
def test_without_pipes_this_process_compiles_alone(tmp_path, monkeypatch, refuse, after):
    pipe, before, told, later = os.pipe, open_files(), refuse(9), Later()
    left = iter(range(after))

    def limited() -> tuple[int, int]:
        if next(left, None) is None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return pipe()

    monkeypatch.setattr(os, "pipe", limited)
    jobs = jobs_of(tmp_path, 3)
    later.compile({("kernel", (number,)): job for number, job in enumerate(jobs)}, 2)
    assert not later.is_busy and not later.is_awaited("kernel", (0,))
    ahead.compile_all(jobs, 2)
    assert told == ["on fewer processors, since the system refuses to start another process (Too many open files)"]
    assert not list(tmp_path.iterdir()) and open_files() <= before


def test_an_interrupted_start_leaves_nothing_awaited(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    before, later = open_files(), Later()
    monkeypatch.setattr(os, "fork", interrupted)
    with pytest.raises(KeyboardInterrupt):
        later.compile({("kernel", ()): lambda: None}, 2)
    assert not later.is_busy and not later.is_awaited("kernel", ()) and open_files() <= before


LIMITED = """
import os, resource
from gpucnn.backends import compilation
from gpucnn.backends.numba import ahead

done, told = [], []
compilation.listeners.append(told.append)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
if not os.getuid():
    os.setuid(65534)  # limits are not for root
ahead.compile_all([lambda number=number: done.append(number) for number in range(3)], 2)
print(__import__("json").dumps([done, told]))
"""


def test_a_limit_of_processes():
    assert finish(start(LIMITED)) == [[0, 1, 2], [REFUSED]]


REFUSING = f"""
import os
def refuse():
    raise BlockingIOError({errno.EAGAIN}, {os.strerror(errno.EAGAIN)!r})
os.fork = refuse
{TWO}
"""


@pytest.mark.slow
def test_training_where_no_process_can_be_started_gives_the_same_bits(tmp_path):
    expected, _ = finish(start(TRAIN.replace("BACKEND", "'numpy'")))
    weights, told = finish(start(REFUSING, GPUCNN_CACHE=str(tmp_path), NUMBA_NUM_THREADS="2"))
    assert weights == expected
    assert told.count(REFUSED) == 1 and told[1] == REFUSED, told


# ---- steps that are prepared ---------------------------------------------------------------------------------------


class Counting(Layer):
    """Passes values on and counts how often it did."""

    recordable = True
    calls = 0

    def build(self, shape):
        return shape

    def __call__(self, x):
        self.calls += 1
        return x, lambda dy: dy


@pytest.mark.slow
def test_a_step_with_user_defined_code_is_not_run_in_vain():
    layer = Counting()
    model = Model(Sequential(layer, Flatten(), Dense(2)), (1, 2, 2))
    trainer = Trainer(model, backend=get_backend("numba", threads=1), batch_size=4, progress=False)
    trainer.fit(np.zeros((4, 1, 2, 2), np.float32), np.zeros(4, int), 1)
    with_one_thread, layer.calls = layer.calls, 0
    trainer = Trainer(model, backend=get_backend("numba", threads=2), batch_size=4, progress=False)
    trainer.fit(np.zeros((4, 1, 2, 2), np.float32), np.zeros(4, int), 1)
    assert layer.calls == with_one_thread


def test_a_prepared_step_computes_nothing():
    backend = get_backend("numba", threads=2)
    x, out = backend.pack(np.ones((3, 5), np.float32)), backend.zeros((5,))
    said = []
    backend.prepare(lambda: (backend.bias_gradient(x, out), backend.between(lambda: said.append("between"))))
    assert not out.any() and not said
    backend.bias_gradient(x, out)
    assert (out == 3).all()


def test_nothing_is_compiled_ahead_where_it_could_not_be_kept(tmp_path, monkeypatch):
    backend, ordered = get_backend("numba", threads=2), []
    x, out = backend.pack(np.ones((3, 5), np.float32)), backend.zeros((5,))
    (tmp_path / "file").touch()
    monkeypatch.setattr(Kernel, "missing", lambda kernel, *arguments: kernel.signature(arguments))
    monkeypatch.setattr(ahead, "compile_all", lambda jobs, _: ordered.append(jobs))
    for folder, orders in ((tmp_path / "file" / "cache", 0), (tmp_path / "cache", 1)):
        monkeypatch.setenv("GPUCNN_CACHE", str(folder))
        backend.prepare(lambda: backend.bias_gradient(x, out))
        assert len(ordered) == orders


@pytest.mark.slow
def test_the_general_operations_are_valid_ones():
    backend = get_backend("numba", threads=2)
    general.operations(backend)
    prepared = []
    backend.prepare(lambda: prepared.append(general.operations(backend)))
    assert prepared == [None]
