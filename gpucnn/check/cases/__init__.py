"""What `check` computes on every backend: each operation with several shapes and kinds of numbers.

One file per family, with the families of `kernels/`. A family is a function from `Numbers` to its cases.
"""

from collections.abc import Iterator

from gpucnn.check.cases import (
    channels,
    conv,
    dense,
    elementwise,
    images,
    inference,
    loss,
    norm,
    optimizers,
    pool,
    resampling,
)
from gpucnn.check.cases.case import KINDS, Case, Numbers, Results

__all__ = ["FAMILIES", "KINDS", "Case", "Numbers", "Results", "all_cases", "small_cases"]

FAMILIES = (
    conv.cases,
    dense.cases,
    pool.cases,
    resampling.cases,
    elementwise.cases,
    norm.cases,
    loss.cases,
    optimizers.cases,
    channels.cases,
    inference.cases,
)


def all_cases() -> Iterator[Case]:
    """All cases; their numbers are random with fixed seeds."""
    for kind in KINDS:
        for family in FAMILIES:
            yield from family(Numbers(kind))
    yield from optimizers.watch()
    yield from images.cases()


def small_cases() -> Iterator[Case]:
    """Those that fit Numba's CUDA simulator; every operation is among them."""
    return (case for case in all_cases() if case.small)
