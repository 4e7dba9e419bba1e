"""Model.predict through plans: the bits of NumPy exact, whatever the network, the batch and the thread."""

import copy
import ctypes
import gc
import os
import signal
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
from gpucnn.kernels.numba import program

from gpucnn import Trainer
from gpucnn import layers as L
from gpucnn.backends import get_backend
from gpucnn.backends.numba import helpers
from gpucnn.backends.protocol import Backend
from gpucnn.errors import ShapeError
from gpucnn.models import Model, at_size, plans
from tests.inference.kinds import KINDS, made, settle
from tests.inference.random_networks import random_flat_network, random_network

COUNTS = (1, 2, 3, 5, 8, 16, 17, 32, 33)


def images(model: Model, count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *model.image_shape)).astype(np.float32)


def expected(model: Model, x: np.ndarray) -> np.ndarray:
    """By the readable backend, which has no plans."""
    without_backend = copy.deepcopy(model, {id(model.backend): None})  # a backend cannot be copied
    return without_backend.place(get_backend("numpy")).predict(x)


def is_planned(model: Model) -> bool:
    stages = [stage for found in model._plans._stages.values() for stage in found]
    return bool(stages) and all(stage.graph is not None for stage in stages)


def waiting(model: Model) -> list:
    """The plans that nobody uses."""
    return [plan for plans in model._plans._free.values() for plan in plans]


def numbers_at(place: int, count: int, dtype) -> np.ndarray:
    memory = (ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(int(place))
    return np.frombuffer(memory, dtype)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_has_the_bits_of_numpy(kind):
    model = made(kind)
    x = images(model, max(COUNTS))
    reference = expected(model, x)
    model.place(get_backend("numba", threads=2))
    for count in COUNTS:
        assert same(model.predict(x[:count]), reference[:count]), count
    assert is_planned(model)


@pytest.mark.parametrize(
    ("network", "seed"), [(n, s) for n in (random_network, random_flat_network) for s in range(40)]
)
def test_random_networks_have_the_bits_of_numpy(network, seed):
    model = network(seed)
    x = images(model, 16, seed)
    reference = expected(model, x)
    model.place(get_backend("numba", threads=2))
    for count in (1, 9, 4, 16):
        assert same(model.predict(x[:count]), reference[:count]), count
    assert is_planned(model)


@pytest.mark.slow  # its kernels for lanes are compiled
@pytest.mark.parametrize("kind", ["lenet5", "ResNet", "transposed", "group norm", "concat", "activations", "1D"])
def test_recorded_plans_have_the_bits_of_numpy(kind, monkeypatch):
    """What other backends that record do, here with numba's own recording."""
    backend = get_backend("numba", threads=2)
    for name in ("plan", "images_at_once"):
        monkeypatch.setattr(type(backend), name, getattr(Backend, name))
    model = made(kind)
    x = images(model, 20)
    reference = expected(model, x)
    model.place(backend)
    for count in (1, 20, 20, 3):
        assert same(model.predict(x[:count]), reference[:count])
    assert is_planned(model)


@pytest.mark.parametrize("count", [1, 3])
def test_helpers_wait_for_what_the_caller_does_alone_before_calls_that_overlap(count):
    """Of this transposed convolution's phases the first is one unit of work and the last many.

    The caller lays out their weights, in the first prediction alone.
    """
    for seed in range(10):
        transposed = L.ConvTranspose2d(2, 3, stride=2, padding=1, dilation=2, output_padding=1, groups=2)
        model = settle(Model(L.Sequential(L.Conv2d(128, 1), transposed), (2, 5, 13), head="regressor"), seed)
        x = images(model, count, seed)
        reference = expected(model, x)
        model.place(get_backend("numba", threads=2))
        assert same(model.predict(x), reference), seed


def _tiny(*layers: L.Layer) -> Model:
    """A network whose products are too small for float32, so that sums round to zeros of either sign."""
    model = settle(Model(L.Sequential(*layers), (3, 10, 12), head="regressor"), 0)
    for parameter in model.parameters:
        if parameter.value.ndim > 1:
            parameter.value *= np.float32(1e-25)
        else:
            parameter.value[::2] = 0
            parameter.value[1::2] *= -0.0
    return model


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [L.Conv2d(17, 3, bias=False)],
        lambda: [L.Conv2d(17, 3)],
        lambda: [L.Conv2d(3, 3, groups=3, bias=False), L.MaxPool2d(2)],
        lambda: [L.Flatten(), L.Dense(40, bias=False)],
        lambda: [L.Conv2d(16, 3, bias=False), L.BatchNorm(activation="relu"), L.MaxPool2d(2)],
        lambda: [L.Residual(L.Conv2d(3, 3, padding=1, bias=False), activation=None)],
        lambda: [L.Residual(L.Conv2d(3, 3, padding=1, bias=False), activation="relu")],
    ],
)
def test_zeros_have_the_sign_that_numpy_gives_them(layers):
    model = _tiny(*layers())
    x = images(model, 17) * np.float32(1e-25)
    reference = expected(model, x)
    model.place(get_backend("numba", threads=2))
    for count in (1, 3, 17):
        assert same(model.predict(x[:count]), reference[:count]), count
    assert is_planned(model)


