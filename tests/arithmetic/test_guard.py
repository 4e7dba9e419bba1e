"""The start-up guard against flush-to-zero."""

import numpy as np
import pytest

from gpucnn import arithmetic


def test_subnormals_guard(monkeypatch):
    arithmetic.assert_subnormals()
    monkeypatch.setattr(np, "multiply", lambda a, b: np.zeros(1, np.float32))
    with pytest.raises(RuntimeError, match="-Ofast"):
        arithmetic.assert_subnormals()
