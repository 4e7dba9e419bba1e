"""Global average pooling. The other kinds are in gpucnn/backends/numpy/pool.py."""

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase


class FastPool(NumpyBase):
    """Part of NumpyFast; see the protocol for what each method does."""

    def global_avg_pool(self, x: Batch) -> Batch:
        return self.batch(x.data.mean(tuple(range(2, x.data.ndim)), dtype=np.float64).astype(self.dtype))
