"""gpucnn.functional in float64, to compare with derivatives and other libraries: on numpy's fast math, unless a test
names another backend."""

import gpucnn.functional


class _Fast:
    def __getattr__(self, name: str):
        function = getattr(gpucnn.functional, name)

        def call(*arrays, backend="numpy", math=None, **settings):
            math = "fast" if backend == "numpy" and math is None else math
            return function(*arrays, backend=backend, math=math, **settings)

        return call


functional = _Fast()
