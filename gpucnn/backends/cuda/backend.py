"""The operations of the protocol as launches of the kernels in kernels/cuda, on any Launcher."""

from gpucnn.backends.cuda.channels import CudaChannels
from gpucnn.backends.cuda.clip import CudaClip
from gpucnn.backends.cuda.conv import CudaConv
from gpucnn.backends.cuda.dense import CudaDense
from gpucnn.backends.cuda.elementwise import CudaElementwise
from gpucnn.backends.cuda.fused import CudaFused
from gpucnn.backends.cuda.group_norm import CudaGroupNorm
from gpucnn.backends.cuda.images import CudaImages
from gpucnn.backends.cuda.loss import CudaLoss
from gpucnn.backends.cuda.map_loss import CudaMapLoss
from gpucnn.backends.cuda.norm import CudaNorm
from gpucnn.backends.cuda.optimizers import CudaOptimizers
from gpucnn.backends.cuda.pool import CudaPool
from gpucnn.backends.cuda.random import CudaRandom
from gpucnn.backends.cuda.resampling import CudaResampling
from gpucnn.backends.cuda.shared import CudaShared


class CudaBackend(
    CudaFused,
    CudaShared,
    CudaImages,
    CudaConv,
    CudaDense,
    CudaPool,
    CudaElementwise,
    CudaNorm,
    CudaGroupNorm,
    CudaLoss,
    CudaMapLoss,
    CudaOptimizers,
    CudaClip,
    CudaChannels,
    CudaResampling,
    CudaRandom,
):
    """See the protocol for what each method does."""
