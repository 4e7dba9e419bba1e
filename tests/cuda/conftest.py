"""What these tests share."""

import pytest

from gpucnn import backends


@pytest.fixture(autouse=True)
def forget_backends():
    """Which backends are usable is determined once per process; these tests pretend to have a GPU."""
    yield
    backends._why_not.cache_clear()
    backends._make.cache_clear()
