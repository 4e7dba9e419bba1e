"""The CuPy backend's own part, memory and graphs, on a made-up CuPy whose pools reuse memory at once."""

import concurrent.futures
import dataclasses
import gc
import importlib
import json
import threading
import time

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.check import HASHES
from gpucnn.check.networks import NETWORKS, train
from gpucnn.errors import BackendError
from gpucnn.inference import Unplannable
from gpucnn.inference.trace import trace
from gpucnn.models.weights import Weights
from gpucnn.throughput import profile
from gpucnn.throughput.jobs import Case, prepare
from gpucnn.throughput.timing import interleave
from tests.cuda import fake_cupy
from tests.cuda.emulated import needs_emulation

pytestmark = needs_emulation


@pytest.fixture
def cupy_backend(monkeypatch):
    fake_cupy.install(monkeypatch)
    return importlib.import_module("gpucnn.backends.cuda.cupy_backend").CupyBackend(0, np.dtype(np.float32))


@pytest.mark.parametrize("late", [None, "first", "others", "no graph"])
@pytest.mark.parametrize("network", NETWORKS)
def test_ten_steps_give_the_committed_weights(cupy_backend, network, late, monkeypatch):
    cupy_backend.graph = late != "no graph"
    monkeypatch.setattr(fake_cupy.Graph, "late", late)
    assert train(network, cupy_backend) == json.loads(HASHES.read_text())[network]


@pytest.mark.parametrize("late", [None, "first", "others"])
def test_a_graph_keeps_its_memory_to_itself(cupy_backend, late, monkeypatch):
    monkeypatch.setattr(fake_cupy.Graph, "late", late)
    b = cupy_backend
    x, total = b.pack(np.full((3, 4), 2, np.float32)), b.zeros((4,))
    w = b.array(np.eye(4, dtype=np.float32))
    runs = []

    def step():
        db = b.zeros((4,))
        b.bias_gradient(b.dense(x, w, None), db)  # noqa: F821 - x is deleted below, after its use here
        b.update_running(total, db, 0.5)
        runs.append(1)

    repeat = b.capture(step)
    assert b.host(total).tolist() == [3.0] * 4
    assert len(runs) == 2  # once to compute, once to record
    del x  # the graph reads it at each repetition
    others = [b.array(np.full(shape, 5, np.float32)) for shape in [(1, 4, 32), (4,)] * 20]
    b.assign(w, 2 * np.eye(4, dtype=np.float32))
    repeat()
    repeat()
    assert b.host(total).tolist() == [9.75] * 4
    assert all((b.host(other) == 5).all() for other in others)
    assert len(runs) == 2


def test_a_dropped_graph_gives_its_memory_back(cupy_backend):
    x = cupy_backend.pack(np.ones((3, 4), np.float32))
    before = len(fake_cupy.MemoryPool.made)
    repeat = cupy_backend.capture(lambda: cupy_backend.elementwise("relu", cupy_backend.elementwise("tanh", x)))
    (pool,) = (reference() for reference in fake_cupy.MemoryPool.made[before:])
    assert pool.free_bytes() > 0
    del repeat
    gc.collect()
    assert (pool.used_bytes(), pool.free_bytes()) == (0, 0)


def test_what_outlives_a_graph_is_in_no_graphs_pool(cupy_backend):
    """Counters and tables made by the rehearsal serve later launches as well."""
    b, x, out = cupy_backend, cupy_backend.pack(np.ones((3, 4), np.float32)), cupy_backend.zeros((4,))
    before = len(fake_cupy.MemoryPool.made)
    repeat = b.capture(lambda: b.bias_gradient(x, out))
    pool = fake_cupy.MemoryPool.made[before]()
    assert pool.used_bytes() == 0
    repeat()
    assert b.host(out).tolist() == [3.0] * 4


@pytest.mark.parametrize("overlapping", [False, True])
def test_work_outside_the_recorded_streams_is_refused(cupy_backend, overlapping):
    """The made-up CuPy refuses what a real one would: its own kernels, and new memory, while a graph is recorded."""
    b, recording = cupy_backend, []
    x = b.zeros((4,))

    def step():
        recording.append(1)
        if len(recording) == 2 and overlapping:
            b.zeros((12345,))
        elif len(recording) == 2:
            x + x

    with pytest.raises(AssertionError, match="cudaMalloc" if overlapping else "legacy stream"):
        b.capture(step)


