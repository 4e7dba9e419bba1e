"""Clipping the gradient as launches of kernels/cuda/clip.cu."""

import numpy as np

from gpucnn.arithmetic.sums import BAND, BLOCK
from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import LANES, ceil_div, f32, i32, i64
from gpucnn.backends.protocol import Array


class CudaClip(CudaBase):
    """See the protocol for what each method does."""

    def clip_value(self, g: Array, limit: float) -> None:
        self._run("clip.cu", "clip_value", (ceil_div(g.size, 256),), (256,), g, f32(limit), i64(g.size))

    def clip_norm(self, g: Array, limit: float) -> None:
        blocks = ceil_div(g.size, BAND * BLOCK)
        part, scale = self._empty((blocks,), np.float64), self._empty((1,))
        numbers = np.float64(f32(limit)), i64(g.size), i32(blocks)
        grid = (ceil_div(blocks, 16),)
        self._run("clip.cu", "norm_scale", grid, (LANES, 8), g, scale, *numbers, part, self._counters_of(1))
        self._run("clip.cu", "scale_all", (ceil_div(g.size, 256),), (256,), g, scale, i64(g.size))
