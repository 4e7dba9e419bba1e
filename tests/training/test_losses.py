"""The loss as users call it, with labels on the host."""

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.errors import DataError, DTypeError, ShapeError
from gpucnn.losses import softmax_cross_entropy

FAST = get_backend("numpy", "fast")
Z = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def test_against_the_formula():
    labels, totals = np.array([0, 3, 1, 1, 2]), FAST.zeros((2,), np.float64)
    loss, dz = softmax_cross_entropy(FAST.pack(Z), labels, totals)
    p = np.exp(Z.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    losses = -np.log(p[np.arange(5), labels])
    assert np.isclose(FAST.host(loss)[0], losses.mean(), rtol=1e-6)
    assert np.allclose(dz.numpy(), (p - np.eye(4)[labels]) / 5, atol=1e-7)
    assert np.allclose(totals, [losses.sum(), np.sum(Z.argmax(axis=1) == labels)], rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "error"), [([0, 1, 2, 3, 4], DataError), ([0] * 4, ShapeError), (np.zeros(5), DTypeError)]
)
def test_labels_that_do_not_fit_are_refused(labels, error):
    with pytest.raises(error):
        softmax_cross_entropy(FAST.pack(Z), labels)


def test_maps_are_refused():
    with pytest.raises(ShapeError, match="Dense"):
        softmax_cross_entropy(FAST.pack(Z.reshape(5, 1, 2, 2)), [0] * 5)
