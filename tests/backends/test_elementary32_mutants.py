"""Approximations of exp and the like with an error on purpose: test_elementary32.py must notice."""

import pytest

from tests.mutants import assert_noticed, parameters

pytestmark = pytest.mark.slow

FILE = "kernels/numba/elementary32.py"
MUTANTS = {
    "rounded without a look": ("if identical(result, narrow(high))", "if True", "bits and gelu"),
    "bounds that are too near": ("SLACK = 2.0**-37", "SLACK = 2.0**-41", "bounds and gelu"),
    "a coefficient of exp": ("0x1.1111114", "0x1.1111154", "bounds and exp"),
    "a coefficient of the normal tail": ("0x1.c2efa134", "0x1.c2efa144", "bounds and gelu"),
    "a slope's bounds relative to itself": (
        "_around_sum(fma64(s, bend, s), fma64(s, absolute64(bend), s))",
        "_around(fma64(s, bend, s))",
        "bounds and silu_slope",
    ),
}
# As another here shows, in other lines of the same files.
AT_LENGTH = {
    "a coefficient of the normal tail",
    "a slope's bounds relative to itself",
}


@pytest.mark.parametrize("name", parameters(MUTANTS, AT_LENGTH))
def test_a_planted_error_is_noticed(tmp_path, name):
    old, new, chosen = MUTANTS[name]
    assert_noticed(tmp_path, FILE, old, new, "backends/test_elementary32.py", chosen)
