"""Ten training steps of two networks through the shipped CUDA sources give the committed weights."""

import json

import pytest

from gpucnn.check import HASHES
from gpucnn.check.networks import NETWORKS, train
from tests.cuda.emulated import backend, needs_emulation


@needs_emulation
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("order", ["forward", 7])
def test_ten_steps_give_the_committed_weights(network, order):
    assert train(network, backend(order)) == json.loads(HASHES.read_text())[network]
