"""Fixtures of the backends' tests."""

import pytest

from gpucnn.backends.numba import tiles


@pytest.fixture
def registers(request, monkeypatch):
    """Tiles for a processor with room for as many 16-lane accumulators as the parameter says, whatever this one is."""
    chosen = [function for function in vars(tiles).values() if hasattr(function, "cache_clear")]
    for function in chosen:
        function.cache_clear()
    monkeypatch.setattr(tiles, "accumulators", lambda: request.param)
    yield request.param
    for function in chosen:
        function.cache_clear()