def test_images_are_cropped_and_normalised_as_ever():
    model = made("ResNet")
    model.image_shape, model.mean, model.std = (3, 15, 17), (0.1, -0.2, 0.3), (0.7, 1.1, 2.0)
    x = images(model, 6)
    assert same(model.place(get_backend("numba")).predict(x), expected(model, x))
    assert is_planned(model)
    model.mean = (0.4, 0.2, 0.3)
    assert same(model.predict(x), expected(model, x))


@pytest.mark.parametrize("kind", ["lenet5", "depthwise separable", "groups", "transposed", "ResNet", "MLP"])
def test_changed_weights_are_seen_by_the_next_call(kind):
    model = made(kind).place(get_backend("numba"))
    for count in (1, 20):
        x = images(model, count)
        model.predict(x)
        model.load_state_dict({name: value * np.float32(0.5) for name, value in model.state_dict().items()})
        assert same(model.predict(x), expected(model, x))
        model.values[: model.values.size // 2] *= 3
        assert same(model.predict(x), expected(model, x))
        for parameter in model.parameters:
            parameter.value.reshape(-1)[-1] -= 1
        assert same(model.predict(x), expected(model, x))
        for statistic in model.running:
            statistic.value[...] += 1
        assert same(model.predict(x), expected(model, x))


def test_training_is_seen_by_the_next_call():
    model = made("VGG")
    trainer = Trainer(Model(copy.deepcopy(model.layer), model.input_shape), backend="numba", progress=False)
    x = images(model, 40)
    before = trainer.predict(x)
    trainer.fit(x, np.arange(40) % 10, 1)
    after = trainer.predict(x)
    assert not same(before, after)
    readable = Trainer(trainer.model, backend="numpy", progress=False)
    assert same(readable.predict(x), after)


def test_changed_settings_are_seen_by_the_next_call():
    model = made("VGG").place(get_backend("numba"))
    x = images(model, 3)
    model.predict(x)
    model.layer.layers[1].eps = 0.5
    assert same(model.predict(x), expected(model, x))
    model.layer.layers[1].activation = None
    assert same(model.predict(x), expected(model, x))
    before = model.predict(x)
    model.layer.layers[0].weight.value = model.layer.layers[0].weight.value * np.float32(2)
    after = model.predict(x)
    assert is_planned(model) and not same(before, after)
    assert same(after, expected(model, x)) and same(after, model.place(get_backend("numba", threads=1)).predict(x))


def test_several_threads_predict_at_once():
    model = made("lenet5").place(get_backend("numba"))
    x = images(model, 64)
    reference = expected(model, x)
    wrong, barrier = [], threading.Barrier(4)

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        barrier.wait()
        for _ in range(150):
            first, count = int(random.integers(50)), int(random.choice([1, 1, 2, 7]))
            if not same(model.predict(x[first : first + count]), reference[first : first + count]):
                wrong.append((seed, first, count))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert model._plans.kept <= plans._KEPT


def test_threads_share_no_room_for_maps(monkeypatch):
    """With the first thread's place taken, as if it were at work, others leave its maps alone."""
    model = made("depthwise separable")
    x = images(model, 16)
    reference = expected(model, x)
    model.place(get_backend("numba", threads=2))
    monkeypatch.setattr(helpers.helpers, "call", lambda count: False)  # without helpers
    model.predict(x)
    (plan,) = waiting(model)
    first = next(slots for kernel, slots, *_ in plan._program._calls if kernel is program.section)
    rooms = [numbers_at(start, size // 4, np.float32) for start, _, _, size in plan._program._rooms]
    assert len(rooms) > 3
    numbers_at(first[program.PLACES], 1, np.int64)[0] = 1
    for room in rooms:
        room[...] = 7
    assert same(model.predict(x), reference)
    assert all((room == 7).all() for room in rooms)


def test_helpers_change_no_bit_in_thousands_of_runs():
    model = made("ResNet").place(get_backend("numba", threads=2))
    x = images(model, 3)
    single, several = model.predict(x[:1]), model.predict(x)
    for _ in range(1500):
        assert same(model.predict(x[:1]), single)
        assert same(model.predict(x), several)


def test_helpers_are_made_anew_in_a_child_process():
    model = made("VGG").place(get_backend("numba", threads=2))
    x = images(model, 2)
    expected = model.predict(x)
    child = os.fork()
    if child == 0:
        os._exit(0 if all(same(model.predict(x), expected) for _ in range(50)) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("held", ["_alone", "_lock"])
def test_a_child_waits_for_no_thread_of_its_parent(held):
    """It waited for ever, if another thread was making a plan or was in a layer of the user's own."""
    model = made("VGG").place(get_backend("numba", threads=2))
    x = images(model, 3)
    expected = model.predict(x)
    model.predict(x[:2])
    taken, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with getattr(model._plans, held):
            taken.set()
            forked.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if same(model.predict(x[:1]), expected[:1]) and same(model.predict(x), expected) else 1)
    forked.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


class OwnLayer(L.Layer):
    """Computes in NumPy, which no plan repeats."""

    def __call__(self, x):
        return x.like(x.data * np.float32(2)), lambda dy: dy.like(dy.data * np.float32(2))


class Declared(OwnLayer):
    """The same, and wrongly says that it can be recorded."""

    recordable = True

    def __call__(self, x):
        return super().__call__(x)


class Halved(L.Layer):
    """Computes through the backend, with a weight made anew each time."""

    recordable = True

    def build(self, shape):
        self.inner = L.Dense(3)
        return self.inner.build(shape)

    def __call__(self, x):
        half = self.inner.weight.value * np.float32(0.5)
        return x.backend.dense(x, half, None), None


@pytest.mark.parametrize("layer", [OwnLayer, Declared, Halved])
def test_layers_of_ones_own_run_as_ever(layer):
    model = settle(Model(L.Sequential(L.Flatten(), layer(), L.Dense(2)), (1, 4, 4), head="regressor"), 0)
    x = images(model, 5)
    reference = expected(model, x)
    model.place(get_backend("numba"))
    assert same(model.predict(x), reference)
    model.values *= 2
    assert same(model.predict(x), expected(model, x))
    assert not is_planned(model)


class Reshaped(L.Layer):
    """Says that it makes 6 values of what has another number."""

    recordable = True

    def build(self, shape):
        return (2, 3)

    def __call__(self, x):
        return x.reshape(2, 3), lambda dy: dy.reshape(7)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_reshape_to_another_number_of_values_is_refused(backend):
    model = Model(L.Sequential(L.Dense(7), Reshaped(), L.Flatten(), L.Dense(2)), (7,)).initialize(0)
    with pytest.raises(ShapeError, match="cannot be reshaped"):
        model.place(get_backend(backend)).predict(np.ones((2, 7), np.float32))


@pytest.mark.parametrize("outputs", [16, 17, 40, 100, 300])
@pytest.mark.parametrize("threads", [1, 2])
def test_one_image_whose_outputs_are_shared_out(outputs, threads):
    """Blocks of 16 outputs, by ones, twos and fours, for each thread as many."""
    model = settle(Model(L.Sequential(L.Dense(outputs, activation="relu"), L.Dense(outputs)), (200,)), 0)
    x = images(model, 1)
    reference = expected(model, x)
    model.place(get_backend("numba", threads=threads))
    for _ in range(3):
        assert same(model.predict(x), reference)
    assert is_planned(model)


SLOPE = 0.25


class Sloped(L.Layer):
    recordable = True

    def __call__(self, x):
        return x.backend.elementwise("leaky_relu", x, SLOPE), None


def test_code_of_ones_own_that_changes_is_predicted_with(monkeypatch):
    """As a notebook changes it: a number that it reads, or the code itself, in the function that the class has."""
    model = settle(Model(L.Sequential(L.Dense(3), Sloped(), L.Dense(2)), (4,), head="regressor"), 0)
    x = images(model, 5)
    model.place(get_backend("numba"))
    first = model.predict(x)
    plan = waiting(model)
    assert same(model.predict(x), first) and len(plan) == 1 and waiting(model) == plan, "one plan, as nothing changed"
    monkeypatch.setitem(globals(), "SLOPE", -3.0)
    steep = expected(model, x)
    assert not same(steep, first) and same(model.predict(x), steep)
    code = (lambda self, x: (x.backend.elementwise("tanh", x), None)).__code__
    monkeypatch.setattr(Sloped.__call__.__wrapped__, "__code__", code)
    bent = expected(model, x)
    assert not same(bent, steep) and same(model.predict(x), bent)
    assert is_planned(model) and len(waiting(model)) == 1


def test_batches_of_many_sizes_make_a_plan_each_once(monkeypatch):
    """Such as the crops that a detector finds in each frame: a plan takes far longer to make than to run."""
    model, backend = made("3x3"), get_backend("numba")
    model.place(backend)
    made_plans, plan = [], backend.plan
    monkeypatch.setattr(
        backend, "plan", lambda graph, count, *rest: made_plans.append(count) or plan(graph, count, *rest)
    )
    x = images(model, 64)
    for _ in range(2):
        for count in range(1, 65):
            model.predict(x[:count])
    assert made_plans == [*range(1, 65)]


def test_plans_are_bounded_and_given_back(monkeypatch):
    monkeypatch.setattr(plans, "_KEPT", 8)
    model = made("3x3").place(get_backend("numba"))
    for count in range(1, 30):
        model.predict(images(model, count))
    assert model._plans.kept == len(waiting(model)) == plans._KEPT
    assert model._plans._bytes == sum(plan.bytes for plan in waiting(model)) <= plans._KEPT_BYTES
    plan = weakref.ref(waiting(model)[0])
    model.place(get_backend("numba", threads=1))
    model.predict(images(model, 1))
    gc.collect()
    assert plan() is None
    assert model._plans.kept == 1
    plan = weakref.ref(waiting(model)[0])
    del model
    gc.collect()
    assert plan() is None


def test_images_of_many_sizes_leave_nothing_behind():
    """What is known of the pixels of a convolution was kept for each size for ever: 12 MB a network at 400x400."""
    layers = L.Conv2d(4, 5, padding=2), L.AvgPool2d(2, padding=1), L.Conv2d(4, 3), L.GlobalAvgPool2d(), L.Dense(2)
    model = Model(L.Sequential(*layers), (1, 60, 100)).initialize(0).place(get_backend("numba"))

    def memory_after(sizes) -> int:
        for size in sizes:
            other = at_size(model, (1, *size))
            other.predict(images(other, 1))
        del other
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    sizes = [(60 + i, 100 - i) for i in range(20)]
    tracemalloc.start()
    try:
        before = memory_after(sizes)
        assert memory_after((w, h) for h, w in sizes) < before + 2**20
    finally:
        tracemalloc.stop()


def test_the_mode_stays_as_it_was():
    model = made("concat").place(get_backend("numba"))
    model.mode.training = True
    model.predict(images(model, 2))
    assert model.mode.training is True
