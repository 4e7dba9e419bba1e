"""Batch norm: rules 4 and 5."""

import numpy as np

from gpucnn.arithmetic import fma, rounded, total64
from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.numpy.norm import inverse_deviation, normalized, per_channel
from gpucnn.backends.protocol import Array


class ExactNorm(NumpyBase):
    """Part of NumpyExact; see the protocol for what each method does."""

    def batch_norm_statistics(self, x: Batch) -> tuple[Array, Array, Array]:
        count = x.data.size // x.channels
        mean = total64(x.data[..., 0]) / count
        deviation = x.data.astype(np.float64) - per_channel(mean, x)
        var = total64((deviation * deviation)[..., 0]) / count
        unbiased = var * count / max(count - 1, 1)
        with np.errstate(over="ignore"):  # a training that diverges is told so in a sentence
            return mean.astype(np.float32), var.astype(np.float32), unbiased.astype(np.float32)

    def batch_norm(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, relu: bool = False
    ) -> Batch:
        xhat, _ = normalized(x, per_channel(mean, x), per_channel(var, x), eps)
        return self.rectified(x.like(fma(per_channel(gamma, x), xhat, per_channel(beta, x))), relu)

    def batch_norm_gradient(
        self, dy: Batch, x: Batch, mean: Array, var: Array, gamma: Array, eps: float, out_gamma: Array, out_beta: Array
    ) -> Batch:
        count = x.data.size // x.channels
        xhat, _ = normalized(x, per_channel(mean, x), per_channel(var, x), eps)
        dbeta = total64(dy.data[..., 0])
        dgamma = total64((dy.data.astype(np.float64) * xhat)[..., 0])
        out_beta[...], out_gamma[...] = rounded(dbeta), rounded(dgamma)
        means = (dgamma / count).astype(np.float32), (dbeta / count).astype(np.float32)
        return self.batch_norm_gradient_by_means(dy, x, mean, var, gamma, eps, *means)

    def batch_norm_gradient_by_means(self, dy, x, mean, var, gamma, eps, gamma_mean, beta_mean) -> Batch:
        xhat, inv = normalized(x, per_channel(mean, x), per_channel(var, x), eps)
        a, b = per_channel(beta_mean, x), per_channel(gamma_mean, x)
        return dy.like((per_channel(gamma, x) * inv) * fma(-xhat, b, dy.data - a))

    def channel_sums(self, x: Batch, y: Batch | None = None, center: Array | None = None) -> Array:
        values = x.data.astype(np.float64)
        if y is not None:
            values = values * y.data
        elif center is not None:
            deviation = values - per_channel(center, x)
            values = deviation * deviation
        return total64(values[..., 0])

    def batch_norm_input_gradient(self, dy: Batch, var: Array, gamma: Array, eps: float) -> Batch:
        return dy.like(dy.data * per_channel(gamma * inverse_deviation(var, eps), dy))

    def update_running(self, running: Array, batch: Array, momentum: float) -> None:
        running[...] = fma(np.float32(momentum), batch - running, running)
