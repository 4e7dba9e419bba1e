"""Reading images and writing results with one line changed on purpose: test_channel_images.py must notice."""

import pytest

from tests.mutants import assert_noticed, parameters

pytestmark = pytest.mark.slow

IMAGES, MAPS = "kernels/numba/channel_images.py", "kernels/numba/channel_maps.py"
MUTANTS = {
    "the end of a row is not looked at": (
        IMAGES,
        "checks = looked_at(v, checks)\n                if prepares",
        "checks = looked_at(v, checks) if w == 0 else checks\n                if prepares",
        "finite",
    ),
    "the first block's mean for all": (IMAGES, "slot(a, MEAN) + first * 4", "slot(a, MEAN)", "prepared"),
    "flat values without their last block": (
        IMAGES,
        "for c in range(0, slot(a, CHANNELS), LANES):\n        at",
        "for c in range(0, slot(a, CHANNELS) - LANES, LANES):\n        at",
        "every_shape",
    ),
    "a row that goes on in the border": (IMAGES, "whole and lies_in_one_row(a, Y)", "whole", "every_shape"),
    "results written past the last channel": (
        IMAGES,
        "put_floats(flat + k * line, width,",
        "put_floats(flat + k * line, LANES,",
        "own_memory",
    ),
    "the last pixels of a row left out": (IMAGES, "width - LANES))", "width - LANES) - 1)", "every_shape"),
    "one deviation for all blocks": (
        MAPS,
        "vector_at(slot(a, OWN + 1) + at)),",
        "vector_at(slot(a, OWN + 1))),",
        "every",
    ),
}
# As another here shows, in other lines of the same files.
AT_LENGTH = {
    "flat values without their last block",
    "the first block's mean for all",
    "the last pixels of a row left out",
}


@pytest.mark.parametrize("name", parameters(MUTANTS, AT_LENGTH))
def test_a_planted_error_is_noticed(tmp_path, name):
    *planted, chosen = MUTANTS[name]
    assert_noticed(tmp_path, *planted, "inference/test_channel_images.py", chosen)
