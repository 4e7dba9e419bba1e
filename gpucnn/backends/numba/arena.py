"""Memory of a recorded step, used again as soon as nothing in Python refers to it.

A recording keeps the arguments of every kernel, and if it kept their memory as well, each map of a step would have its
own: the gradients alone are then more than the caches hold. But whatever Python can no longer reach when a kernel is
recorded, no later kernel reads; and a recording is repeated in its order. So the recording keeps the addresses, and the
arena the memory, which it hands out again.
"""

import numpy as np

LINE = 64  # bytes of a cache line
# A block may serve for something smaller, down to this fraction of it.
_LEAST_USE = 0.5


class _Memory:
    """Part of a block, for NumPy: the array made of it, and so every view of that, keeps it alive."""

    def __init__(self, arena: "Arena", block: np.ndarray, size: int):
        self.arena, self._block = arena, block
        start = block.ctypes.data
        place = start + -start % LINE, False
        self.__array_interface__ = {"version": 3, "data": place, "shape": (size,), "typestr": "|u1"}

    def __del__(self):
        self.arena.free.append(self._block)


class _Address:
    """An array's place and layout, without its memory."""

    def __init__(self, array: np.ndarray):
        self.__array_interface__ = array.__array_interface__


class Arena:
    """The memory of one recording; lives as long as that does."""

    def __init__(self):
        self.blocks: list[np.ndarray] = []
        self.free: list[np.ndarray] = []  # the one that was freed last is the likeliest in a cache, and the last here

    def memory(self, size: int) -> np.ndarray:
        """`size` bytes that start at a cache line, uninitialized."""
        for i in reversed(range(len(self.free))):
            if _LEAST_USE * (len(self.free[i]) - LINE) <= size <= len(self.free[i]) - LINE:
                return np.asarray(_Memory(self, self.free.pop(i), size))
        self.blocks.append(np.empty(size + LINE, np.uint8))
        return np.asarray(_Memory(self, self.blocks[-1], size))

    def keep(self, argument):
        """What a recording keeps of an argument: of an array in the arena, its address."""
        if isinstance(argument, np.ndarray):
            memory = getattr(argument.base, "base", None)
            if isinstance(memory, _Memory) and memory.arena is self:
                return np.asarray(_Address(argument))
        return argument
