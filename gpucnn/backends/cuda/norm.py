"""Batch norm and bias gradients as launches of kernels/cuda/norm.cu."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import HALVES, LANES, ceil_div, f32, i32
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import positions_per_band


class CudaNorm(CudaBase):
    """See the protocol for what each method does."""

    def _sum_channels(
        self, kernel: str, sums: int, x: Batch, *arguments, overlap: tuple = (), file: str = "norm.cu"
    ) -> None:
        """A kernel that sums over each channel of maps like x."""
        blocks, positions, band = x.data.shape[0], math.prod(x.spatial), positions_per_band(x.spatial)
        bands = ceil_div(positions, band)
        part = self._empty((x.channels, sums, blocks * HALVES, bands), np.float64)
        # One warp per band for few channels, several bands per warp if channels fill the GPU.
        parts = min(ceil_div(blocks * bands, 8), ceil_div(8 * self.launcher.processors, x.channels))
        sizes = [i32(size) for size in (x.images, blocks, positions, band)]
        grid = x.channels, parts
        # Kernels that may run at the same time must not share counters.
        counters = self._counters_of(x.channels, "overlap" if overlap else "alone")
        if overlap:
            overlap = *overlap, part, counters
        self._run(file, kernel, grid, (LANES, 8), *arguments, *sizes, part, counters, overlap=overlap)

    def _over_maps(self, kernel: str, results: Array, *arguments, channels: int = 0) -> None:
        """A kernel of norm.cu that walks each map of `results`, about four values per thread."""
        maps, positions = results.shape[0] * results.shape[1], math.prod(results.shape[2:-1])
        grid = maps, min(ceil_div(positions, 32), 65535)
        sizes = (i32(channels), i32(positions)) if channels else (i32(positions),)
        self._run("norm.cu", kernel, grid, (256,), *arguments, *sizes)

    def bias_gradient(self, dy: Batch, out: Array) -> None:
        self._sum_channels("bias_gradient", 1, dy, self._data(dy), out, overlap=(out,))

    def batch_norm_statistics(self, x: Batch) -> tuple[Array, Array, Array]:
        mean, var, unbiased = (self._empty((x.channels,)) for _ in range(3))
        mean64, data = self._empty((x.channels,), np.float64), self._data(x)
        self._sum_channels("batch_norm_mean", 1, x, data, mean64, mean)
        self._sum_channels("batch_norm_variance", 1, x, data, mean64, var, unbiased)
        return mean, var, unbiased

    def batch_norm(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, relu: bool = False
    ) -> Batch:
        y = self._like(x)
        maps, positions = x.data.shape[0] * x.channels, math.prod(x.spatial)
        arguments = self._data(x), mean, var, gamma, beta, f32(eps), y.data
        sizes = i32(x.channels), i32(positions), i32(relu)
        self._run("norm.cu", "batch_norm", (maps, min(ceil_div(positions, 32), 65535)), (256,), *arguments, *sizes)
        return y

    def batch_norm_gradient(
        self, dy: Batch, x: Batch, mean: Array, var: Array, gamma: Array, eps: float, out_gamma: Array, out_beta: Array
    ) -> Batch:
        dx = self._like(x)
        gradient, values = self._data(dy), self._data(x)
        means = self._empty((x.channels,)), self._empty((x.channels,))
        sums = gradient, values, mean, var, f32(eps), out_gamma, out_beta, *means
        self._sum_channels("batch_norm_sums", 2, x, *sums)
        arguments = gradient, values, mean, var, gamma, f32(eps), *means, dx.data, i32(x.images)
        self._over_maps("batch_norm_gradient", dx.data, *arguments, channels=x.channels)
        return dx

    def channel_sums(self, x: Batch, y: Batch | None = None, center: Array | None = None) -> Array:
        out = self._empty((x.channels,), np.float64)
        kernel, others = "value_sums", []
        if y is not None:
            kernel, others = "product_sums", [self._data(y)]
        elif center is not None:
            kernel, others = "square_sums", [center]
        self._sum_channels(kernel, 1, x, self._data(x), *others, out, file="channel_sums.cu")
        return out

    def batch_norm_gradient_by_means(self, dy, x, mean, var, gamma, eps, gamma_mean, beta_mean) -> Batch:
        dx = self._like(x)
        arguments = self._data(dy), self._data(x), mean, var, gamma, f32(eps), gamma_mean, beta_mean, dx.data
        self._over_maps("batch_norm_gradient", dx.data, *arguments, i32(x.images), channels=x.channels)
        return dx

    def batch_norm_input_gradient(self, dy: Batch, var: Array, gamma: Array, eps: float) -> Batch:
        dx = self._like(dy)
        arguments = self._data(dy), var, gamma, f32(eps), dx.data
        self._over_maps("batch_norm_input_gradient", dx.data, *arguments, channels=dy.channels)
        return dx
