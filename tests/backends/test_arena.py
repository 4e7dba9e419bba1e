"""The memory of a recorded step: used again when nobody can read it, and only then."""

import numpy as np

from gpucnn.backends.numba.arena import LINE, Arena
from gpucnn.backends.numba.backend import NumbaBackend
from tests.backends.guarded import assert_bits, numbers


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_is_used_again_once_no_view_is_left():
    arena = Arena()
    first = arena.memory(1000)
    place, view = address(first), first[:400].view(np.float32).reshape(10, 10)[::2, ::-1]
    assert first.nbytes == 1000 and place % LINE == 0
    del first
    assert len(arena.free) == 0
    del view
    assert len(arena.free) == 1
    small, large = arena.memory(100), arena.memory(1001)  # for which the block is too large, and too small
    assert place not in (address(small), address(large)) and len(arena.blocks) == 3
    again = arena.memory(900)
    assert address(again) == place and len(arena.blocks) == 3


def test_a_recording_keeps_addresses_of_its_own_memory_alone():
    arena, other = Arena(), Arena()
    mine = arena.memory(64).view(np.float32).reshape(4, 4).T[:, ::-1]
    kept = arena.keep(mine)
    assert address(kept) == address(mine) and kept.strides == mine.strides and kept.dtype == mine.dtype
    del mine
    assert len(arena.free) == 1
    for argument in (other.memory(64).view(np.float32), np.zeros(3), 7, (1, 2)):
        assert arena.keep(argument) is argument


def replayed(kind: type) -> tuple[np.ndarray, np.ndarray]:
    """What the fourth repetition of a step makes of other numbers, and what it should; the step has maps that die, one
    that lives, and zeros of its own.
    """
    b = kind(threads=1, dtype=np.dtype(np.float32))
    x, kept = b.pack(numbers("random", 17, 3, 40)), []

    def step():
        nothing = x.like(b.zeros(x.data.shape))
        y = b.add(x, nothing)
        kept[:] = [y]
        del nothing
        for _ in range(5):
            y = b.add(y, x)
        kept.append(b.add(y, kept[0]))

    replay = b.capture(step)
    x.data[...] = b.pack(numbers("cancelling", 17, 3, 40, seed=1)).data
    for _ in range(4):
        replay()
    value = numbers("cancelling", 17, 3, 40, seed=1)
    first = expected = value + np.float32(0)
    for _ in range(5):
        expected = expected + value
    return b.unpack(kept[1]), expected + first


def test_a_repetition_computes_the_same():
    value, expected = replayed(NumbaBackend)
    assert_bits(value, expected)


def test_zeros_in_memory_that_is_used_again_are_noticed():
    class Wrong(NumbaBackend):
        def zeros(self, shape, dtype=None):
            array = self._empty(shape)
            array[...] = 0
            return array

    value, expected = replayed(Wrong)
    assert not np.array_equal(value, expected)
