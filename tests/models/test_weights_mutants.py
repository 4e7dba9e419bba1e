"""Weights with one line changed on purpose: the tests must notice that changes are missed, or looked for in vain."""

import pytest

from tests.mutants import assert_noticed

pytestmark = pytest.mark.slow

WEIGHTS, PLANS, RECORDING = "gpucnn/models/weights.py", "gpucnn/models/plans.py", "gpucnn/training/recording.py"
MUTANTS = {
    "a look that leaves the seal": (
        WEIGHTS,
        "        self._seal = None\n        return array if",
        "        return array if",
    ),
    "views that do not count": (WEIGHTS, "if _references(part._value) != _FREE", "if False"),
    "flat arrays that do not count": (WEIGHTS, "if _references(self._values) != _FREE or", "if"),
    "a seal after the count": (
        WEIGHTS,
        "            mine = self._seal = object()\n            if self._is_held(parts):\n"
        "                self._seal = None\n",
        "            mine = object()\n            self._seal = None if self._is_held(parts) else mine\n",
    ),
    "plans that hold what they read": (
        WEIGHTS,
        "return self._apart(array) if is_readable",
        "return array if is_readable",
    ),
    "recordings that hold what they write": (WEIGHTS, "self._trusted = get_ident()", "self._trusted = None"),
    "a step that does not hold the weights": (RECORDING, "_held = self.model.values", "_held = None"),
    "a plan that relies on another's seal": (PLANS, "and plan.seal is seal", ""),
    "no plan for weights that stay": (PLANS, "and (seal is self._seal or self._seal is self)", "and False"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_error_is_noticed(tmp_path, name):
    assert_noticed(tmp_path, *MUTANTS[name], "models/test_weights.py")
