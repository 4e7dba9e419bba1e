"""A wrong line is noticed: each change below, made to a module's source, must make a test of its pictures fail."""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from gpucnn import show
from tests.show import test_show_learning, test_show_match, test_show_scores

pytestmark = pytest.mark.slow

CHANGES = [
    ("match", "sums[0, 0].astype(np.float64) / pattern.size", "sums[0, 0].astype(np.float64) / pattern[0].size"),
    ("match", "np.argmax(scores)", "np.argmax(np.abs(scores))"),
    ("match", "p * s - before for p", "p * s for p"),
    ("learning", "(labels, predicted), 1)", "(predicted, labels), 1)"),
    ("learning", "-probabilities[wrong, predicted[wrong]]", "-probabilities[wrong, labels[wrong]]"),
    ("scores", "values / values.sum(axis=0)", "values / values.sum(axis=(1, 2), keepdims=True)"),
    ("scores", "np.argsort(-best[tuple(places.T)]", "np.argsort(best[tuple(places.T)]"),
    ("scores", ">= near).any(axis=1)]", ">= near).all(axis=1)]"),
    ("scores", "int(row) * fit.stride[0]", "int(row)"),
]


def mutant(module: str, old: str, new: str) -> types.ModuleType:
    """The module of gpucnn.show with one piece of its source changed."""
    original = sys.modules[f"gpucnn.show.{module}"]
    source = Path(original.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1
    spec = importlib.util.spec_from_loader(f"mutant_{module}", loader=None)
    changed = importlib.util.module_from_spec(spec)
    sys.modules[changed.__name__] = changed  # dataclasses look their module up
    exec(compile(source.replace(old, new), original.__file__, "exec"), changed.__dict__)
    return changed


def comparisons(module: str) -> None:
    """What must hold, without drawing."""
    if module == "match":
        rng = np.random.default_rng(0)
        image, pattern = rng.integers(-4, 3, (2, 6, 5)), rng.integers(-2, 5, (2, 3, 2))
        best = show.match(image, pattern, stride=2, padding=1, backend="numpy")
        expected = test_show_match.mean_of_products(image, pattern, 2, 1)
        assert best.scores.tolist() == [[float(s) for s in row] for row in expected]
        highest = max(max(row) for row in expected)
        place = next((y, row.index(highest)) for y, row in enumerate(expected) if highest in row)
        assert best.place == place and best.box == (place[0] * 2 - 1, place[1] * 2 - 1, 3, 2)
    elif module == "learning":
        assert show.confusion([0, 0, 1], [1, 1, 1], ["a", "b"]).tolist() == [[0, 2], [0, 1]]
        images, labels, p = test_show_learning.random_predictions()
        wrong = sorted((i for i in range(40) if p[i].argmax() != labels[i]), key=lambda i: -p[i].max())
        listed = show.mistakes(images, labels, p, test_show_learning.NAMES)
        assert [mistake.image for mistake in listed] == wrong[:20]
    else:
        test_show_scores.test_found_places_are_the_likeliest_that_do_not_overlap()
        test_show_scores.test_each_score_is_the_crops("numpy", "exact")


@pytest.mark.parametrize("module", ["match", "learning", "scores"])
def test_the_modules_as_they_are_pass(module):
    comparisons(module)


@pytest.mark.parametrize(("module", "old", "new"), CHANGES, ids=[f"{m}: {new}" for m, _, new in CHANGES])
def test_a_mutant_is_noticed(monkeypatch, module, old, new):
    changed = mutant(module, old, new)
    for name in ("match", "confusion", "mistakes", "scores"):
        if hasattr(changed, name) and getattr(changed, name).__module__ == changed.__name__:
            monkeypatch.setattr(show, name, getattr(changed, name))
    with pytest.raises(AssertionError):
        comparisons(module)
