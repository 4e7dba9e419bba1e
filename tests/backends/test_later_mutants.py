"""Kernels that arrive while a step runs, with one line changed on purpose: test_later.py must notice."""

import pytest

from gpucnn.backends.numba import ahead
from tests.mutants import assert_noticed

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not ahead.CAN_FORK, reason="needs fork")]

MUTANTS = {
    "a general kernel for pixels side by side": (
        "gpucnn/backends/numba/correlation.py",
        "choices = 0, False, True\n",
        "choices = 0, True, True\n",
    ),
    "recordings kept for ever": (
        "gpucnn/training/recording.py",
        "        if arrivals != self._arrivals:\n",
        "        if arrivals < self._arrivals:\n",
    ),
    "what failed is awaited for ever": (
        "gpucnn/backends/numba/later.py",
        "            self._awaited -= set(every)\n",
        "",
    ),
    "files kept by a process that its parent leaves": (
        "gpucnn/backends/numba/ahead.py",
        "            _close_all_but(left, tell)\n",
        "            pass\n",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_error_is_noticed(tmp_path, name):
    assert_noticed(tmp_path, *MUTANTS[name], "backends/test_later.py")
