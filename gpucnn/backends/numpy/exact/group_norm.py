"""Group norm and layer norm: rules 4 and 5."""

import numpy as np

from gpucnn.arithmetic import fma, image_sums64, rounded, total64
from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.numpy.norm import lines, normalized, per_channel, per_group
from gpucnn.backends.protocol import Array


class ExactGroupNorm(NumpyBase):
    """Part of NumpyExact; see the protocol for what each method does."""

    def group_norm_statistics(self, x: Batch, groups: int) -> tuple[Batch, Batch]:
        values = lines(x.data.astype(np.float64), groups)
        mean = image_sums64(values) / values.shape[2]
        deviation = values - mean[..., None]
        var = image_sums64(deviation * deviation) / values.shape[2]
        with np.errstate(over="ignore"):
            return self.batch(mean.astype(np.float32)), self.batch(var.astype(np.float32))

    def group_norm(
        self, x: Batch, mean: Batch, var: Batch, gamma: Array | None, beta: Array | None, eps: float, relu: bool = False
    ) -> Batch:
        xhat, _ = normalized(x, per_group(mean, x), per_group(var, x), eps)
        return self.rectified(x.like(fma(per_channel(gamma, x, 1), xhat, per_channel(beta, x))), relu)

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
            out_beta[...] = rounded(total64(dy.data[..., 0]))
            out_gamma[...] = rounded(total64((dy.data.astype(np.float64) * xhat)[..., 0]))
        g = per_channel(gamma, x, 1) * dy.data
        groups = mean.channels
        line = lines(g.astype(np.float64), groups)
        a = image_sums64(line) / line.shape[2]
        b = image_sums64(line * lines(xhat, groups)) / line.shape[2]
        a, b = (per_group(self.batch(value.astype(np.float32)), x) for value in (a, b))
        return dy.like(inv * fma(-xhat, b, g - a))
