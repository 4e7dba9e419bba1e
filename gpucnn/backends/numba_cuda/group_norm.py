"""Group norm and layer norm on the readable GPU backend."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba_cuda.norm import NumbaCudaNorm
from gpucnn.backends.protocol import Array
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba_cuda import group_norm as kernels
from gpucnn.kernels.numba_cuda import norm
from gpucnn.kernels.numba_cuda.compiler import LANES


class NumbaCudaGroupNorm(NumbaCudaNorm):
    """See LaneBackend for what each method does."""

    def _group_norm_statistics(self, x: Batch, mean: Batch, var: Batch) -> None:
        lines = self._data(x).reshape(len(x.data) * mean.channels, -1, LANES)
        count = np.float64(lines.shape[1])
        mean64, rest = (self._empty((mean.data.size,), np.float64) for _ in range(2))
        part = self._line_part(lines)
        self._run(norm.map_sums, part.size, lines, part, BAND)
        self._run(kernels.line_mean_of, mean64.size, part, count, mean64, self._flat(mean))
        self._run(kernels.line_square_sums, part.size, lines, mean64, part)
        self._run(kernels.line_mean_of, mean64.size, part, count, rest, self._flat(var))

    def _line_part(self, lines: Array) -> Array:
        """The partial sums over lines (lines, M, lane): (bands, lines * 32)."""
        return self._empty((-(-lines.shape[1] // BAND), lines.shape[0] * LANES), np.float64)

    def _group_norm(self, x, mean, var, gamma, beta, eps, y: Batch, relu: bool) -> None:
        gamma, beta = self._filled(gamma, x.channels, 1), self._filled(beta, x.channels, 0)
        arguments = self._flat(x), self._flat(mean), self._flat(var), gamma, beta, eps
        sizes = math.prod(x.spatial) * LANES, x.channels // mean.channels
        self._run(kernels.group_norm, y.data.size, *arguments, self._flat(y), *sizes, relu)

    def _group_norm_gradient(self, dy, x, mean, var, gamma, eps, out_gamma, out_beta, dx: Batch) -> None:
        channels, positions = x.channels // mean.channels, math.prod(x.spatial)
        statistics = self._flat(mean), self._flat(var)
        factor = self._filled(gamma, x.channels, 1)
        shape = x.data.shape[0] * mean.channels, -1, LANES
        gradient, values = self._data(dy).reshape(shape), self._data(x).reshape(shape)
        plain, weighted = self._line_part(values), self._line_part(values)
        sums = gradient, values, *statistics, factor, eps, plain, weighted, positions, channels
        self._run(kernels.line_gradient_sums, plain.size, *sums)
        unrounded = self._empty((mean.data.size,), np.float64)
        a, b = (self._empty((mean.data.size,)) for _ in range(2))
        count = np.float64(values.shape[1])
        self._run(kernels.line_mean_of, a.size, plain, count, unrounded, a)
        self._run(kernels.line_mean_of, b.size, weighted, count, unrounded, b)
        arguments = self._flat(dy), self._flat(x), *statistics, factor, eps, a, b, self._flat(dx)
        self._run(kernels.group_norm_gradient, dx.data.size, *arguments, positions * LANES, channels)
        if gamma is not None:
            maps = self._pixels(dy), self._pixels(x)
            part, bands = self._sums(kernels.group_product_sums, x, *maps, *statistics, eps, channels)
            self._run(norm.sum_of, x.channels, part, out_gamma, bands)
            self.bias_gradient(dy, out_beta)

    def _filled(self, values: Array | None, channels: int, filler: int) -> Array:
        return self.array(np.full(channels, filler, np.float32)) if values is None else values
