"""A numba backend under guard, and its test data, for the tests of its kernels.

Its fresh buffers hold NaN and lie between canaries, so that reading what nobody wrote spoils a result and writing
outside is noticed; the lanes that only fill up the last block hold large garbage, so that a sum that forgets to mask
them is wrong.
"""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba.backend import NumbaBackend
from gpucnn.check.cases import KINDS as CHECK_KINDS

# 0xFFA5A5A5 is a NaN as float32, and twice as float64. A canary spans more than the widest tile's reach: 4 KiB.
CANARY = np.frombuffer(b"\xa5\xa5\xa5\xff" * 1024, np.uint8)


def guarded(base: type = NumbaBackend) -> type:
    """A subclass of a numba backend with guarded memory and garbage after the last image."""

    class Guarded(base):
        def __init__(self, threads: int = 1):
            super().__init__(threads=threads, dtype=np.dtype(np.float32))
            self.guards: list[tuple[np.ndarray, np.ndarray]] = []

        def _empty(self, shape, dtype=np.float32):
            dtype = np.dtype(dtype)
            size, edge = math.prod(shape) * dtype.itemsize, len(CANARY)
            memory = np.empty(size + 2 * edge + 64, np.uint8)
            start = -(memory.ctypes.data + edge) % 64 + edge
            before, after = memory[start - edge : start], memory[start + size : start + size + edge]
            before[:], after[:] = CANARY, CANARY
            memory[start : start + size] = 0xFF  # NaN as float32 and float64, -1 as a whole number
            self.guards += [before, after]
            return memory[start : start + size].view(dtype).reshape(shape)

        def verify(self) -> None:
            """AssertionError if anything was written outside a buffer since the last call."""
            hurt = [i for i, canary in enumerate(self.guards) if not np.array_equal(canary, CANARY)]
            self.guards.clear()
            assert not hurt, f"written {'after' if hurt[0] % 2 else 'before'} buffer {hurt[0] // 2}"

        def pack(self, images):
            blocks, lanes = -(-len(images) // self.lanes), self.lanes
            full = garbage((blocks * lanes, *images.shape[1:]))
            full[: len(images)] = images
            data = self._empty((blocks, *images.shape[1:], lanes))
            data[...] = np.moveaxis(full.reshape(blocks, lanes, *images.shape[1:]), 1, -1)
            return Batch(data, len(images), self)

        def unpack(self, batch):
            rows = np.moveaxis(batch.data, -1, 1).reshape(-1, *batch.data.shape[1:-1])
            return np.array(rows[: batch.images], order="C")

    return Guarded


def garbage(shape: tuple[int, ...]) -> np.ndarray:
    """Finite, large, of both signs."""
    rng = np.random.default_rng(99)
    return (rng.choice([-1, 1], shape) * rng.uniform(1e20, 3e38, shape)).astype(np.float32)


def _annihilating(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers many powers apart, each channel's (axis 1) with their negatives: what is left of its sum is its rounding.

    Even a sum in float64 rounds at each step, and the order of its additions shows.
    """
    channels = shape[1] if len(shape) > 1 else 1
    count = math.prod(shape) // channels
    half = rng.standard_normal((channels, count // 2)) * 2.0 ** rng.integers(-30, 30, (channels, count // 2))
    values = np.concatenate([half, -half, rng.standard_normal((channels, count % 2))], 1)
    values = rng.permuted(values, axis=1).astype(np.float32)
    return np.moveaxis(values.reshape(channels, shape[0], *shape[2:]), 0, 1).reshape(shape)


def _vanishing(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Products too small for any float32, ones among them, and zeros of both signs: sums that end in -0 or a tie."""
    magnitudes = np.array([0, 2.0**-149, 2.0**-100, 2.0**-76, 1], np.float32)
    return rng.choice(magnitudes, shape) * rng.choice(np.array([-1, 1], np.float32), shape)


KINDS = {**CHECK_KINDS, "annihilating": _annihilating, "vanishing": _vanishing}


def numbers(kind: str, *shape: int, seed: int = 0) -> np.ndarray:
    """float32 numbers of a kind, drawn from a fixed seed."""
    return KINDS[kind](np.random.default_rng([seed, *shape]), shape)


def assert_bits(actual, expected, what: str = "") -> None:
    """Same shape, same type, same bits; the message names the first difference."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, (actual.dtype, actual.shape, what)
    kind = f"u{actual.dtype.itemsize}"
    different = np.argwhere(np.ascontiguousarray(actual).view(kind) != np.ascontiguousarray(expected).view(kind))
    if len(different):
        index = tuple(map(int, different[0])) if actual.ndim else ()
        raise AssertionError(
            f"{what}: {len(different)} of {actual.size} values differ, first at {index}: "
            f"{actual[index]!r}, expected {expected[index]!r}"
        )
