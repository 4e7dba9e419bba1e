"""The arithmetic contract (kernels/CONTRACT.md) in NumPy: slow and plain, the reference for every backend."""

import numpy as np

from gpucnn.arithmetic.elementary import (
    cos64,
    exp,
    exp64,
    gelu,
    gelu_slope,
    log,
    log64,
    sigmoid,
    sigmoid64,
    silu,
    silu_slope,
    tanh,
    tanh64,
)
from gpucnn.arithmetic.fma import Doubt, chain, doubt, fma
from gpucnn.arithmetic.normal import normal64
from gpucnn.arithmetic.philox import (
    CROP,
    CUTOUT,
    DROPOUT,
    ERASE,
    FLIP,
    INIT,
    MIX,
    SHIFT,
    SHUFFLE,
    SPLIT,
    draws64,
    permutation,
    philox4x32,
    uniform,
    words,
)
from gpucnn.arithmetic.sums import BAND, BLOCK, bands, image_sums64, in_bands, over_batch, rounded, total64, tree
from gpucnn.errors import BackendError

__all__ = [
    "BAND",
    "BLOCK",
    "CROP",
    "CUTOUT",
    "DROPOUT",
    "ERASE",
    "FLIP",
    "INIT",
    "MIX",
    "SHIFT",
    "SHUFFLE",
    "SPLIT",
    "Doubt",
    "assert_subnormals",
    "bands",
    "chain",
    "cos64",
    "doubt",
    "draws64",
    "exp",
    "exp64",
    "fma",
    "gelu",
    "gelu_slope",
    "image_sums64",
    "in_bands",
    "log",
    "log64",
    "normal64",
    "over_batch",
    "permutation",
    "philox4x32",
    "rounded",
    "sigmoid",
    "sigmoid64",
    "silu",
    "silu_slope",
    "tanh",
    "tanh64",
    "total64",
    "tree",
    "uniform",
    "words",
]


def assert_subnormals() -> None:
    """BackendError if this thread flushes subnormal numbers to zero, which changes results (rule 1)."""
    # Array operands, so that neither Python nor NumPy multiplies before the program runs.
    small, smaller = np.full(1, 1e-30, np.float32), np.full(1, 1e-12, np.float32)
    with np.errstate(under="ignore"):
        product = np.multiply(small, smaller)[0]
        subnormal = np.multiply(product, np.ones(1, np.float32))[0]
    if product == 0 or subnormal == 0:
        raise BackendError(
            "float32(1e-30) * float32(1e-12) gives 0: something in this process has switched on flush-to-zero, most "
            "likely a shared library built with -Ofast or -ffast-math, with which there are no exact results; do not "
            "load it beside gpucnn, or rebuild it without that option"
        )
