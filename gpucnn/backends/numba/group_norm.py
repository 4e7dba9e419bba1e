"""Group norm and layer norm on the CPU backend."""

import functools

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba.layout import flat
from gpucnn.backends.numba.norm import NumbaNorm
from gpucnn.backends.protocol import Array
from gpucnn.kernels.contract import BAND
from gpucnn.kernels.numba import group_norm as kernels
from gpucnn.kernels.numba import sums
from gpucnn.kernels.numba.simd import LANES

# Pieces into which a group's channels are divided for threads: enough for batches of one block.
_PARTS = 8


class NumbaGroupNorm(NumbaNorm):
    """See LaneBackend for what each method does."""

    def _group_norm_statistics(self, x: Batch, mean: Batch, var: Batch) -> None:
        data = self._data(x).reshape(x.data.shape[0], mean.channels, -1)
        self._run(kernels.group_norm_statistics, data, mean.data, var.data, self._lane_slots(data.shape))

    def _lane_slots(self, lines: tuple[int, int, int], *trees: int) -> np.ndarray:
        """Scratch sums for a tree over the bands of each line of M values; `lines` is (block, group, M * 16)."""
        bands = -(-lines[2] // (BAND * LANES))
        return self._empty((*lines[:2], *trees, sums.levels(bands), LANES), np.float64)

    def _group_norm(self, x, mean, var, gamma, beta, eps, y: Batch, relu: bool) -> None:
        gamma, beta = _filled(gamma, x.channels, 1), _filled(beta, x.channels, 0)
        statistics = self._data(mean), self._data(var)
        arguments = flat(self._data(x)), *statistics, gamma, beta, eps
        self._run(kernels.group_norm, *arguments, flat(y.data), relu, _parts(x, mean))

    def _group_norm_gradient(self, dy, x, mean, var, gamma, eps, out_gamma, out_beta, dx: Batch) -> None:
        groups = mean.channels
        gradient, values, center = flat(self._data(dy)), flat(self._data(x)), self._data(mean)
        factor = _filled(gamma, x.channels, 1)
        a, b, inv = (self._empty((len(values), groups, LANES)) for _ in range(3))
        lines = len(values), groups, values[0].size // groups
        inputs = gradient, values, center, self._data(var), factor, eps
        self._run(kernels.group_norm_means, *inputs, a, b, inv, self._lane_slots(lines, 2))
        arguments = gradient, values, center, inv
        self._run(kernels.group_norm_gradient, *arguments, factor, a, b, flat(dx.data), _parts(x, mean))
        if gamma is not None:
            outputs = out_gamma, out_beta, self._part64(x, 2), *self._summing(x, 2)
            self._run(kernels.group_norm_parameter_gradients, *arguments, *outputs)


def _parts(x: Batch, mean: Batch) -> int:
    return min(x.channels // mean.channels, _PARTS)


def _filled(values: Array | None, channels: int, filler: int) -> Array:
    return _constant(channels, filler) if values is None else values


@functools.cache
def _constant(channels: int, filler: int) -> np.ndarray:
    return np.full(channels, filler, np.float32)
