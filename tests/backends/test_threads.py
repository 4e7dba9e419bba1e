"""Two Python threads that train at the same time, recorded: each gets the bits that it gets alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.optimizers import CudaOptimizers
from gpucnn.backends.lanes import LaneBackend
from gpucnn.backends.numba.helpers import helpers
from gpucnn.backends.step_end import Ahead, StepEnd
from gpucnn.backends.tape import Tape
from gpucnn.emulation import get_emulated_backend, why_not
from gpucnn.errors import BackendError
from gpucnn.layers import BatchNorm, Conv2d, Dense, Flatten, MaxPool2d, Sequential
from gpucnn.models import Model
from gpucnn.training import Trainer

ROUNDS = 3


def train(backend, seed: int, start: threading.Barrier | None = None) -> str:
    """The hash of a small network's weights after a few epochs, each with full batches and a short one."""
    layer = Sequential(Conv2d(2 + seed, 3, activation="relu"), MaxPool2d(2), BatchNorm(), Flatten(), Dense(3))
    rng = np.random.default_rng(seed)
    images, labels = rng.random((37, 1, 8, 8)).astype(np.float32), rng.integers(0, 3, 37)
    trainer = Trainer(Model(layer, (1, 8, 8)), backend=backend, seed=seed, batch_size=16, progress=False)
    if start:
        start.wait()
    trainer.fit(images, labels, 3)
    return trainer.model.weights_sha256()


def backends():
    yield pytest.param(lambda: get_backend("numba"), id="numba")
    yield pytest.param(lambda: get_backend("numba", threads=1), id="numba, one thread each")
    emulated = pytest.mark.skipif(why_not() is not None, reason=f"emulation: {why_not()}")
    yield pytest.param(lambda: get_emulated_backend(guard=None), id="cupy, emulated", marks=emulated)


@pytest.mark.parametrize("make", list(backends()))
def test_two_threads_train_at_once(make):
    """On one backend, which both threads share."""
    backend = make()
    alone = [train(backend, seed) for seed in (0, 1)]
    assert alone == [train(get_backend("numpy", "exact"), seed) for seed in (0, 1)]
    for _ in range(ROUNDS):
        start = threading.Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(train, [backend] * 2, (0, 1), [start] * 2)) == alone


def _labels(backend, number: int):
    """Images and labels as they were loaded."""
    images, labels = np.full((2, 1, 2, 2), number, np.float32), np.full(2, number, np.int32)
    sources = backend.array(images), backend.array(labels), backend.array(np.arange(2))
    batch, loaded = backend.load_batch(*sources, 2)
    return batch.numpy().tolist(), backend.host(loaded)[0, :2].tolist()


def _step(backend, number: int):
    """The next step's number, after a step that prepares it."""
    w, g, v, hyper, rates = (backend.zeros(shape) for shape in (3, 3, 3, 1, (4, 1)))
    row, step = (backend.array(np.array([value], np.uint32)) for value in (0, number))
    order, indices = (backend.zeros(shape, np.int64) for shape in ((4, 2), 2))
    ahead = Ahead(row, order, indices, rates, hyper)
    end = StepEnd(backend.array(np.array([-1])), step, backend.zeros((1,)), ahead)
    backend.optimize("sgd", w, g, v, hyper, end=end, momentum=0.9, weight_decay=0.0, nesterov=False)
    return backend.host(step).tolist()


def _branch(backend, number: int):
    """Whether a launch that may overlap has the counters of its branch."""
    seen, run = [], backend.launcher.launch

    def watched(*arguments, overlap=(), branch=0):
        if overlap:
            rows = backend._constants["counters", 1024]
            seen.append((overlap[-1].ctypes.data - rows.ctypes.data) / rows[0].nbytes - 1 - branch)
        run(*arguments, overlap=overlap, branch=branch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend.launcher, "launch", watched)
        backend.bias_gradient(backend.pack(np.full((2, 1, 2, 2), number, np.float32)), backend.zeros((1,)))
    return seen[-1]


@pytest.mark.skipif(why_not() is not None, reason=f"emulation: {why_not()}")
@pytest.mark.parametrize(
    ("operation", "place", "name"),
    [(_labels, LaneBackend, "load_images"), (_step, CudaOptimizers, "end_step"), (_branch, CudaBase, "_counters_of")],
)
def test_another_thread_in_the_middle_of_an_operation(operation, place, name, monkeypatch):
    """The same operation on other values, from beginning to end, before and after a part of this one."""
    backend = get_emulated_backend(guard=None)
    part, alone = getattr(place, name), [operation(backend, number) for number in (3, 5)]
    results = []

    def interrupted(*arguments, **settings):
        monkeypatch.setattr(place, name, part)
        with ThreadPoolExecutor(1) as pool:
            results.append(pool.submit(operation, backend, 5).result())
            result = part(*arguments, **settings)
            results.append(pool.submit(operation, backend, 5).result())
        return result

    monkeypatch.setattr(place, name, interrupted)
    assert [operation(backend, 3), *results] == [alone[0], alone[1], alone[1]]


def test_a_recording_belongs_to_its_thread():
    tape, calls, inside, done = Tape(), [], threading.Event(), threading.Event()

    def other():
        inside.wait(10)
        tape.record(lambda: tape.call(calls.append, "theirs"))()
        done.set()

    def step():
        tape.call(calls.append, "ours")
        inside.set()
        assert done.wait(10)
        tape.call(calls.append, "ours too")

    thread = threading.Thread(target=other)
    thread.start()
    replay = tape.record(step)
    thread.join()
    assert calls == ["ours", "theirs", "theirs", "ours too"]
    calls.clear()
    replay()
    assert calls == ["ours", "ours too"]


def test_a_recording_inside_a_recording_is_refused_and_leaves_none_open():
    tape = Tape()
    with pytest.raises(BackendError, match="inside a capture"):
        tape.record(lambda: tape.record(lambda: None))
    with pytest.raises(ZeroDivisionError):
        tape.record(lambda: 1 / 0)
    assert tape.record(lambda: None)() is None


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_replayed_in_another_thread_uses_the_backends_threads(threads, monkeypatch):
    backend, seen = get_backend("numba", threads=threads), []
    x = backend.pack(np.ones((3, 5), np.float32))
    replay = backend.capture(lambda: backend.elementwise("relu", x))
    monkeypatch.setattr(helpers, "lead", lambda calls, count, threads: seen.append((count, threads)))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(replay).result()
    assert seen == [(1, threads)]
