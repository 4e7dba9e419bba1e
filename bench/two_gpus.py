"""Two GPUs train to the bits of one: NCCL gathers, gpucnn's kernels add. This script has not run yet, on any GPU.

    mpirun -n 2 python bench/two_gpus.py

One process a GPU; needs CuPy with NCCL and mpi4py. Prints the weights' hashes and the milliseconds of a step for each
of the networks, with the numba backend in one process as the reference, and ends with exit code 1 where they differ.
"""

import sys
import time
from typing import Any

import numpy as np

from gpucnn import Trainer
from gpucnn.backends import get_backend
from gpucnn.models import build_model
from gpucnn.optimizers import SGD

NETWORKS = ("lenet5", "vgg_small", "resnet20")
BATCH, STEPS = 256, 8


def train(network: str, backend: str, processes: int | None) -> tuple[str, float, bool]:
    """(SHA-256 of the weights, seconds of all steps, whether this is the first process)."""
    random = np.random.default_rng(0)
    images = random.random((BATCH * STEPS, 1, 32, 32), np.float32)
    labels = random.integers(0, 10, len(images))
    model = build_model(network, (1, 32, 32), 10)
    settings: dict[str, Any] = {
        "optimizer": SGD(0.01),
        "batch_size": BATCH,
        "shift": 2,
        "progress": False,
        "processes": processes,
    }
    trainer = Trainer(model, backend=get_backend(backend), **settings)
    started = time.perf_counter()
    trainer.fit(images, labels, 2)
    return model.weights_sha256(), time.perf_counter() - started, trainer.processes.first


def main() -> None:
    """See the top of this file."""
    differ = False
    for network in NETWORKS:
        found, seconds, first = train(network, "cupy", None)
        if not first:
            continue
        expected, _, _ = train(network, "numba", 1)
        differ |= found != expected
        print(f"{network}: {found[:16]} {'as on the CPU' if found == expected else 'DIFFERS from ' + expected[:16]}")
        print(f"{network}: {1e3 * seconds / (2 * STEPS):.2f} ms a step of {BATCH} images, compilation included")
    sys.exit(int(differ))


if __name__ == "__main__":
    main()
