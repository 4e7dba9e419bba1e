"""Weights are packed anew when they have changed, and only then (kernels/numba/fingerprint.py)."""

import numpy as np
import pytest
from gpucnn.kernels.numba.fingerprint import FINGERPRINT, is_new
from numba import njit

from gpucnn.backends import get_backend
from gpucnn.backends.numba.channel_blocks import address, aligned
from tests.inference.kinds import made
from tests.inference.test_plans import expected, images, same


@njit
def look(first, size, known):
    return is_new(first, size, known)


class Watched:
    def __init__(self, values: np.ndarray):
        self.values, self._known = values, aligned(FINGERPRINT // 4)

    def changed(self) -> bool:
        return look(address(self.values), self.values.nbytes, address(self._known))


def numbers(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal(count).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 63, 64, 65, 100, 150])
def test_every_changed_word_is_noticed(count):
    watched = Watched(numbers(count))
    assert watched.changed() and not watched.changed()
    for place in range(count):
        for bit in (0, 22, 31):
            watched.values.view(np.uint32)[place] ^= np.uint32(1 << bit)
            assert watched.changed() and not watched.changed()


def test_what_is_beside_does_not_matter():
    memory = numbers(100)
    watched = Watched(memory[10:81])
    assert watched.changed()
    memory[9] = memory[81] = 0
    assert not watched.changed()


@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 16), (0, 64), (3, 259), (70, 134), (290, 299)])
def test_swapped_words_are_noticed(first, second):
    watched = Watched(numbers(300))
    watched.changed()
    watched.values[[first, second]] = watched.values[[second, first]]
    assert watched.changed()


CHANGES = {
    "negated": lambda x: -x,
    "doubled": lambda x: 2 * x,
    "reversed": lambda x: x[::-1].copy(),
    "turned by a vector": lambda x: np.roll(x, 16),
    "turned by four": lambda x: np.roll(x, 64),
    "zero": lambda x: 0 * np.abs(x),
    "two signs of one lane": lambda x: np.where(np.isin(np.arange(x.size), (5, 69)), -x, x),
    "two signs of another": lambda x: np.where(np.isin(np.arange(x.size), (1037, 1037 + 256)), -x, x),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_many_words_are_noticed(change):
    watched = Watched(numbers(1500))
    watched.changed()
    watched.values[...] = CHANGES[change](watched.values)
    assert watched.changed() and not watched.changed()


def test_no_two_of_many_changes_look_alike():
    """Words of a few values each, as weights may be: all fingerprints differ."""
    random, found = np.random.default_rng(0), set()
    values, known = np.zeros(40, np.float32), aligned(FINGERPRINT // 4)
    for _ in range(20_000):
        values[random.integers(40, size=2)] = random.choice(np.array([-1, -0.0, 0, 0.5, 1, 2], np.float32), 2)
        look(address(values), values.nbytes, address(known))
        found.add((values.tobytes(), known.tobytes()))
    assert len({content for content, _ in found}) == len({print_ for _, print_ in found}) == len(found)


_LONG = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("3x3", "depthwise separable", "MLP")]


@pytest.mark.parametrize("kind", ["groups", "transposed", "1D", *_LONG])
def test_one_changed_weight_is_seen_by_the_next_call(kind):
    model, random = made(kind).place(get_backend("numba", threads=2)), np.random.default_rng(0)
    for count in (1, 9):
        x = images(model, count)
        model.predict(x)
        for parameter in model.parameters:
            flat = parameter.value.reshape(-1)
            for place in {0, flat.size - 1, *random.integers(flat.size, size=4)}:
                flat[place] += np.float32(0.75)
                assert same(model.predict(x), expected(model, x)), (parameter.value.shape, place)
