"""Global average pooling: rule 4. The other kinds are in gpucnn/backends/numpy/pool.py."""

import math

from gpucnn.arithmetic import image_sums64, rounded
from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase


class ExactPool(NumpyBase):
    """Part of NumpyExact; see the protocol for what each method does."""

    def global_avg_pool(self, x: Batch) -> Batch:
        return self.batch(rounded(image_sums64(x.data[..., 0]) / math.prod(x.spatial)))
