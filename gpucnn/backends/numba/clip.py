"""Clipping the gradient on the CPU backend."""

import numpy as np

from gpucnn.backends.numba.base import NumbaBase
from gpucnn.backends.protocol import Array
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba import clip, sums
from gpucnn.kernels.numba.simd import LANES


class NumbaClip(NumbaBase):
    """See the protocol for what each method does."""

    def clip_value(self, g: Array, limit: float) -> None:
        self._run(clip.clip_value, g, np.float32(limit))

    def clip_norm(self, g: Array, limit: float) -> None:
        blocks = -(-g.size // (BAND * LANES))
        part, slots = self._empty((blocks,), np.float64), self._empty((sums.levels(blocks),), np.float64)
        scale = self._empty((1,))
        self._run(clip.norm_parts, g, part)
        self._run(clip.norm_scale, part, slots, float(np.float32(limit)), scale)
        self._run(clip.scale_all, g, scale)
