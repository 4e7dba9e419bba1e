"""Kernels of plans with one line changed on purpose: test_plans.py must notice."""

import pytest

from tests.mutants import assert_noticed

pytestmark = pytest.mark.slow

MAPS = "kernels/numba/channel_maps.py"
MUTANTS = {
    "borders taken for pixels": (
        MAPS,
        "return slot(a, number + 4) == row and slot(a, number + 3) == slot(a, HEIGHT) * row",
        "return True",
    ),
    "narrow rows without their last pixel": (
        "kernels/numba/channel_images.py",
        "line, width, vector_at",
        "line, width - 1, vector_at",
    ),
    "a tile's sums with the sign of zeros": (
        "kernels/numba/channel_tiles.py",
        'icmp_signed("==", end[RELU], _i64(0))',
        'icmp_signed("==", end[RELU], _i64(7))',
    ),
    "flattened maps that are not seen through": (
        "gpucnn/backends/numba/lowering.py",
        "node.inputs[0] if self._is_free(node) else node",
        "node",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_error_is_noticed(tmp_path, name):
    assert_noticed(tmp_path, *MUTANTS[name], "inference/test_plans.py", "map or border or zeros")


PLANS = "gpucnn/models/plans.py"
OWN = {
    "lanes without an image hold zeros": (PLANS, "if rest := len(rows) % backend.lanes:", "if rest := 0:", "lanes"),
    "settings of own layers make plans void": (
        PLANS,
        "filter(is_recordable, model.layer.walk())",
        "model.layer.walk()",
        "keeps_the_plans",
    ),
    "values that are no numbers pass": (PLANS, "None if number else images", "None", "no_numbers"),
    "own layers see what fits a plan": (
        PLANS,
        "self._planned(model, rows, len(part),",
        "self._planned(model, rows[:8], 8,",
        "as_many",
    ),
    "images are prepared twice": (PLANS, "            if first:\n", "            if True:\n", "prepared"),
}


@pytest.mark.parametrize("name", OWN)
def test_a_planted_error_between_own_layers_is_noticed(tmp_path, name):
    *planted, tests = OWN[name]
    assert_noticed(tmp_path, *planted, "inference/test_stages.py", tests)


def test_a_room_that_another_thread_has_is_noticed(tmp_path):
    line = "while not exchange(slot(a, PLACES) + number * slot(a, PLACE_SIZE), 0, 1):"
    planted = "kernels/numba/program.py", line, "while False:"
    assert_noticed(tmp_path, *planted, "inference/test_plans.py", "share_no_room")


def test_helpers_that_forget_to_wait_are_noticed(tmp_path):
    planted = "kernels/numba/program.py", "before = i  # what", "before = 0 if slot(note, CALLERS) else i  # what"
    assert_noticed(tmp_path, *planted, "inference/test_plans.py", "helpers_wait")


def test_rooms_for_maps_that_a_dense_layer_reads_are_noticed(tmp_path):
    line = "return all(self._sections[id(reader)] == self._sections[id(node)] for"
    planted = "gpucnn/backends/numba/lowering.py", line, "return not self._is_apart(node) and all(True for"
    assert_noticed(tmp_path, *planted, "inference/test_plans.py", "large and flattened")
