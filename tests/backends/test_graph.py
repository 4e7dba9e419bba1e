"""`graph=False`: steps are launched again each time, to the same bits."""

import numpy as np
import pytest

import gpucnn.backends
from gpucnn.backends import get_backend
from gpucnn.emulation import get_emulated_backend, why_not
from gpucnn.errors import ConfigurationError
from gpucnn.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, Sequential
from gpucnn.models import Model
from gpucnn.training import Trainer


def _train(backend):
    layer = Sequential(
        Conv2d(2, 3, activation="relu"), MaxPool2d(2), Conv2d(3, 2), BatchNorm(), Dropout(0.5), Flatten(), Dense(3)
    )
    rng = np.random.default_rng(0)
    images, labels = rng.random((35, 1, 8, 8)).astype(np.float32), rng.integers(0, 3, 35)
    trainer = Trainer(Model(layer, (1, 8, 8)), backend=backend, seed=1, shift=1, batch_size=16, progress=False)
    trainer.fit(images, labels, 3, validation=(images, labels))
    return trainer.model.weights_sha256()


def _called(backend):
    """How often a captured step's Python runs in three repetitions after the first."""
    calls = []
    repeat = backend.capture(lambda: calls.append(1))
    for _ in range(3):
        repeat()
    return len(calls)


def test_numba_records_unless_told_not_to():
    recording, launching = get_backend("numba"), get_backend("numba", graph=False)
    assert (recording.graph, launching.graph) == (True, False)
    assert launching is get_backend("numba", graph=False) is not recording
    assert (_called(recording), _called(launching)) == (1, 4)
    assert _train(recording) == _train(launching) == _train(get_backend("numpy", "exact", graph=False))


@pytest.mark.skipif(why_not() is not None, reason=f"emulation: {why_not()}")
def test_the_cuda_backends_graph_can_be_switched_off():
    backend = get_emulated_backend()
    assert backend.graph and _called(backend) == 1
    backend.graph = False
    assert not backend.launcher.graph and _called(backend) == 4


@pytest.mark.parametrize("math", ["fast", "exact"])
def test_numpy_records_nothing(math):
    for graph in (True, False):
        backend = get_backend("numpy", math, graph=graph)
        assert backend.graph is False and _called(backend) == 4


def test_what_is_no_truth_value_is_refused():
    with pytest.raises(ConfigurationError, match="graph is 'no'"):
        get_backend("numpy", graph="no")


def test_every_backend_tells_by_its_class_whether_it_records():
    kinds = {}
    for name, math in gpucnn.backends._IMPLEMENTATIONS:
        if gpucnn.backends._why_not(name, math) is None:
            kinds[name] = bool(type(get_backend(name, math)).graph)
    assert kinds["numba"] and not kinds["numpy"] and kinds.get("cupy", True) and not kinds.get("numba-cuda", False)
