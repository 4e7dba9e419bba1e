"""Group norm and layer norm as launches of kernels/cuda/group_norm.cu."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import positions_per_band

_FILE = "group_norm.cu"
_LANES, _HALVES = 32, 2
_LINE_THREADS = 32, 8
_i32, _i64, _f32 = np.int32, np.int64, np.float32


class CudaGroupNorm:
    """See the protocol for what each method does."""

    def group_norm_statistics(self, x: Batch, groups: int) -> tuple[Batch, Batch]:
        blocks = x.data.shape[0]
        mean, var = (self._empty((blocks, groups, _LANES)) for _ in range(2))
        length = _i32(x.channels // groups * math.prod(x.spatial))
        given = self._data(x), mean, var, length
        self._run(_FILE, "group_norm_statistics", (blocks * groups,), _LINE_THREADS, *given)
        return x.like(mean), x.like(var)

    def group_norm(
        self, x: Batch, mean: Batch, var: Batch, gamma: Array | None, beta: Array | None, eps: float, relu: bool = False
    ) -> Batch:
        y = self._like(x)
        size = y.data.size
        given = self._data(x), self._data(mean), self._data(var), gamma, beta, _f32(eps), y.data
        sizes = _i32(x.channels), *_channels_and_positions(x, mean), _i32(relu), _i64(size)
        self._run(_FILE, "group_norm", (-(-size // 256),), (256,), *given, *sizes)
        return y

    def group_norm_gradient(
        self,
        dy: Batch,
        x: Batch,
        mean: Batch,
        var: Batch,
        gamma: Array | None,
        eps: float,
        out_gamma: Array | None,
        out_beta: Array | None,
    ) -> Batch:
        dx, groups, (channels, positions) = self._like(x), mean.channels, _channels_and_positions(x, mean)
        gradient, values, centre = self._data(dy), self._data(x), self._data(mean)
        blocks, size = x.data.shape[0], dx.data.size
        a, b, inv = (self._empty((blocks, groups, _LANES)) for _ in range(3))
        given = gradient, values, centre, self._data(var), gamma, _f32(eps), a, b, inv
        sizes = _i32(groups), channels, positions
        self._run(_FILE, "group_norm_means", (blocks * groups,), _LINE_THREADS, *given, *sizes)
        given = gradient, values, centre, inv, gamma, a, b, dx.data
        sizes = _i32(x.channels), channels, positions, _i64(size)
        self._run(_FILE, "group_norm_gradient", (-(-size // 256),), (256,), *given, *sizes)
        if gamma is not None:
            band = positions_per_band(x.spatial)
            bands = -(-int(positions) // band)
            part = self._empty((x.channels, 2, blocks * _HALVES, bands), np.float64)
            # As for batch norm: one warp a band where there are few channels, several where channels fill the GPU.
            parts = min(-(-blocks * bands // 8), -(-8 * self.launcher.processors // x.channels))
            given = gradient, values, centre, inv, out_gamma, out_beta, _i32(groups), channels
            sizes = _i32(x.images), _i32(blocks), positions, _i32(band), part, self._counters_of(x.channels, "alone")
            kernel = "group_norm_parameter_gradients"
            self._run(_FILE, kernel, (x.channels, parts), (_LANES, 8), *given, *sizes)
        return dx


def _channels_and_positions(x: Batch, mean: Batch) -> tuple[np.int32, np.int32]:
    """Channels of a group, and positions of a map."""
    return _i32(x.channels // mean.channels), _i32(math.prod(x.spatial))
