"""Clipping the gradient on the readable GPU backend."""

import numpy as np

from gpucnn.backends.numba_cuda.base import NumbaCudaBase
from gpucnn.backends.protocol import Array
from gpucnn.kernels.contract import BAND, BLOCK
from gpucnn.kernels.numba_cuda import clip
from gpucnn.kernels.numba_cuda.compiler import LANES


class NumbaCudaClip(NumbaCudaBase):
    """See the protocol for what each method does."""

    def clip_value(self, g: Array, limit: float) -> None:
        self._run(clip.clip_value, g.size, g, np.float32(limit))

    def clip_norm(self, g: Array, limit: float) -> None:
        blocks = -(-g.size // (BAND * BLOCK))
        part, scale = self._empty((blocks, 1), np.float64), self._empty((1,))
        self._run_lanes(clip.square_parts, -(-blocks * BLOCK // LANES), g, part)
        self._run(clip.norm_scale, 1, part, np.float64(np.float32(limit)), scale)
        self._run(clip.scale_all, g.size, g, scale)
