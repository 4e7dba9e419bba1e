"""Batch norm."""

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.numpy.norm import inverse_deviation, per_channel
from gpucnn.backends.protocol import Array


class FastNorm(NumpyBase):
    """Part of NumpyFast; see the protocol for what each method does."""

    def batch_norm_statistics(self, x: Batch) -> tuple[Array, Array, Array]:
        axes = all_but_channels(x)
        count = x.data.size // x.channels
        mean = x.data.mean(axes, dtype=np.float64)
        deviation = x.data - per_channel(mean, x)
        var = np.square(deviation, out=deviation).mean(axes)
        unbiased = var * count / (count - 1) if count > 1 else var  # one value has no spread: 0
        return mean.astype(self.dtype), var.astype(self.dtype), unbiased.astype(self.dtype)

    def batch_norm(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, relu: bool = False
    ) -> Batch:
        y = x.data - per_channel(mean, x)
        y *= per_channel(gamma * inverse_deviation(var, eps), x)
        y += per_channel(beta, x)
        return x.like(np.maximum(y, 0, out=y) if relu else y)

    def batch_norm_gradient(
        self, dy: Batch, x: Batch, mean: Array, var: Array, gamma: Array, eps: float, out_gamma: Array, out_beta: Array
    ) -> Batch:
        axes, inverse = all_but_channels(x), inverse_deviation(var, eps)
        xhat = (x.data - per_channel(mean, x)) * per_channel(inverse, x)
        dgamma = (dy.data * xhat).sum(axes, dtype=np.float64)
        dbeta = dy.data.sum(axes, dtype=np.float64)
        out_gamma[...], out_beta[...] = dgamma, dbeta
        count = x.data.size // x.channels
        xhat *= per_channel((dgamma / count).astype(self.dtype), x)
        dx = dy.data - per_channel((dbeta / count).astype(self.dtype), x)
        dx -= xhat
        dx *= per_channel(gamma * inverse, x)
        return dy.like(dx)

    def batch_norm_input_gradient(self, dy: Batch, var: Array, gamma: Array, eps: float) -> Batch:
        return dy.like(dy.data * per_channel(gamma * inverse_deviation(var, eps), dy))

    def update_running(self, running: Array, batch: Array, momentum: float) -> None:
        running += (batch - running) * running.dtype.type(momentum)


def all_but_channels(x: Batch) -> tuple[int, ...]:
    """The axes of `data` (N, C, *spatial, lane) over which sums over the batch run."""
    return (0, *range(2, x.data.ndim))
