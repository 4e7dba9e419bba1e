"""One comparison of `check`, and its numbers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpucnn.backends.protocol import Backend

Results = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One call of an operation and of its gradients.

    operation: its name in reports.
    about: shapes and settings, for messages.
    run: computes on a backend; returns the results by name.
    gradients: the names of those results that are gradients; a name that `run` does not return is ignored.
    kind: of the numbers, one of KINDS, or "" if the case draws its own.
    small: needs a few thousand threads at most, which Numba's CUDA simulator can run.
    """

    operation: str
    about: str
    run: Callable[[Backend], Results]
    gradients: tuple[str, ...] = ()
    kind: str = ""
    small: bool = False

    def __str__(self) -> str:
        return f"{self.operation} ({', '.join(part for part in (self.kind, self.about) if part)})"


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def _subnormal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Magnitudes around 2**-75, whose products are subnormal, and some subnormal numbers."""
    exponent = np.where(rng.random(shape) < 0.2, -135, rng.integers(-80, -70, shape))
    return np.ldexp(rng.standard_normal(shape), exponent).astype(np.float32)


def _cancelling(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Few magnitudes with random signs, so that sums cancel to their last bits, and zeros of both signs."""
    magnitudes = np.array([1, 1 + 2**-23, 1 - 2**-24, 1 + 2**-12, 2**-24, 3 * 2**-25, 0], np.float32)
    return rng.choice(magnitudes, shape) * rng.choice(np.array([-1, 1], np.float32), shape)


KINDS = {"random": _random, "subnormal": _subnormal, "cancelling": _cancelling}

# The kinds of numbers with which the simulator runs a configuration; few of them with those that show order and
# rounding. It computes with NumPy's scalars, which flush nothing to zero, so subnormal numbers would show nothing.
NEVER, RANDOM, ORDER = (), ("random",), ("random", "cancelling")


@dataclass(frozen=True)
class Numbers:
    """Draws float32 numbers of one of KINDS; the same shape and seed give the same numbers."""

    kind: str

    def __call__(self, *shape: int, seed: int = 0) -> np.ndarray:
        return KINDS[self.kind](np.random.default_rng([seed, *shape]), shape)


def describe(n: int, c: int, size: tuple[int, ...]) -> str:
    """A batch's size as text."""
    return f"{n} images of {c}x{'x'.join(map(str, size))}"
