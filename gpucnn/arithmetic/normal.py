"""Normal deviates by Box and Muller's formula with fixed polynomials: kernels/CONTRACT.md, rule 10."""

import math

import numpy as np

from gpucnn.arithmetic.elementary import cos64, log64
from gpucnn.arithmetic.philox import LOW, draws64


def normal64(seed: int, index, step: int, purpose: int, layer: int = 0) -> np.ndarray:
    """A standard normal deviate for each index (whole numbers below 2**64), float64, at most 6.67 in size.

    With u in (0, 1] from the first output word and v in [0, 2) from the second: sqrt(-2 log u) * cos(pi v) (Box and
    Muller, "A note on the generation of random normal deviates", 1958). The cosine's argument is folded into [0, pi].
    """
    draws = draws64(seed, index, step, purpose, layer)
    u = ((draws & LOW).astype(np.float64) + 1.0) * 2.0**-32
    v = (draws >> np.uint64(32)).astype(np.float64) * 2.0**-31
    return np.sqrt(-2.0 * log64(u)) * cos64(math.pi * np.where(v > 1.0, 2.0 - v, v))
