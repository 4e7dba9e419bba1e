"""Group norm and softmax of plans with one line changed on purpose: test_channel_maps.py must notice."""

import pytest

from tests.mutants import assert_noticed, parameters

pytestmark = pytest.mark.slow

NORM, MAPS = "kernels/numba/channel_group_norm.py", "kernels/numba/channel_maps.py"
MUTANTS = {
    "bands that begin with each channel": (NORM, "(BAND - c % channels * positions % BAND) % BAND", "0", "norm"),
    "a band without what it has in the next channel": (NORM, "if by_band and filled == 0:", "if by_band:", "norm"),
    "squares around zero": (NORM, "d = subtract64(widen(vector_at(i)), centre)", "d = widen(vector_at(i))", "norm"),
    "sixteen images' bands as one": (NORM, "if c % BAND == BAND - 1:", "if False:", "norm"),
    "channels copied over the end of a block": (MAPS, "LANES - max((from_ + c)", "LANES - min((from_ + c)", "concat"),
    "lanes that repeat the last image but one": (
        MAPS,
        "source + (count - 1) * x_step",
        "source + (count - 2) * x_step",
        "softmax",
    ),
    "softmax whose last channel is added twice": (
        MAPS,
        "total = add(total, e)",
        "total = add(add(total, e), e)",
        "softmax",
    ),
    "sixteen images' softmax as a part of four": (
        "gpucnn/backends/numba/lowering.py",
        "by_image=not self._is_apart(node)",
        'by_image=node.operation != "dense"',
        "together",
    ),
}
# As another here shows, in other lines of the same files.
AT_LENGTH = {
    "a band without what it has in the next channel",
    "sixteen images' bands as one",
    "channels copied over the end of a block",
}


@pytest.mark.parametrize("name", parameters(MUTANTS, AT_LENGTH))
def test_a_planted_error_is_noticed(tmp_path, name):
    *planted, chosen = MUTANTS[name]
    assert_noticed(tmp_path, *planted, "inference/test_channel_maps.py", chosen)