def test_weight_gradients_of_two_layers_are_branches_of_their_own(cupy_backend):
    b = cupy_backend
    dy, x = b.pack(np.ones((3, 4), np.float32)), b.pack(np.ones((3, 5), np.float32))
    grads = b.zeros((40,))

    def step():
        b.dense_weight_gradient(dy, x, grads[:20].reshape(4, 5))
        b.dense_weight_gradient(dy, x, grads[20:].reshape(4, 5))
        b.clip_value(grads, 2.0)

    repeat = b.capture(step)
    streams = [stream for kind, stream, _ in fake_cupy.Stream.steps if kind == "work"]
    assert len(set(streams)) == 3 and streams[2] is fake_cupy.Stream.steps[0][1]
    repeat()
    assert b.host(grads).tolist() == [2.0] * 40


def test_a_capture_inside_a_capture_is_refused(cupy_backend):
    with pytest.raises(RuntimeError, match="inside a capture"):
        cupy_backend.capture(lambda: cupy_backend.capture(lambda: None))
    cupy_backend.capture(lambda: None)()  # and leaves nothing behind


def test_another_thread_waits_while_one_records(cupy_backend):
    """What it launches must not become part of the graph."""
    b, order, recording = cupy_backend, [], threading.Event()
    ours, theirs = b.zeros((4,)), b.zeros((4,))
    one = b.array(np.ones(4, np.float32))

    def other():
        recording.wait(10)
        b.update_running(theirs, one, 0.5)
        order.append("theirs")

    def step():
        b.update_running(ours, one, 0.5)
        recording.set()
        time.sleep(0.05)
        order.append("ours")

    thread = threading.Thread(target=other)
    thread.start()
    repeat = b.capture(step)
    thread.join()
    assert order == ["ours", "ours", "theirs"]  # once to compute, once to record
    repeat()
    assert b.host(ours).tolist() == [0.75] * 4 and b.host(theirs).tolist() == [0.5] * 4


