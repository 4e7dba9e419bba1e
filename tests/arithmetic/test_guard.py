"""The guard against flush-to-zero, which a shared library may switch on at any time."""

import subprocess
import sys

import numpy as np
import pytest

from gpucnn import arithmetic
from gpucnn.emulation import why_not
from gpucnn.errors import BackendError
from tests.processes import environment

# Trains on values below the smallest normal number; loads the library where `when` says.
TRAINS = """
import ctypes, sys
import numpy as np
import gpucnn
from gpucnn.layers import Dense, Flatten, Sequential

library, when = sys.argv[1:]

class Loads(gpucnn.training.Callback):
    def on_train_batch_end(self, trainer, step):
        if when == "within an epoch" and step == 2:
            ctypes.CDLL(library)

model = gpucnn.Model(Sequential(Flatten(), Dense(2)), (1, 4, 4))
trainer = gpucnn.Trainer(model, batch_size=16, backend="numba", progress=False, run="run", callbacks=[Loads()])
if when == "before training":
    ctypes.CDLL(library)
images = np.random.default_rng(0).random((32, 1, 4, 4), np.float32)
try:
    trainer.fit(images, np.arange(32) % 2, epochs=1)
except gpucnn.errors.BackendError as error:
    print(error)
"""


def test_subnormals_guard(monkeypatch):
    arithmetic.assert_subnormals()
    monkeypatch.setattr(np, "multiply", lambda a, b: np.zeros(1, np.float32))
    with pytest.raises(BackendError, match="-Ofast"):
        arithmetic.assert_subnormals()


@pytest.mark.skipif(why_not() is not None, reason=f"makes such a library: {why_not()}")
@pytest.mark.parametrize("when", ["before training", "within an epoch"])
def test_a_library_that_flushes_is_noticed_whenever_it_is_loaded(tmp_path, when):
    source = "#include <immintrin.h>\n__attribute__((constructor)) void flush() { _mm_setcsr(_mm_getcsr() | 0x8040); }"
    (tmp_path / "fast.cpp").write_text(source)
    subprocess.run(["g++", "-shared", "-fPIC", "fast.cpp", "-o", "fast.so"], cwd=tmp_path, check=True)
    command = [sys.executable, "-c", TRAINS, str(tmp_path / "fast.so"), when]
    run = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert run.stdout.startswith("float32(1e-30) * float32(1e-12) gives 0: ") and run.stdout.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
