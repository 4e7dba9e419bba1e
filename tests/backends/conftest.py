"""Fixtures of the backends' tests."""

import pytest

from gpucnn.backends.numba import sums, tiles, tiling


@pytest.fixture
def registers(request, monkeypatch):
    """Tiles for a processor with room for as many 16-lane accumulators as the parameter says, whatever this one is."""
    chosen = [f for module in (tiles, tiling) for f in vars(module).values() if hasattr(f, "cache_clear")]
    for function in chosen:
        function.cache_clear()
    for module in (sums, tiles, tiling):
        monkeypatch.setattr(module, "accumulators", lambda: request.param)
    yield request.param
    for function in chosen:
        function.cache_clear()
