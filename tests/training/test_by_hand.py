"""What a loop of one's own gives to losses and optimizers, whose kernels look at no shape."""

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.errors import ConfigurationError, GpucnnError
from gpucnn.losses import Dice, MeanSquared, SoftmaxCrossEntropy
from gpucnn.optimizers import SGD, Optimizer
from tests.training import small
from tests.training.small import data, trainer

BACKENDS = ["numpy", "numba"]
LABELS = np.random.default_rng(0).integers(0, 4, 20)
OUTPUTS = np.random.default_rng(1).standard_normal((20, 4), np.float32)


def _value(loss, targets, backend, totals=None):
    return float(backend.host(loss(backend.pack(OUTPUTS), targets, totals)[0])[0])


@pytest.mark.parametrize("name", BACKENDS)
def test_labels_of_a_step_by_hand_are_looked_at(name):
    backend, loss = get_backend(name), SoftmaxCrossEntropy()
    right = _value(loss, LABELS, backend)
    loaded = backend.load_labels(backend.array(LABELS.astype(np.int32)), backend.array(np.arange(20)), 20)
    assert right == _value(loss, backend.pack_labels(LABELS), backend) == _value(loss, loaded, backend)
    hot = np.eye(4, dtype=np.float32)[LABELS]
    for wrong in (LABELS[:, None], hot, hot.astype(np.int32), backend.pack_labels(LABELS[:3])):
        with pytest.raises(GpucnnError, match=r"20 images need shape \(20,\)"):
            _value(loss, wrong, backend)


@pytest.mark.parametrize("name", BACKENDS)
def test_targets_are_of_the_outputs_shape_and_backend(name):
    backend = get_backend(name)
    other = get_backend("numba" if name == "numpy" else "numpy")
    with pytest.raises(GpucnnError, match="the targets are on another backend"):
        _value(MeanSquared(), other.pack(OUTPUTS), backend)
    with pytest.raises(GpucnnError, match=r"targets have shape \(3, 4\); .* needs \(20, 4\)"):
        _value(MeanSquared(), backend.pack(OUTPUTS[:3]), backend)
    maps = backend.pack(np.zeros((2, 3, 4, 4), np.float32))
    for loss in (Dice(), SoftmaxCrossEntropy()):
        with pytest.raises(GpucnnError, match=r"targets have shape \(2, 3, 4, 4\); .* needs \(2, 1, 4, 4\)"):
            loss(maps, maps)


@pytest.mark.parametrize("name", BACKENDS)
def test_totals_have_room(name):
    """A loss of one's own that hands its one number to a cross-entropy, which adds to several."""
    backend = get_backend(name)
    for loss in (SoftmaxCrossEntropy(), SoftmaxCrossEntropy(0.1)):
        with pytest.raises(GpucnnError, match=r"totals is float64 of shape \(1,\); this loss adds to"):
            _value(loss, LABELS, backend, backend.zeros((1,), np.float64))
    with pytest.raises(GpucnnError, match="totals is float32"):
        _value(MeanSquared(), OUTPUTS, backend, backend.zeros((1,)))


@pytest.mark.parametrize("name", BACKENDS)
def test_an_optimizer_looks_at_what_it_gets(name):
    backend, optimizer = get_backend(name), SGD(0.1)
    weights, gradients = backend.array(np.ones(32, np.float32)), backend.array(np.ones(32, np.float32))
    first = (
        lambda: optimizer.step(weights, gradients),
        lambda: optimizer.set_rates(1.0, 1),
        lambda: optimizer.divide([]),
    )
    for call in first:
        with pytest.raises(GpucnnError, match=r"not placed; call optimizer.place\(backend, model.values.size\)"):
            call()
    with pytest.raises(GpucnnError, match="backend is 'numba' of type str; give a backend"):
        optimizer.place("numba", 32)
    optimizer.place(backend, 32)
    with pytest.raises(GpucnnError, match=r"rates are not set; call optimizer.set_rates\(1.0, step\) first"):
        optimizer.step(weights, gradients)
    with pytest.raises(GpucnnError, match="step is 0; give a positive integer"):
        optimizer.set_rates(1.0, 0)
    optimizer.set_rates(1.0, 1)
    for wrong in ((weights[:16], gradients), (weights, gradients[:16]), (weights, np.ones(32)), ({}, gradients)):
        with pytest.raises(GpucnnError, match=r"placed for float32 of shape \(32,\): give model.values and"):
            optimizer.step(*wrong)
    optimizer.step(weights, gradients)
    assert (backend.host(weights) == np.float32(1) - np.float32(0.1)).all()


class Own(Optimizer):
    def __init__(self, lr=0.05):  # of the base's __init__ nothing
        self.lr = lr

    def update(self, weights, gradients):
        weights -= self.hyper[0] * gradients


class Answers(Own):
    def update(self, weights, gradients):
        return weights - self.hyper[0] * gradients


class Unnamed(Own):
    def update(self, weights, gradients):
        mean = self.state.setdefault("mean", np.zeros_like(weights))
        mean += gradients
        weights -= self.hyper[0] * mean


class Rateless(Own):
    def __init__(self):
        pass


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Answers, "Answers.update returned an ndarray, and nothing uses it; change the weights in place"),
        (Unnamed, r"Unnamed keeps 'mean' in self.state, .* states = \('mean',\), and it is there, zero, from"),
        (Rateless, r"Rateless has no lr; call super\(\).__init__\(lr\)"),
    ],
)
@pytest.mark.parametrize("factors", [None, {"0": 0.5}])
def test_what_an_optimizer_of_ones_own_gets_wrong_is_one_sentence(kind, words, factors):
    with pytest.raises(ConfigurationError, match=words):
        trainer(optimizer=kind(), lr_factors=factors).fit(*data(), 1)


class Counting(Own):
    """A number of its own for each step, as Adam's correction takes one."""

    steps = 0

    def update(self, weights, gradients):
        self.steps += 1
        weights -= self.hyper[0] / np.float32(self.steps) * gradients


def test_an_optimizer_of_ones_own_needs_no_init_and_counts_steps_once():
    plain = trainer(optimizer=Own())
    plain.fit(*data(), 1)
    hashes = set()
    for factors in (None, {"0": 0.5}, {"0": 1.0 + 2**-40}):  # the last divides the weights and changes no rate
        it = trainer(optimizer=Counting(), lr_factors=factors)
        it.fit(*data(), 2)
        assert it.optimizer.steps == 6
        hashes.add(it.model.weights_sha256())
    assert len(hashes) == 2


@pytest.mark.parametrize("name", BACKENDS)
def test_frozen_layers_of_a_loop_by_hand_as_the_recipe_says(name):
    backend, (images, labels) = get_backend(name), data()
    model, optimizer = small.model().initialize(0).place(backend), SGD(0.1, weight_decay=0.1)
    optimizer.place(backend, model.values.size)
    for step in (1, 2):
        outputs, backward = model(images)
        backward(SoftmaxCrossEntropy()(outputs, labels)[1])
        optimizer.set_rates(1.0, step)
        optimizer.step(model.values, model.grads)
        if step == 1:
            before = model.state_dict()
            model.freeze("0")
            model.prepare_training()
            optimizer.divide(model.pieces())
    after = model.state_dict()
    assert [name for name in after if not np.array_equal(after[name], before[name])] == [
        *(name for name in after if not name.startswith(("0.", "1.running")))
    ]
