"""Initial values of parameters, drawn on the host so that every backend starts from the same bits.

An initializer is a name from `INITIALIZERS` or a plain number, which fills the parameter. A name sets the scale, from
how many values feed one output (`fan_in`) and how many outputs one value feeds (`fan_out`), and the distribution:
uniform over [-bound, bound), or normal, not truncated.

    he_uniform (or he)           bound = sqrt(6 / fan_in)                He et al. 2015, for ReLU; the default
    glorot_uniform (or glorot)   bound = sqrt(6 / (fan_in + fan_out))    Glorot and Bengio 2010, for tanh and sigmoid
    lecun_uniform (or lecun)     bound = sqrt(3 / fan_in)                LeCun et al. 1998
    he_normal, glorot_normal, lecun_normal    the same with standard deviation = bound / sqrt(3)
"""

import math

import numpy as np

from gpucnn import arithmetic
from gpucnn.arguments import number, shown
from gpucnn.errors import ConfigurationError

# The variance is the first number divided by the function's fan; a uniform bound is sqrt(3 * variance).
_SPREADS = {
    "he": (2, lambda fan_in, fan_out: fan_in),
    "glorot": (2, lambda fan_in, fan_out: fan_in + fan_out),
    "lecun": (1, lambda fan_in, fan_out: fan_in),
}
INITIALIZERS = (*_SPREADS, *(f"{name}_{kind}" for kind in ("uniform", "normal") for name in _SPREADS))


def check_initializer(name: str | float) -> str | float:
    """`name` itself if it is known or a finite number; raises ConfigurationError otherwise."""
    if isinstance(name, str) and name in INITIALIZERS:
        return name
    try:
        return number("initializer", name)
    except ConfigurationError:
        raise ConfigurationError(
            f"initializer is {shown(name)}; use one of {', '.join(INITIALIZERS)}, or a finite number"
        ) from None


def draw(
    initializer: str | float, shape: tuple[int, ...], fan_in: int, fan_out: int, seed: int, ordinal: int
) -> np.ndarray:
    """float32 values of `shape` for parameter number `ordinal` of a model (contract rule 10).

    A uniform value i, row-major, is `(2*u - 1) * f32(bound)` in float32, u being the uniform number of the Philox word
    at (index i, step 0, INIT, layer `ordinal`). 2*u - 1 is exact, so only the last product rounds. A normal one is the
    float64 deviate (arithmetic.normal64) of the same counter times the float64 deviation, rounded once.
    """
    if not isinstance(initializer, str):
        return np.full(shape, initializer, np.float32)
    name, _, kind = str(check_initializer(initializer)).partition("_")
    gain, fan_of = _SPREADS[name]
    fan = fan_of(fan_in, fan_out)
    index = np.arange(math.prod(shape), dtype=np.uint64)
    if kind == "normal":
        values = arithmetic.normal64(seed, index, 0, arithmetic.INIT, ordinal) * math.sqrt(gain / fan)
        return arithmetic.rounded(values).reshape(shape)
    u = arithmetic.uniform(arithmetic.words(seed, index, 0, arithmetic.INIT, ordinal))
    return ((np.float32(2) * u - np.float32(1)) * np.float32(math.sqrt(3 * gain / fan))).reshape(shape)
