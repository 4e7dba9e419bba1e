"""What the tests of the CUDA kernels share: the emulation, or the reason why it cannot run, and bit-by-bit
comparison."""

import functools

import numpy as np
import pytest

from gpucnn.emulation import get_emulated_backend, why_not

needs_emulation = pytest.mark.skipif(why_not() is not None, reason=f"emulation: {why_not()}")


@functools.cache
def backend(order="forward", guard: str | None = "end"):
    """An emulated backend; kernels it has compiled stay loaded."""
    return get_emulated_backend(order, guard=guard)


def differing(want: dict, got: dict) -> list[str]:
    """Which results differ in shape, type or any bit, in words."""
    found = []
    for name, expected in want.items():
        value = got[name]
        if expected.shape != value.shape or expected.dtype != value.dtype:
            found.append(f"{name} is {value.dtype}{value.shape}, not {expected.dtype}{expected.shape}")
            continue
        bits = f"u{expected.dtype.itemsize}"
        wrong = np.flatnonzero(np.ascontiguousarray(expected).view(bits) != np.ascontiguousarray(value).view(bits))
        if wrong.size:
            at = np.unravel_index(wrong[0], expected.shape)
            found.append(f"{name}: {wrong.size} of {value.size}, first at {at}: {value[at]!r}, not {expected[at]!r}")
    return found


def with_garbage(batch):
    """`batch` with a large number in every padding lane of the last block: nothing may depend on those."""
    lanes = batch.data.shape[-1]
    blocks = batch.data.shape[0]
    absent = np.arange(blocks * lanes).reshape(blocks, lanes) >= batch.images
    data = batch.backend.launcher.empty(batch.data.shape)
    inner = (1,) * (batch.data.ndim - 2)
    data[...] = np.where(absent.reshape(blocks, *inner, lanes), np.float32(1e18), batch.data)
    return batch.like(data)
