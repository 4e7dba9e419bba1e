"""The CUDA launcher's choice of its device in each thread, left out on purpose: test_cupy_launcher.py must notice."""

import pytest

from tests.cuda.emulated import needs_emulation
from tests.mutants import assert_noticed

pytestmark = [needs_emulation, pytest.mark.slow]

MUTANTS = {
    "a call on the thread's own device": (
        "            self._device.use()\n            return method",
        "            return method",
    ),
    "a replay on the thread's own device": ("                self._device.use()\n", ""),
    "time told by events of the thread's own device": (
        "        self._device.use()\n        return elapsed",
        "        return elapsed",
    ),
    "memory given back to the thread's own device": ("    with device:\n", "    if device:\n"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_error_is_noticed(tmp_path, name):
    file = "gpucnn/backends/cuda/cupy_launcher.py"
    assert_noticed(tmp_path, file, *MUTANTS[name], "cuda/test_cupy_launcher.py", "thread or device")
