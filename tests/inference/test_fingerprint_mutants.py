"""Fingerprints of weights with one line changed on purpose: the tests must notice."""

import pytest

from tests.mutants import assert_noticed

pytestmark = pytest.mark.slow

FINGERPRINT, CONV = "kernels/numba/fingerprint.py", "kernels/numba/channel_conv.py"
MUTANTS = {
    "signs that cancel": (
        FINGERPRINT,
        "_TURNS = (0x9E3779B1, 0x85EBCA77), (15, 13)",
        "_TURNS = (0x9E3779B1, 0x85EBCA77), (0, 0)",
    ),
    "the last words unseen": (
        FINGERPRINT,
        "builder.sub(size, done), _i64(4)))\n",
        "builder.sub(size, done), _i64(8)))\n",
    ),
    "the last output unseen": (
        CONV,
        "slot(a, SOURCE_OUTPUTS) - first * LANES) * row",
        "slot(a, SOURCE_OUTPUTS) - 1 - first * LANES) * row",
    ),
    "only the last words seen": (
        FINGERPRINT,
        "sums = builder.xor(hashes[0], words), builder.add(hashes[1], words)",
        "sums = words, words",
    ),
    "own rows alone": ("gpucnn/backends/numba/sums.py", ", conv.WHOLE: w.nbytes - first * all_taps * 4}", "}"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_error_is_noticed(tmp_path, name):
    assert_noticed(tmp_path, *MUTANTS[name], "inference/test_fingerprint.py")
