"""Ten training steps of two networks through the shipped CUDA sources give the committed weights."""

import json

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.check import HASHES
from gpucnn.check.networks import NETWORKS, train
from gpucnn.layers import Sequential, Tanh
from gpucnn.models import Model
from gpucnn.training import Trainer
from tests.cuda.emulated import backend, needs_emulation


@needs_emulation
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("order", ["forward", 7])
def test_ten_steps_give_the_committed_weights(network, order):
    assert train(network, backend(order)) == json.loads(HASHES.read_text())[network]


@needs_emulation
def test_a_network_without_weights_has_its_figures():
    """The optimizer has nothing to do, the step has an end."""
    x, labels = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32), np.arange(20) % 3

    def losses(b) -> list[float]:
        trainer = Trainer(Model(Sequential(Tanh()), (3,)), backend=b, batch_size=8, progress=False)
        trainer.fit(x, labels, 2)
        return [*trainer.history["loss"], *trainer.evaluate(x, labels)]

    assert losses(backend()) == losses(get_backend("numpy", "exact"))
