"""Numba-CUDA, in the simulator: frozen and shared layers, averages, mixing and explanations at toy size."""

import subprocess
import sys

import pytest

from tests.processes import environment

pytestmark = pytest.mark.slow

PROGRAM = """
import numpy as np
import gpucnn
from gpucnn import explain
from gpucnn.layers import Conv2d, Dense, Flatten, Sequential
from gpucnn.optimizers import SGD

rng = np.random.default_rng(0)
x, y = rng.random((5, 1, 4, 4), dtype=np.float32), rng.integers(0, 2, 5)
results = []
for name in ("numpy", "numba-cuda"):
    cell = Conv2d(1, 3, padding=1, activation="relu")
    model = gpucnn.Model(Sequential(Conv2d(1, 1), cell, cell, Flatten(), Dense(2)), (1, 4, 4)).initialize(1)
    model.freeze("0")
    trainer = gpucnn.Trainer(
        model, backend=name, math="exact", optimizer=SGD(0.1), ema=0.5, mixup=0.5, erase=0.9,
        lr_factors={"1": 0.5}, progress=False,
    )
    for _ in range(2):
        trainer.train_step(x, y)
    found = [model.weights_sha256(), explain.grad_cam(model, x[:2], 1, layer="0").tobytes()]
    trainer.restore_average()
    results.append([*found, model.weights_sha256(), model.predict(x[:2], flips=True).tobytes()])
assert results[0] == results[1], results
"""


def test_the_bits_are_the_specifications(tmp_path):
    command = [sys.executable, "-c", PROGRAM]
    settings = environment(NUMBA_ENABLE_CUDASIM="1")
    run = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
