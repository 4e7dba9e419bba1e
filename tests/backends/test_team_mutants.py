"""Teams with one line changed on purpose: test_team.py must notice."""

import pytest

from tests.mutants import assert_noticed

pytestmark = pytest.mark.slow

TEAM = "kernels/numba/team.py"
MUTANTS = {
    "a unit done twice": (TEAM, "min(first + grain, slot(team, UNITS))", "min(first + grain + 1, slot(team, UNITS))"),
    "a unit never done": (TEAM, "* claims // threads - left) * grain\n", "* claims // threads - left) * grain + 1\n"),
    "the leader's code run by all": (TEAM, "return slot(seat(), MEMBER) == 0", "return slot(seat(), MEMBER) >= 0"),
    "no wait for the round's end": (
        TEAM,
        "            if slot(mine, MEMBER) == 0:\n",
        "            if slot(mine, MEMBER) < 0:\n",
    ),
    "a turn without end": (
        TEAM,
        "        if (slot(mine, MEMBER) and turn_is_over(mine)) or not _claim(mine, team):\n",
        "        if not _claim(mine, team):\n",
    ),
    "a helper that never gives way": (TEAM, "    give_way()\n    begin_turn(mine)\n", "    begin_turn(mine)\n"),
    "array code for all": (
        "kernels/numba/map_loss.py",
        "    if leads():\n        for k in range(2):\n",
        "    if bands > 0:\n        for k in range(2):\n",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_error_is_noticed(tmp_path, name):
    assert_noticed(tmp_path, *MUTANTS[name], "backends/test_team.py")
