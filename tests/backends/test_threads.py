"""Two Python threads that train at the same time, recorded: each gets the bits that it gets alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.backends.numba.helpers import helpers
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
