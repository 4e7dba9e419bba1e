"""What a loop of one's own gives to losses and optimizers, whose kernels look at no shape."""

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.errors import GpucnnError
from gpucnn.losses import Dice, MeanSquared, SoftmaxCrossEntropy

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
