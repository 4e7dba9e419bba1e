"""The CPU backend: exact float32 at full speed on all cores, 16 images to a vector."""

from gpucnn.backends.numba.channels import NumbaChannels
from gpucnn.backends.numba.clip import NumbaClip
from gpucnn.backends.numba.conv import NumbaConv
from gpucnn.backends.numba.dense import NumbaDense
from gpucnn.backends.numba.elementwise import NumbaElementwise
from gpucnn.backends.numba.group_norm import NumbaGroupNorm
from gpucnn.backends.numba.images import NumbaImages
from gpucnn.backends.numba.inference import NumbaInference
from gpucnn.backends.numba.loss import NumbaLoss
from gpucnn.backends.numba.map_loss import NumbaMapLoss
from gpucnn.backends.numba.optimizers import NumbaOptimizers
from gpucnn.backends.numba.pool import NumbaPool
from gpucnn.backends.numba.random import NumbaRandom
from gpucnn.backends.numba.resampling import NumbaResampling
from gpucnn.backends.shared import SharedSums


class NumbaBackend(
    SharedSums,
    NumbaInference,
    NumbaImages,
    NumbaConv,
    NumbaDense,
    NumbaPool,
    NumbaElementwise,
    NumbaGroupNorm,
    NumbaLoss,
    NumbaMapLoss,
    NumbaOptimizers,
    NumbaClip,
    NumbaChannels,
    NumbaResampling,
    NumbaRandom,
):
    """See the protocol for what each method does."""
