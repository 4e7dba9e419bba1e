"""Every operation in NumPy with BLAS, for speed or for float64: `get_backend("numpy", "fast", dtype=...)`.

Bits are not guaranteed: sums are in BLAS's and NumPy's order, so results are compared with float64 within the derived
bound `k * 2**-24 * sum(|x||w|)`.
"""

from gpucnn.backends.numpy.channels import NumpyChannels
from gpucnn.backends.numpy.elementwise import NumpyElementwise
from gpucnn.backends.numpy.fast.conv import FastConv
from gpucnn.backends.numpy.fast.elementwise import GRADIENTS, VALUES
from gpucnn.backends.numpy.fast.group_norm import FastGroupNorm
from gpucnn.backends.numpy.fast.loss import FastLoss
from gpucnn.backends.numpy.fast.map_loss import FastMapLoss
from gpucnn.backends.numpy.fast.norm import FastNorm
from gpucnn.backends.numpy.fast.optimizers import FastOptimizers
from gpucnn.backends.numpy.fast.pool import FastPool
from gpucnn.backends.numpy.pool import NumpyPool
from gpucnn.backends.numpy.resampling import NumpyResampling


class NumpyFast(
    FastConv,
    FastPool,
    FastNorm,
    FastGroupNorm,
    FastLoss,
    FastMapLoss,
    FastOptimizers,
    NumpyElementwise,
    NumpyPool,
    NumpyResampling,
    NumpyChannels,
):
    """The protocol of gpucnn.backends.protocol in BLAS and vectorized NumPy, float32 or float64."""

    math = "fast"
    values, gradients = VALUES, GRADIENTS
    fused = staticmethod(lambda a, b, c: a * b + c)
