"""gpucnn.functional in float64, as derivatives and other people's results are compared: numpy's fast math unless a test names
another."""

from functools import partial

import gpucnn.functional


class _Fast:
    def __getattr__(self, name: str):
        return partial(getattr(gpucnn.functional, name), **{"backend": "numpy", "math": "fast"})


functional = _Fast()
