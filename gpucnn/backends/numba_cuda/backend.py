"""The readable GPU backend: kernels in Python, one thread per value, exact float32, 32 images side by side."""

from gpucnn.backends.numba_cuda.channels import NumbaCudaChannels
from gpucnn.backends.numba_cuda.clip import NumbaCudaClip
from gpucnn.backends.numba_cuda.conv import NumbaCudaConv
from gpucnn.backends.numba_cuda.dense import NumbaCudaDense
from gpucnn.backends.numba_cuda.elementwise import NumbaCudaElementwise
from gpucnn.backends.numba_cuda.group_norm import NumbaCudaGroupNorm
from gpucnn.backends.numba_cuda.images import NumbaCudaImages
from gpucnn.backends.numba_cuda.loss import NumbaCudaLoss
from gpucnn.backends.numba_cuda.map_loss import NumbaCudaMapLoss
from gpucnn.backends.numba_cuda.norm import NumbaCudaNorm
from gpucnn.backends.numba_cuda.optimizers import NumbaCudaOptimizers
from gpucnn.backends.numba_cuda.pool import NumbaCudaPool
from gpucnn.backends.numba_cuda.random import NumbaCudaRandom
from gpucnn.backends.numba_cuda.resampling import NumbaCudaResampling


class NumbaCudaBackend(
    NumbaCudaImages,
    NumbaCudaConv,
    NumbaCudaDense,
    NumbaCudaPool,
    NumbaCudaElementwise,
    NumbaCudaGroupNorm,
    NumbaCudaNorm,
    NumbaCudaLoss,
    NumbaCudaMapLoss,
    NumbaCudaOptimizers,
    NumbaCudaClip,
    NumbaCudaChannels,
    NumbaCudaResampling,
    NumbaCudaRandom,
):
    """See the protocol for what each method does."""