def in_thread(work) -> None:
    """Within a new thread, whose current device is 0, and which fails here if it fails there."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(work).result()


@pytest.fixture
def second_device(cupy_backend, monkeypatch):
    """The backend of the second of two processes that MPI has started on this machine."""
    for name, number in (("LOCAL_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", number)
    return type(cupy_backend)(0, np.dtype(np.float32))


def test_every_thread_works_on_the_device_of_the_backend(second_device):
    """In the made-up CuPy, as in CUDA, a thread begins on device 0; it refuses what belongs to another."""
    b, one = second_device, second_device.array(np.ones(4, np.float32))
    ours, theirs = b.zeros((4,)), []
    assert ours.data.mem._device == 1
    repeat = b.capture(lambda: b.update_running(ours, one, 0.5))

    def work():
        own = b.zeros((4,))
        own_repeat = b.capture(lambda: b.update_running(own, one, 0.5))
        for again in (own_repeat, repeat):
            in_thread(again)
        b.update_running(own, one, 0.5)
        theirs.append((own.data.mem._device, b.host(own).tolist()))

    in_thread(work)
    in_thread(lambda: b.assign(one, np.zeros(4, np.float32)))
    in_thread(b.synchronize)
    in_thread(lambda: b.elapsed(lambda: None))
    assert theirs == [(1, [0.875] * 4)] and b.host(ours).tolist() == [0.75] * 4


def test_two_threads_predict_on_the_second_device(second_device):
    case = Case("lenet5", "inference", 2)
    model, images = case.build().place(second_device), case.data()[0][:4]
    expected = case.build().place(get_backend("numpy", "exact")).predict(images)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        parts = list(threads.map(lambda first: model.predict(images[first : first + 2]), (0, 2)))
    assert np.concatenate(parts).tobytes() == expected.tobytes()


def test_a_graph_that_another_thread_drops_gives_its_memory_back(second_device):
    x = second_device.pack(np.ones((3, 4), np.float32))
    before = len(fake_cupy.MemoryPool.made)
    graphs = [second_device.capture(lambda: second_device.elementwise("relu", second_device.elementwise("tanh", x)))]
    (pool,) = (reference() for reference in fake_cupy.MemoryPool.made[before:])
    assert pool.free_bytes() > 0
    in_thread(lambda: (graphs.clear(), gc.collect()))
    assert (pool.used_bytes(), pool.free_bytes()) == (0, 0)


def test_full_memory_is_told_in_a_sentence(cupy_backend):
    with pytest.raises(BackendError, match=r"memory is full: an array of 4\.00 GiB did not fit .* of 1\.00 GiB$"):
        cupy_backend.zeros((2**30,))
    cupy_backend.pack(np.zeros((64, 2), np.float32))
    with pytest.raises(BackendError, match=r"a batch of 64 needs 4\.00 GiB at least, and no smaller one will fit"):
        cupy_backend.zeros((2**30,))


def test_time_is_told_by_events_of_the_device(cupy_backend, monkeypatch):
    """Both are on the backend's stream, around the work; the host's clock is not read."""
    monkeypatch.setattr(fake_cupy.Event, "now", 10.0)
    done = []

    def work():
        done.append(1)
        fake_cupy.Event.now += 2.5

    assert cupy_backend.elapsed(work) == 0.0025
    assert done == [1]


def test_throughput_asks_the_device(cupy_backend, monkeypatch):
    """Each step advances the made-up clock by three milliseconds: the timing reports these."""
    monkeypatch.setattr(fake_cupy.Event, "now", 0.0)
    prepared = prepare(Case("lenet5", "inference", 2), cupy_backend)
    call = prepared.contender.call

    def step():
        call()
        fake_cupy.Event.now += 3.0

    assert prepared.transfer == 0  # nothing turned the clock
    timing = interleave({"a": dataclasses.replace(prepared.contender, call=step)}, 0.1)["a"]
    assert timing.device == pytest.approx(0.003)
    assert 0 < timing.median != timing.device


@pytest.mark.parametrize("name", ["lenet5", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_a_prediction_is_one_copy_in_one_graph_and_one_copy_out(cupy_backend, name, monkeypatch):
    case = Case(name, "inference", 2)
    model, images = case.build().place(cupy_backend), case.data()[0][:2]
    model.predict(images)
    done = []

    def count(kind, method):
        original = getattr(kind, method)
        monkeypatch.setattr(kind, method, lambda *a, **o: (done.append(method), original(*a, **o))[1])

    for kind, method in [
        (fake_cupy.ndarray, "set"),
        (fake_cupy.ndarray, "get"),
        (fake_cupy.MemoryPool, "malloc"),
        (fake_cupy.Graph, "launch"),
        (type(cupy_backend.launcher), "launch"),
    ]:
        count(kind, method)
    got = model.predict(images)
    assert done == ["set", "launch", "get"]
    assert got.tobytes() == case.build().place(get_backend("numpy", "exact")).predict(images).tobytes()


def test_threads_predict_at_once_and_new_weights_are_seen(cupy_backend):
    case = Case("lenet5", "inference", 8)
    model, peer = case.build().place(cupy_backend), case.build().place(get_backend("numpy", "exact"))
    images = case.data()[0][:32]
    expected, wrong = peer.predict(images), []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(8):
            first, count = random.integers(0, 24), random.integers(1, 8)
            if model.predict(images[first : first + count]).tobytes() != expected[first : first + count].tobytes():
                wrong.append((first, count))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    halves = {name: value * np.float32(0.5) for name, value in model.state_dict().items()}
    model.load_state_dict(halves)
    peer.load_state_dict(halves)
    assert model.predict(images[:8]).tobytes() == peer.predict(images[:8]).tobytes()


def test_weights_that_a_layer_makes_on_the_device_are_not_planned(cupy_backend):
    """A plan would keep those of the first call."""
    b = cupy_backend
    own, values = b.zeros((3, 4)), b.zeros((64,))
    owned = Weights(values, None, b.zeros((0,))).readable
    trace(lambda x: x.backend.dense(x, values[:12].reshape(3, 4), None), (4,), owned)
    with pytest.raises(Unplannable, match="w of dense"):
        trace(lambda x: x.backend.dense(x, own, None), (4,), owned)


def test_a_profile_lists_each_operation_once_on_values_that_were_computed(cupy_backend, monkeypatch):
    """Logged while a step is traced or recorded, a call has arrays that nothing was written to, labels among them."""
    kind, labels = type(cupy_backend), []
    loss = kind._softmax_cross_entropy

    def watched(self, logits, y, *arguments):
        loss(self, logits, y, *arguments)
        labels.append(np.array(y).ravel()[:2].tolist())

    monkeypatch.setattr(kind, "_softmax_cross_entropy", watched)
    case = Case("lenet5", "training", 2)
    names = [row["operation"] for row in profile.profile(case, cupy_backend, seconds=0.001)]
    assert names[0] == "load_batch" and names[-1] == "optimize"
    assert names.count("softmax_cross_entropy") == 1 and names.count("dense_gradients") == 3
    assert labels and all(pair == case.data()[1][:2].tolist() for pair in labels)


def test_what_is_there_is_described(cupy_backend):
    assert cupy_backend.device == "GPU made up, 1 GiB"
    assert (cupy_backend.name, cupy_backend.math, cupy_backend.lanes, cupy_backend.threads) == ("cupy", "exact", 32, 0)
