"""First values of parameters, drawn on the host so that every backend starts from the same bits.

An initialiser is a name from `INITIALIZERS` or a plain number, which fills the parameter. The names are uniform
distributions over [-bound, bound) by how many values feed one output (`fan_in`) and how many outputs one value feeds:

    he       bound = sqrt(6 / fan_in)               He et al. 2015, for ReLU; the default
    glorot   bound = sqrt(6 / (fan_in + fan_out))   Glorot and Bengio 2010, for tanh and sigmoid
    lecun    bound = sqrt(3 / fan_in)               LeCun et al. 1998
"""

import math

import numpy as np

from gpucnn import arithmetic
from gpucnn.errors import ConfigurationError

INITIALIZERS = {
    "he": lambda fan_in, fan_out: math.sqrt(6 / fan_in),
    "glorot": lambda fan_in, fan_out: math.sqrt(6 / (fan_in + fan_out)),
    "lecun": lambda fan_in, fan_out: math.sqrt(3 / fan_in),
}


def check_initializer(name: str | float) -> str | float:
    """`name` itself if it is known or a number; raises ConfigurationError otherwise."""
    if isinstance(name, (int, float)) or name in INITIALIZERS:
        return name
    raise ConfigurationError(f"no initializer {name!r}; use one of {', '.join(INITIALIZERS)}, or a number")


def draw(
    initializer: str | float, shape: tuple[int, ...], fan_in: int, fan_out: int, seed: int, ordinal: int
) -> np.ndarray:
    """float32 values of `shape` for parameter number `ordinal` of a model (contract rule 10).

    Value i, row-major, is `(2*u - 1) * f32(bound)` in float32, u being the uniform number of the Philox word at
    (index i, step 0, INIT, layer `ordinal`). 2*u - 1 is exact, so only the last product rounds.
    """
    if not isinstance(initializer, str):
        return np.full(shape, initializer, np.float32)
    bound = np.float32(INITIALIZERS[check_initializer(initializer)](fan_in, fan_out))
    index = np.arange(math.prod(shape), dtype=np.uint64)
    u = arithmetic.uniform(arithmetic.words(seed, index, 0, arithmetic.INIT, ordinal))
    return ((np.float32(2) * u - np.float32(1)) * bound).reshape(shape)
