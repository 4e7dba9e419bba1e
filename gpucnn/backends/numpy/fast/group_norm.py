"""Group norm and layer norm."""

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.numpy.fast.norm import all_but_channels
from gpucnn.backends.numpy.norm import lines, normalized, per_channel, per_group
from gpucnn.backends.protocol import Array


class FastGroupNorm(NumpyBase):
    """Part of NumpyFast; see the protocol for what each method does."""

    def group_norm_statistics(self, x: Batch, groups: int) -> tuple[Batch, Batch]:
        values = lines(x.data, groups)
        mean = values.mean(2, dtype=np.float64)
        deviation = values - mean[..., None]
        var = np.square(deviation, out=deviation).mean(2)
        return self.batch(mean.astype(self.dtype)), self.batch(var.astype(self.dtype))

    def group_norm(
        self, x: Batch, mean: Batch, var: Batch, gamma: Array | None, beta: Array | None, eps: float, relu: bool = False
    ) -> Batch:
        y, _ = normalized(x, per_group(mean, x), per_group(var, x), eps)
        y *= per_channel(gamma, x, 1)
        y += per_channel(beta, x)
        return x.like(np.maximum(y, 0, out=y) if relu else y)

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
        xhat, inv = normalized(x, per_group(mean, x), per_group(var, x), eps)
        if out_gamma is not None and out_beta is not None:
            axes = all_but_channels(x)
            out_beta[...] = dy.data.sum(axes, dtype=np.float64)
            out_gamma[...] = (dy.data * xhat).sum(axes, dtype=np.float64)
        g = per_channel(gamma, x, 1) * dy.data
        a = lines(g, mean.channels).mean(2, dtype=np.float64)
        b = lines(g * xhat, mean.channels).mean(2, dtype=np.float64)
        a, b = (per_group(self.batch(value.astype(self.dtype)), x) for value in (a, b))
        return dy.like(inv * (g - a - xhat * b))
