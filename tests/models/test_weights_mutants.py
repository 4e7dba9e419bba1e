"""Weights with one line changed on purpose: the tests must notice that changes are missed, or looked for in vain."""

import pytest

from tests.mutants import assert_noticed, parameters

pytestmark = pytest.mark.slow

WEIGHTS, PLANS, RECORDING = "gpucnn/models/weights.py", "gpucnn/models/plans.py", "gpucnn/training/recording.py"
MUTANTS = {
    "a look that leaves the seal": (
        WEIGHTS,
        "        self._seal = None\n        return array if",
        "        return array if",
    ),
    "arrays that do not count": (WEIGHTS, "if max(counts) == _FREE and not", "if not"),
    "what arrays refer to does not count": (WEIGHTS, "chain(arrays, map(_base, arrays))", "arrays"),
    "weak references do not count": (WEIGHTS, " and not any(map(getweakrefcount, arrays))", ""),
    "what somebody had is taken for held": (WEIGHTS, "and self._is_taken(held)", ""),
    "arrays of each model's own": (WEIGHTS, "if place not in self._arrays:", "if True:"),
    "a seal after the count": (
        WEIGHTS,
        "seal = self._seal = _Seal()\n            if self._is_held():\n                self._seal = None\n",
        "seal = _Seal()\n            self._seal = None if self._is_held() else seal\n"
        "            if self._seal is None:\n                pass\n",
    ),
    "a seal that holds before the count": (WEIGHTS, "seal.is_sure and ", ""),
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
# As another here shows, in other lines of the same files.
AT_LENGTH = {
    "a look that leaves the seal",
    "arrays of each model's own",
    "plans that hold what they read",
    "a seal after the count",
}


@pytest.mark.parametrize("name", parameters(MUTANTS, AT_LENGTH))
def test_a_planted_error_is_noticed(tmp_path, name):
    assert_noticed(tmp_path, *MUTANTS[name], "models/test_weights.py")
