"""The specification: kernels/CONTRACT.md as programs, one file per family of operations, written to be read."""

import numpy as np

from gpucnn.arithmetic import assert_subnormals, fma
from gpucnn.backends.numpy.channels import NumpyChannels
from gpucnn.backends.numpy.elementwise import NumpyElementwise
from gpucnn.backends.numpy.exact.conv import ExactConv
from gpucnn.backends.numpy.exact.elementwise import GRADIENTS, VALUES
from gpucnn.backends.numpy.exact.group_norm import ExactGroupNorm
from gpucnn.backends.numpy.exact.loss import ExactLoss
from gpucnn.backends.numpy.exact.map_loss import ExactMapLoss
from gpucnn.backends.numpy.exact.norm import ExactNorm
from gpucnn.backends.numpy.exact.optimizers import ExactOptimizers
from gpucnn.backends.numpy.exact.pool import ExactPool
from gpucnn.backends.numpy.pool import NumpyPool
from gpucnn.backends.numpy.resampling import NumpyResampling
from gpucnn.backends.shared import SharedSums


class NumpyExact(
    SharedSums,
    ExactConv,
    ExactPool,
    ExactNorm,
    ExactGroupNorm,
    ExactLoss,
    ExactMapLoss,
    ExactOptimizers,
    NumpyElementwise,
    NumpyPool,
    NumpyResampling,
    NumpyChannels,
):
    """The protocol of gpucnn.backends.protocol, to the bit, in float32."""

    math = "exact"
    values, gradients, fused = VALUES, GRADIENTS, staticmethod(fma)

    def __init__(self, *, threads: int = 1, dtype=np.float32):
        """RuntimeError if this process flushes subnormals. `threads` is ignored: one is used."""
        assert_subnormals()
        super().__init__(threads=1, dtype=dtype)
