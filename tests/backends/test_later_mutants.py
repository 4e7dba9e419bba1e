"""Compiling by other processes, with one line changed on purpose: test_later.py or test_ahead.py must notice."""

import pytest

from gpucnn.backends.numba import ahead
from tests.mutants import assert_noticed, parameters

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not ahead.CAN_FORK, reason="needs fork")]

LATER = {
    "a general kernel for pixels side by side": (
        "gpucnn/backends/numba/correlation.py",
        "(0, False, True, False)",
        "(0, True, True, False)",
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
    "no look once all have arrived": (
        "gpucnn/backends/numba/later.py",
        "if self._jobs and monotonic()",
        "if self._awaited and monotonic()",
    ),
    "files kept by a process that its parent leaves": (
        "gpucnn/backends/numba/ahead.py",
        "            _close_all_but(left, tell)\n",
        "            pass\n",
    ),
}
AHEAD = {
    "a refused process ends the training": (
        "gpucnn/backends/numba/ahead.py",
        "    except OSError as error:\n",
        "    except ChildProcessError as error:\n",
    ),
    "too many open files end the training": (
        "gpucnn/backends/numba/later.py",
        "                if not isinstance(error, OSError):\n                    raise\n",
        "                raise\n",
    ),
    "a refusal told each time": (
        "gpucnn/backends/numba/ahead.py",
        "@functools.cache  # once\n",
        "@functools.lru_cache(0)\n",
    ),
    "an interrupted start leaves a pipe": ("gpucnn/backends/numba/ahead.py", "        os.close(done)\n", ""),
    "an interrupted start leaves kernels awaited": (
        "gpucnn/backends/numba/later.py",
        "                self._awaited -= set(self._jobs)\n",
        "",
    ),
}


# Each waits for what never comes: half a minute.
AT_LENGTH = {
    "recordings kept for ever",
    "no look once all have arrived",
    "files kept by a process that its parent leaves",
}


@pytest.mark.parametrize("name", parameters(LATER, AT_LENGTH))
def test_a_planted_error_is_noticed(tmp_path, name):
    assert_noticed(tmp_path, *LATER[name], "backends/test_later.py")


@pytest.mark.parametrize("name", AHEAD)
def test_a_planted_error_of_starting_processes_is_noticed(tmp_path, name):
    assert_noticed(tmp_path, *AHEAD[name], "backends/test_ahead.py")
