"""Batch norm and bias gradients on the readable GPU backend."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba_cuda.base import NumbaCudaBase
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import positions_per_band
from gpucnn.kernels.numba_cuda import norm


class NumbaCudaNorm(NumbaCudaBase):
    """See the protocol for what each method does."""

    def _sums(self, kernel, x: Batch, *arguments) -> tuple[Array, int]:
        """(part, bands) with a float64 sum for each channel, band and block of 16 images."""
        band = positions_per_band(x.spatial)
        bands = -(-math.prod(x.spatial) // band)
        part = self._part(x, bands, x.channels, np.float64)
        self._run_lanes(kernel, x.data.shape[0] * bands * x.channels, *arguments, part, x.images, band)
        return part, bands

    def bias_gradient(self, dy: Batch, out: Array) -> None:
        part, bands = self._sums(norm.value_sums, dy, self._pixels(dy))
        self._run(norm.sum_of, out.size, part, out, bands)

    def batch_norm_statistics(self, x: Batch) -> tuple[Array, Array, Array]:
        mean, var, unbiased = (self._empty((x.channels,)) for _ in range(3))
        mean64, count = self._empty((x.channels,), np.float64), _count(x)
        part, bands = self._sums(norm.value_sums, x, self._pixels(x))
        self._run(norm.mean_of, x.channels, part, bands, count, mean64, mean)
        part, bands = self._sums(norm.square_sums, x, self._pixels(x), mean64)
        self._run(norm.variance_of, x.channels, part, bands, count, np.float64(max(count - 1, 1)), var, unbiased)
        return mean, var, unbiased

    def batch_norm(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, relu: bool = False
    ) -> Batch:
        y = self._like(x)
        arguments = self._flat(x), mean, var, gamma, beta, np.float32(eps)
        self._run(norm.batch_norm, y.data.size, *arguments, self._flat(y), self._map_size(x), relu)
        return y

    def batch_norm_gradient(
        self, dy: Batch, x: Batch, mean: Array, var: Array, gamma: Array, eps: float, out_gamma: Array, out_beta: Array
    ) -> Batch:
        dx = self._like(x)
        dgamma_mean, dbeta_mean = self._empty((x.channels,)), self._empty((x.channels,))
        count, epsilon = _count(x), np.float32(eps)
        part, bands = self._sums(norm.product_sums, x, self._pixels(dy), self._pixels(x), mean, var, epsilon)
        self._run(norm.sum_and_mean_of, x.channels, part, bands, count, out_gamma, dgamma_mean)
        part, bands = self._sums(norm.value_sums, dy, self._pixels(dy))
        self._run(norm.sum_and_mean_of, x.channels, part, bands, count, out_beta, dbeta_mean)
        arguments = self._flat(dy), self._flat(x), mean, var, gamma, epsilon, dbeta_mean, dgamma_mean
        self._run(norm.batch_norm_gradient, dx.data.size, *arguments, self._flat(dx), self._map_size(x), x.images)
        return dx

    def channel_sums(self, x: Batch, y: Batch | None = None, center: Array | None = None) -> Array:
        out, rounded, count = self._empty((x.channels,), np.float64), self._empty((x.channels,)), np.float64(1)
        if y is not None:  # with mean 0 and deviation 1, y is its own xhat
            ones = self.array(np.ones(x.channels, np.float32))
            arguments = self._pixels(x), self._pixels(y), self.zeros((x.channels,)), ones, np.float32(0)
            part, bands = self._sums(norm.product_sums, x, *arguments)
        elif center is not None:
            part, bands = self._sums(norm.square_sums, x, self._pixels(x), center)
        else:
            part, bands = self._sums(norm.value_sums, x, self._pixels(x))
        self._run(norm.mean_of, x.channels, part, bands, count, out, rounded)
        return out

    def batch_norm_gradient_by_means(self, dy, x, mean, var, gamma, eps, gamma_mean, beta_mean) -> Batch:
        dx = self._like(x)
        arguments = self._flat(dy), self._flat(x), mean, var, gamma, np.float32(eps), beta_mean, gamma_mean
        self._run(norm.batch_norm_gradient, dx.data.size, *arguments, self._flat(dx), self._map_size(x), x.images)
        return dx

    def batch_norm_input_gradient(self, dy: Batch, var: Array, gamma: Array, eps: float) -> Batch:
        dx = self._like(dy)
        arguments = self._flat(dy), var, gamma, np.float32(eps)
        self._run(norm.batch_norm_input_gradient, dx.data.size, *arguments, self._flat(dx), self._map_size(dy))
        return dx


def _count(x: Batch) -> np.float64:
    """Images times positions."""
    return np.float64(x.images * math.prod(x.spatial))
